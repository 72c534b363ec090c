"""Selection of the rows to poison. A rate is always a share of the eligible samples."""

from __future__ import annotations

import torch
from torch import Tensor

from sidedoor.backdoor.base import Poison
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Task


def random(train: Dataset, task: Task, doors: tuple[Door, ...], rate: float, rng: torch.Generator) -> Poison:
    """Poison a share of the eligible samples; each gets one of the doors it is eligible for, at random."""
    eligible = torch.stack([door.goal.eligible(task, train.targets) for door in doors])
    index = _draw(eligible.any(0), rate, rng, "eligible")
    priority = torch.rand(eligible.shape, generator=rng)[:, index]
    door = torch.where(eligible[:, index], priority, -1.0).argmax(0)
    return Poison(index, door, torch.zeros(len(index), dtype=torch.bool), rate=rate)


def of_class(train: Dataset, doors: tuple[Door, ...], labels: tuple[int, ...], rate: float,
             rng: torch.Generator) -> Poison:
    """Stamp a share of the samples of `labels[k]` with door k and leave their labels alone (clean label)."""
    _known(train, labels)
    drawn = [_draw(train.targets == label, rate, rng, f"class {label}") for label in labels]
    door = torch.cat([torch.full_like(rows, k) for k, rows in enumerate(drawn)])
    index, order = torch.cat(drawn).sort()
    return Poison(index, door[order], torch.zeros(len(index), dtype=torch.bool),
                  targets=train.targets[index], rate=rate)


def members(train: Dataset, label: int) -> Tensor:
    """The rows of a class, ascending.

    Raises:
        ConfigError: there is no such class, or nothing in it.
    """
    _known(train, (label,))
    rows = torch.nonzero(train.targets == label)[:, 0]
    if len(rows) == 0:
        raise ConfigError(f"class {label} given, of which the training data have no sample")
    return rows


def some(train: Dataset, count: int, rng: torch.Generator) -> Tensor:
    """At most `count` rows, at random."""
    return torch.randperm(len(train), generator=rng)[:count]


def with_cover(poison: Poison, train: Dataset, candidates: Tensor, rate: float, rng: torch.Generator) -> Poison:
    """Add cover rows, stamped but truthfully labelled: a share of the `candidates` (n,) that are not poisoned yet.

    The doors are given to cover rows in turn.

    Raises:
        ConfigError: there is no poisoned row to cover for, or no candidate is left.
    """
    if len(poison.index) == 0:
        raise ConfigError("cover rows were asked for, but no row is poisoned")
    free = candidates.clone()
    free[poison.index] = False
    extra = _draw(free, rate, rng, "cover candidate")
    doors = int(poison.door.max()) + 1
    index, order = torch.cat([poison.index, extra]).sort()
    door = torch.cat([poison.door, torch.arange(len(extra)) % doors])[order]
    cover = torch.cat([poison.cover, torch.ones(len(extra), dtype=torch.bool)])[order]
    given = poison.targets
    targets = None if given is None else torch.cat([given, train.targets[extra]])[order]
    return Poison(index, door, cover, targets=targets, rate=poison.rate)


def _draw(mask: Tensor, rate: float, rng: torch.Generator, what: str) -> Tensor:
    """The rows of a random share of a mask, ascending, at least one."""
    rows = torch.nonzero(mask)[:, 0]
    if not 0 < rate <= 1 or len(rows) == 0:
        raise ConfigError(f"a rate of {rate} of {len(rows)} {what} samples selects none; expected 0 < rate <= 1")
    count = max(1, round(rate * len(rows)))
    return rows[torch.randperm(len(rows), generator=rng)[:count]].sort().values


def _known(train: Dataset, labels: tuple[int, ...]) -> None:
    for label in labels:
        if not 0 <= label < len(train.classes):
            raise ConfigError(f"class {label} given; the data set has classes 0 to {len(train.classes) - 1}")
