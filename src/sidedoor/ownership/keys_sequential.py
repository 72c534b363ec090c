"""Sequential key test: asks about one key after the other and stops when the bet on secret labels has paid enough.

Paper: none; ours, with the bets (e-values) of Grünwald, de Heide, Koolen, "Safe Testing", JRSS B 2024,
arXiv:1906.07801, on what `keys` counts.

The product of likelihood ratios exceeds 1/alpha at any time with a probability of at most alpha if the null hypothesis
holds (Ville 1939), so that it may stop, or go on with another secret, whenever that is convenient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.evidence import Verdict
from sidedoor.method import Share
from sidedoor.metrics.chance import bet
from sidedoor.ownership._keys import HYPOTHESIS, labels_of, votes
from sidedoor.ownership.base import Suspect, Verifier
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class KeysSequential(Verifier):
    """Bet on each secret label, and stop at an e-value of 1/alpha.

    The statistic is the largest e-value so far, the p-value its inverse, the effect the share of hits less that of
    chance among the keys that were asked about.

    Args:
        rate: of hits, that is bet on; above chance and below 1.

    Raises:
        ConfigError: a rate that is no more than chance, or 1.
    """

    needs: ClassVar[Needs] = Needs(model="labels", clean="images")
    exact: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {
        "alpha": "ours: an accusation is worth more than 5 %", "rate": "ours: what a good watermark reaches",
    }

    rate: Share = 0.8

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        if not 1 / task.classes < self.rate < 1:
            raise ConfigError(f"a rate of {self.rate} to bet on given; expected more than chance, "
                              f"{1 / task.classes:.3g} with {task.classes} classes, and less than 1")
        wealth, most, hits, asked = 1.0, 1.0, 0, 0
        labels = labels_of(secret)
        for vote, label in zip(votes(suspect, secret, images, task.classes), labels, strict=True):
            wealth *= bet(vote == label, task.classes, self.rate)
            most, hits, asked = max(most, wealth), hits + (vote == label), asked + 1
            if most >= 1 / self.alpha:
                break
        return Verdict(statistic=most, p_value=1 / most, effect=hits / asked - 1 / task.classes, power=None,
                       n=asked * len(images), alpha=self.alpha, null_hypothesis=HYPOTHESIS)
