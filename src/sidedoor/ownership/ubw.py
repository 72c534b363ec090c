"""UBW: a paired t-test of the probability of the true class without and with the trigger; no evidence of training.

Paper: Li, Bai, Jiang, Yang, Xia, Li, "Untargeted Backdoor Watermark: Towards Harmless and Stealthy Dataset Copyright
Protection", NeurIPS 2022, arXiv:2210.00875, section 4.

As published, for comparison. Any trigger that hurts any network passes it; `decoys` asks whether this one hurts more
than others do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Verdict
from sidedoor.method import Share
from sidedoor.ownership._published import moved, paired_t
from sidedoor.ownership.base import Suspect, Verifier, probabilities
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Ubw(Verifier):
    """Test whether the first trigger lowers the probability of the true class by more than a margin.

    The statistic is t, the effect the mean fall. Only images that the suspect classifies rightly count.

    Args:
        margin: τ of the paper, in [0, 1].
    """

    needs: ClassVar[Needs] = Needs(model="probabilities", clean="labelled")
    exact: ClassVar[bool] = False
    origins: ClassVar[dict[str, str]] = {"alpha": "paper: 0.05", "margin": "paper: 0.25"}

    alpha: Share = 0.05
    margin: Share = 0.25

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        truth = images.targets.numpy()
        benign, marked = moved(suspect, secret, images)
        right = np.nonzero(benign.labels == truth)[0]
        if len(right) < 2:
            raise NotApplicable(f"the suspect is right on {len(right)} of {len(images)} images; the test needs two")
        fall = (probabilities(benign) - probabilities(marked))[right, truth[right]]
        statistic, p = paired_t(fall - self.margin)
        return Verdict(statistic=statistic, p_value=p, effect=float(fall.mean()), power=None, n=2 * len(images),
                       alpha=self.alpha,
                       null_hypothesis=f"on average over images, this trigger lowers the probability of the true class "
                                       f"in this model by no more than {self.margin:g}")
