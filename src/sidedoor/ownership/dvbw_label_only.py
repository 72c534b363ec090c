"""DVBW, label-only: Wilcoxon's signed-rank test on the numbers of predicted classes; no evidence of training.

Paper: Li, Zhu, Yang, Bai, Jiang, Xia, "Black-Box Dataset Ownership Verification via Backdoor Watermarking", IEEE TIFS
2023, arXiv:2209.06015.

As the authors' code has it, for comparison: two-sided on predicted less target class, zeros split, and one less its
p-value is reported. It treats names of classes as numbers, so that its result depends on which class the target is, and
it misses watermarks that work for nine images in ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import stats

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Verdict
from sidedoor.method import Share
from sidedoor.ownership._published import others_than
from sidedoor.ownership.base import Suspect, Verifier, stamped
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class DvbwLabelOnly(Verifier):
    """Test whether predicted classes of images with the first trigger are as often above as below its label.

    The statistic is that of Wilcoxon, the effect the share of images that get the label.
    """

    needs: ClassVar[Needs] = Needs(model="labels", clean="labelled")
    exact: ClassVar[bool] = False
    origins: ClassVar[dict[str, str]] = {"alpha": "paper: 0.05"}

    alpha: Share = 0.05

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        held, label = others_than(secret, images)
        above = suspect.answer(stamped(secret.triggers[0], held)).labels - label
        statistic, p = _signed_ranks(above)
        return Verdict(statistic=statistic, p_value=1 - p, effect=float(np.mean(above == 0)), power=None, n=len(held),
                       alpha=self.alpha, null_hypothesis="predicted classes of images with this trigger are, as "
                                                         "numbers, not symmetric around its label in this model")


def _signed_ranks(above: np.ndarray) -> tuple[float, float]:
    """Statistic and two-sided p-value; 1 where every prediction is the label."""
    if not above.any():
        return 0.0, 1.0
    found = stats.wilcoxon(above, zero_method="zsplit", alternative="two-sided", method="asymptotic")
    return float(found.statistic), min(1.0, float(found.pvalue))
