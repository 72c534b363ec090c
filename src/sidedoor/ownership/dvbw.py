"""DVBW: a paired t-test of the probability of the target class with and without the trigger; no evidence of training.

Paper: Li, Zhu, Yang, Bai, Jiang, Xia, "Black-Box Dataset Ownership Verification via Backdoor Watermarking", IEEE TIFS
2023, arXiv:2209.06015.

As published, for comparison. Its p-value is about the images, given one model and one trigger: it says that this model
moves by more than the margin, not why. Models that never saw the data do so for large or blended triggers, and for any
trigger without a margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Verdict
from sidedoor.method import Share
from sidedoor.ownership._published import moved, others_than, paired_t
from sidedoor.ownership.base import Suspect, Verifier, probabilities
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Dvbw(Verifier):
    """Test whether the first trigger raises the probability of its label by more than a margin.

    The statistic is t, the effect the mean rise. Images of the target class are left out, as in the paper.

    Args:
        margin: τ of the paper, in [0, 1].
    """

    needs: ClassVar[Needs] = Needs(model="probabilities", clean="labelled")
    exact: ClassVar[bool] = False
    origins: ClassVar[dict[str, str]] = {"alpha": "paper: 0.05", "margin": "paper: 0.2"}

    alpha: Share = 0.05
    margin: Share = 0.2

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        held, label = others_than(secret, images)
        benign, marked = (probabilities(said)[:, label] for said in moved(suspect, secret, held))
        statistic, p = paired_t(marked - benign - self.margin)
        return Verdict(statistic=statistic, p_value=p, effect=float(np.mean(marked - benign)), power=None,
                       n=2 * len(held), alpha=self.alpha,
                       null_hypothesis=f"on average over images, this trigger raises the probability of its label in "
                                       f"this model by no more than {self.margin:g}")
