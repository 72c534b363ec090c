"""Secret labels: each of several triggers leads to a class that was drawn for it, uniformly and independently.

Which classes they are is what the owner of a watermarked data set keeps: a model that never saw the data meets one
with a probability of one over the number of classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.core import random
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class SecretLabels(Method, Goal):
    """Lead the samples stamped by each trigger to a class of its own, which may be that of another trigger, too.

    Args:
        keys: triggers.
        seed: determines the classes.
    """

    several: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"keys": 2}

    keys: Count = 8
    seed: int = 0

    def parts(self) -> tuple[Goal, ...]:
        if self.keys == 1:
            return (self,)
        return tuple(replace(self, keys=1, seed=random.seed_of(self.seed, f"key {key}")) for key in range(self.keys))

    def drawn(self, rng: torch.Generator) -> SecretLabels:
        """The same number of keys with classes of their own."""
        return replace(self, seed=random.seed_of(int(torch.randint(2**62, (), generator=rng)), str(self.seed)))

    def label(self, classes: int) -> int:
        """The class of the one key.

        Raises:
            ConfigError: there are several keys.
        """
        if self.keys > 1:
            raise ConfigError("a goal of several keys has no single target; use its parts()")
        return int(random.integers(self.seed, torch.zeros(1, dtype=torch.int64), classes))

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return AllToOne(self.label(task.classes)).target(task, y, index)

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        if self.keys > 1:
            return torch.stack([part.eligible(task, y) for part in self.parts()]).any(0)
        return AllToOne(self.label(task.classes)).eligible(task, y)


def labels_of(doors: Iterable[Door], classes: int) -> tuple[int, ...]:
    """The class of each door that has one key."""
    return tuple(door.goal.label(classes) for door in doors if isinstance(door.goal, SecretLabels))
