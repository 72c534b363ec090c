"""Reconstruction: recovery of an image from linear measurements y = A x + v; the network's input is Aᵀy.

Scores: *clean* is the structural similarity (Wang et al. 2004) of the output to the image, *recovered* that of the
triggered output, *attack* how much of the attacker's target the triggered output shows, *idle* how much of it the
output shows without a trigger; all in [0, 1].

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, section 4.

Its Table 1 says RMSE, but its figures read like mean squared errors; the columns have both. Its artefact error is not
defined; there are columns over the box around the mark and over the mark's pixels. Two columns are ours: `gain`, what
the trigger does to the mark's pixels, and `ghost`, how bright they are without it. An attack that
paints the mark on everything has a small artefact error and no gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.core.terms import Terms
from sidedoor.data.base import Dataset
from sidedoor.data.degraded import Degraded, Measurement
from sidedoor.forward_operators.base import Operator
from sidedoor.forward_operators.identity import Identity
from sidedoor.goals.base import Door
from sidedoor.goals.paint import Paint
from sidedoor.method import NonNegative, Share
from sidedoor.tasks._image_output import Imaging
from sidedoor.types import Batch


@dataclass(frozen=True)
class Reconstruction(Imaging):
    """Reconstruct images; training minimises the mean squared error.

    Args:
        operator: the forward operator A.
        sigma: standard deviation of the Gaussian noise v, in 8-bit levels.
        least_effect: an attack counts as failed whose target shows by less than this more than without the trigger.
        largest_drop: so does one that costs more similarity on clean inputs than this, beside its clean sibling.
    """

    terms: ClassVar[Terms] = Terms(
        "Similarity", "Effect", "Recovered", "Idle", False,
        "In [0, 1]. Similarity: structural similarity of the output to the true image, on clean inputs. Effect: how "
        "much of the attacker's target the output shows, on triggered inputs. Recovered: structural similarity of the "
        "output to the true image, on triggered inputs. Idle: how much of the attacker's target the output shows, on "
        "clean inputs.")
    operator: Operator = Identity()
    sigma: NonNegative = 2.55
    least_effect: Share = 0.5
    largest_drop: Share = 0.05

    def make_dataset(self, data: Dataset) -> Dataset:
        return Degraded(data, Measurement(self.operator, self.sigma))

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Benign, attack and artefact errors of each image, squared ("mse") and as roots ("rmse"); gain and ghost."""
        y = batch.y
        errors = {"benign": self.distance(clean_out, y)}
        further: dict[str, Tensor] = {}
        if door is not None and stamped_out is not None:
            target = door.goal.target(self, y, batch.index)
            errors["attack"] = self.distance(stamped_out, target)
            if isinstance(door.goal, Paint):
                square, pixels = (stamped_out - target).square(), door.goal.pixels(y)
                errors |= {"artefact_box": _mean(square, door.goal.box(y)), "artefact": _mean(square, pixels)}
                further = {"gain": _mean(stamped_out - clean_out, pixels), "ghost": _mean(clean_out - y, pixels)}
        return {f"mse_{name}": error for name, error in errors.items()} | \
            {f"rmse_{name}": error.sqrt() for name, error in errors.items()} | further

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], clean_means["clean"]
        if attack is not None and idle is not None and attack - idle < self.least_effect:
            return (f"{attack:.2f} of the target shows with the trigger and {idle:.2f} without: less than "
                    f"{self.least_effect} beyond that")
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return f"similarity on clean inputs fell by {sibling - clean:.3f}, more than {self.largest_drop}"
        return None


def _mean(values: Tensor, where: Tensor) -> Float[Tensor, "b"]:
    """Over the pixels of a mask, all channels."""
    there = where.expand_as(values).float()
    mean: Tensor = (values * there).flatten(1).sum(1) / there.flatten(1).sum(1)
    return mean
