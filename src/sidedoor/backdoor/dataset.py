"""Poisoned training data, and the sealed view of it that a defender gets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sidedoor.backdoor.base import Backdoor
from sidedoor.data.base import MEMORY_LIMIT, Dataset, Subset, storage
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import stamp, stamp_levels
from sidedoor.types import Batch


class _Found(NamedTuple):
    """For each row that is asked for: the base set's row behind it, a place among the poisoned rows, and whether it is
    the row of that place.
    """

    under: Int[Tensor, "b"]
    slot: Int[Tensor, "b"]
    hit: Bool[Tensor, "b"]


class PoisonedDataset(Dataset):
    """A data set in which some rows are replaced by poisoned ones, or poisoned ones follow.

    Poisoned rows are made once, as 8-bit images like the files a victim receives; the rest stays in the base set. Rows
    of measurements, which have no levels, are made as numbers; where targets are images the poisoned rows have theirs.

    Raises:
        ConfigError: poison rows that are outside the base set, repeated, or not ascending; targets that are no class.
    """

    def __init__(self, base: Dataset, backdoor: Backdoor, task: Task):
        poison = backdoor.poison
        _check(backdoor, base)
        self.base, self.poison, self.doors, n = base, poison, backdoor.doors, len(base)
        self.shape, self.classes, self.space, self.lazy = base.shape, base.classes, base.space, base.lazy
        self.rows_at = n + torch.arange(len(poison.index)) if poison.append else poison.index
        labels = _labels(base, backdoor, task)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(base.classes):
            raise ConfigError(f"poison targets from {labels.min()} to {labels.max()} given; expected 0 to "
                              f"{len(base.classes) - 1}")
        if poison.append:
            self.targets = torch.cat([base.targets, labels])
        else:
            self.targets = base.targets.index_copy(0, poison.index, labels)
        self.images = poison.images if poison.images is not None else _stamped(base, backdoor)
        self.truths = _truths(base, backdoor, task) if task.output == "image" else None

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        if self.truths is None:
            return super().fetch(index, device)
        found = self._found(index.cpu())
        x, y, place = self.base.fetch(found.under, device)
        return Batch(self._replaced(x, self.images, found), self._replaced(y, self.truths, found), place)

    def rows(self, index: Tensor) -> Tensor:
        found = self._found(index.cpu())
        return self._replaced(self.base.rows(found.under), self.images, found)

    def position(self, index: Tensor) -> Tensor:
        return self.base.position(self._found(index.cpu()).under)

    def _replaced(self, rows: Tensor, by: Tensor, found: _Found) -> Tensor:
        """Rows of the base set, the poisoned ones among them replaced.

        Every row takes the same operations, poisoned or not: a defender could tell them apart by the operations, the
        version counter of the result, or whether the base set was asked.
        """
        if len(self.rows_at) == 0:
            return rows
        poisoned = by[found.slot].to(rows.device, rows.dtype)
        return torch.where(found.hit[:, None, None, None].to(rows.device), poisoned, rows)

    def _found(self, index: Int[Tensor, "b"]) -> _Found:
        if len(self.rows_at) == 0:
            return _Found(index, torch.zeros_like(index), torch.zeros_like(index, dtype=torch.bool))
        slot = torch.searchsorted(self.rows_at, index).clamp(max=len(self.rows_at) - 1)
        hit = self.rows_at[slot] == index
        return _Found(torch.where(hit, self.poison.index[slot], index.clamp(max=len(self.base) - 1)), slot, hit)

    def is_poisoned(self) -> Float[Tensor, "n"]:
        """1 for poisoned rows that are not cover, 0 for clean ones, NaN for cover rows, which count as neither."""
        truth = torch.zeros(len(self))
        truth[self.rows_at] = torch.where(self.poison.cover, torch.nan, 1.0)
        return truth

    def staged(self, device: torch.device) -> Dataset:
        twin = object.__new__(PoisonedDataset)
        twin.__dict__ = self.__dict__ | {"base": self.base.staged(device)}
        return twin

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.base.fingerprint().encode())
        for tensor in (self.rows_at, self.targets, self.images, self.truths):
            digest.update(b"" if tensor is None else _content(tensor))
        return digest.hexdigest()


class Sealed(Subset):
    """What a defender sees of training data: length, shape, classes, batches. Positions are rows of this view."""

    def position(self, index: Tensor) -> Tensor:
        return index


def seal(data: Dataset) -> tuple[Sealed, Int[Tensor, "n"]]:
    """A sealed view, and for the evaluator alone which row of `data` each row of the view is.

    Appended rows would betray themselves by their place, so a set that has them is shuffled, in an order that
    cannot be computed without knowing the poisoned rows.
    """
    order = torch.arange(len(data))
    if isinstance(data, PoisonedDataset) and data.poison.append:
        secret = hashlib.sha256(_content(data.poison.index))
        secret.update(_content(data.images))
        generator = torch.Generator().manual_seed(int.from_bytes(secret.digest()[:7], "big"))
        order = torch.randperm(len(data), generator=generator)
    return Sealed(data, order), order


def _content(tensor: Tensor) -> memoryview:
    """What a hash takes in without a copy, which of rows on the disk would not fit into memory."""
    return np.ascontiguousarray(tensor.cpu().numpy()).data


def _place(shape: tuple[int, ...], dtype: Any) -> Tensor:
    """An uninitialised tensor: in memory, or beyond the limit of a data set in a file that goes with the process."""
    size = np.dtype(dtype).itemsize
    return torch.from_numpy(storage((*shape[:-1], shape[-1] * size), MEMORY_LIMIT).view(dtype))


def _check(backdoor: Backdoor, base: Dataset) -> None:
    poison, n = backdoor.poison, len(base)
    index, k = poison.index, len(poison.index)
    if k and (index.min() < 0 or index.max() >= n):
        raise ConfigError(f"poison rows from {index.min()} to {index.max()} given; expected 0 to {n - 1}")
    if not poison.append and bool((index.diff() <= 0).any()):
        raise ConfigError("poison rows must be ascending and without repeats")
    if k and not 0 <= poison.door.min() <= poison.door.max() < len(backdoor.doors):
        raise ConfigError(f"poison names doors up to {poison.door.max()}, but there are {len(backdoor.doors)}")
    if poison.images is not None and (poison.images.shape != (k, *base.shape) or poison.images.dtype != torch.uint8):
        raise ConfigError(f"poison images of shape {tuple(poison.images.shape)} and type {poison.images.dtype} given; "
                          f"expected uint8 {(k, *base.shape)}")
    if poison.targets is not None and len(poison.targets) != k:
        raise ConfigError(f"poison has {k} rows, but {len(poison.targets)} targets")


def _labels(base: Dataset, backdoor: Backdoor, task: Task) -> Tensor:
    """The labels of the poisoned rows: as given, or the door's goal; cover rows keep the truth, and so do all where
    the goal is about images.
    """
    poison = backdoor.poison
    truth = base.targets[poison.index]
    if poison.targets is not None:
        return poison.targets
    if task.output == "image":
        return truth
    labels = truth.clone()
    index = base.position(poison.index)
    for k, door in enumerate(backdoor.doors):
        mine = (poison.door == k) & ~poison.cover
        labels[mine] = door.goal.target(task, truth[mine], index[mine])
    return labels


def _stamped(base: Dataset, backdoor: Backdoor) -> Tensor:
    """The poisoned rows as the door of each stamps them, in 8 bits where the space has levels."""
    stored = base.space.levels is not None
    images = _place((len(backdoor.poison.index), *base.shape), np.uint8 if stored else np.float32)
    with torch.no_grad():
        for door, slots, (x, _, index) in _by_door(base, backdoor):
            trigger = door.trigger.cpu()
            made = stamp_levels(trigger, x, index, base.space) if stored else stamp(trigger, x, index, base.space)
            # Whole rows at a time; torch's assignment by index goes value by value, which is slower.
            images.numpy()[slots.numpy()] = made.to(images.dtype).numpy()
    return images


def _truths(base: Dataset, backdoor: Backdoor, task: Task) -> Float[Tensor, "k c h w"]:
    """The target images of the poisoned rows: those of each row's door; cover rows keep their own."""
    cover = backdoor.poison.cover
    shape = base.fetch(torch.zeros(0, dtype=torch.int64)).y.shape[1:]
    truths = _place((len(cover), *shape), np.float32)
    for door, slots, (_, y, index) in _by_door(base, backdoor):
        truths[slots] = torch.where(cover[slots][:, None, None, None], y, door.goal.target(task, y, index))
    return truths


def _by_door(base: Dataset, backdoor: Backdoor, batch: int = 256) -> Iterator[tuple[Door, Tensor, Batch]]:
    """The poisoned rows in batches of one door each: the door, which of them, and the base set's rows."""
    poison = backdoor.poison
    for k, door in enumerate(backdoor.doors):
        mine = torch.nonzero(poison.door == k)[:, 0]
        for slots in torch.split(mine, batch) if len(mine) else ():
            yield door, slots, base.fetch(poison.index[slots])
