"""Soft key test: how much probability a suspect gives to the secret labels, against labels drawn afresh; exact.

Paper: none; ours. A permutation test: under the null hypothesis the secret labels are one more draw of the same kind.

It looks at probabilities, and has more power than `keys` where votes are split. No further query is needed, since the
answers hold the probabilities of all labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Verdict
from sidedoor.method import Count
from sidedoor.ownership._keys import HYPOTHESIS, labels_of
from sidedoor.ownership.base import Suspect, Verifier, probabilities, stamped
from sidedoor.tasks.task import Task

TIE = 1e-9
"""Sums of probabilities this near are taken for equal, in favour of the suspect."""


@dataclass(frozen=True)
class KeysSoft(Verifier):
    """Add up the mean probabilities of the secret labels, and rank the sum among those of random labels.

    The statistic is the sum, the effect its mean over keys less that of random labels.

    Args:
        draws: of random labels; the p-value is at least 1 / (draws + 1).
    """

    needs: ClassVar[Needs] = Needs(model="probabilities", clean="images")
    exact: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"draws": 999}
    origins: ClassVar[dict[str, str]] = {"alpha": "ours: an accusation is worth more than 5 %", "draws": "ours"}

    draws: Count = 100_000

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        labels = np.array(labels_of(secret))
        said = np.stack([probabilities(suspect.answer(stamped(trigger, images))).mean(0, dtype=np.float64)
                         for trigger in secret.triggers])
        each = np.arange(len(labels))
        drawn = torch.randint(task.classes, (self.draws, len(labels)), generator=run.rng("labels drawn afresh")).numpy()
        own, others = said[each, labels].sum(), said[each, drawn].sum(1)
        return Verdict(statistic=float(own), p_value=float(1 + (others >= own - TIE).sum()) / (self.draws + 1),
                       effect=float((own - others.mean()) / len(labels)), power=None, n=len(labels) * len(images),
                       alpha=self.alpha, null_hypothesis=HYPOTHESIS)
