"""Decoy test: whether a suspect reacts to the owner's trigger more than to others of the same generator; exact.

Paper: none; ours. Conformal p-values: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005.

Any network reacts to many triggers, and the tests of the papers take that for theft. Decoys of the same generator, kept
by the owner and used nowhere, show how much: if the suspect owes nothing to the data, the rank of the trigger among
them is uniform, whatever the suspect is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Verdict
from sidedoor.metrics.hypothesis import conformal_p, needed
from sidedoor.ownership.base import Suspect, Verifier, stamped
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger


@dataclass(frozen=True)
class Decoys(Verifier):
    """Rank the owner's trigger among decoys by how often images with it are answered wrongly, or with its label.

    The statistic is that share of images, the effect what it is above the decoys' mean.
    """

    needs: ClassVar[Needs] = Needs(model="labels", clean="labelled")
    exact: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"alpha": "ours: the least that 99 decoys allow"}

    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        if len(secret.triggers) > 1:
            raise NotApplicable(f"{len(secret.triggers)} triggers given; the test ranks one among its decoys. Several "
                                "with secret labels are for keys")
        if len(secret.decoys) < needed(self.alpha):
            raise NotApplicable(f"{len(secret.decoys)} decoys given; a level of {self.alpha:g} needs "
                                f"{needed(self.alpha)}")
        sought = np.array(secret.labels[0]) if secret.labels else None

        def reaction(trigger: Trigger) -> float:
            labels: Int64[np.ndarray, "n"] = suspect.answer(stamped(trigger, images)).labels
            reached = labels != images.targets.numpy() if sought is None else labels == sought
            return float(reached.mean())

        own, others = reaction(secret.triggers[0]), [reaction(decoy) for decoy in secret.decoys]
        return Verdict(statistic=own, p_value=conformal_p(own, others), effect=own - float(np.mean(others)), power=None,
                       n=(1 + len(others)) * len(images), alpha=self.alpha,
                       null_hypothesis="the owner's trigger is to the suspect one of many that could as well have been "
                                       "drawn: it owes nothing to the marked data")
