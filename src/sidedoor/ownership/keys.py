"""Key test: how many secret labels a suspect gives for the owner's triggers, against chance in the labels; exact.

Paper: none; ours. Chance lies in labels that the owner drew and sealed, as in Bouaziz, Usunier, El-Mhamdi, "Data
Taggants: Dataset Ownership Verification via Harmless Targeted Data Poisoning", ICLR 2025, arXiv:2410.09101.

Under the null hypothesis the labels are uniform, independent of each other and of all answers, so that the number of
keys that are met is binomial whatever the suspect is, whatever the images are, and even if it answers a trigger as any
network would. Needed for that are labels that nobody knew, and images, numbers and the rule for ties that were decided
without looking at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Verdict
from sidedoor.metrics.chance import hits_p
from sidedoor.ownership._keys import HYPOTHESIS, labels_of, votes
from sidedoor.ownership.base import Suspect, Verifier
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Keys(Verifier):
    """Count the keys for which most images get the secret label.

    The statistic is that number, the effect its share less that of chance.
    """

    needs: ClassVar[Needs] = Needs(model="labels", clean="images")
    exact: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"alpha": "ours: an accusation is worth more than 5 %"}

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        labels = labels_of(secret)
        met = [vote == label for vote, label in zip(votes(suspect, secret, images, task.classes), labels, strict=True)]
        hits, keys = sum(met), len(met)
        return Verdict(statistic=float(hits), p_value=hits_p(hits, keys, task.classes), power=None,
                       effect=hits / keys - 1 / task.classes, n=keys * len(images), alpha=self.alpha,
                       null_hypothesis=HYPOTHESIS)
