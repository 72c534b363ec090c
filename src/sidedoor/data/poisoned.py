"""Training data with poisoned rows, and the sealed view of it that a defender gets."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sidedoor.data.base import Dataset, Subset
from sidedoor.errors import ConfigError
from sidedoor.types import Backdoor, Task, stamp_levels


class PoisonedDataset(Dataset):
    """A data set in which some rows are replaced by poisoned ones, or poisoned ones follow.

    Poisoned rows are made once, as 8-bit images like the files a victim receives; the rest stays in the base set.

    Raises:
        ConfigError: poison rows that are outside the base set, repeated, or not ascending.
    """

    def __init__(self, base: Dataset, backdoor: Backdoor, task: Task):
        poison = backdoor.poison
        _check(backdoor, base)
        self.base, self.poison, n = base, poison, len(base)
        self.shape, self.classes, self.space, self.lazy = base.shape, base.classes, base.space, base.lazy
        self.rows_at = n + torch.arange(len(poison.index)) if poison.append else poison.index
        labels = _labels(base, backdoor, task)
        if poison.append:
            self.targets = torch.cat([base.targets, labels])
        else:
            self.targets = base.targets.index_copy(0, poison.index, labels)
        self.images = poison.images if poison.images is not None else _stamped(base, backdoor)

    def rows(self, index: Tensor) -> Tensor:
        index = index.cpu()
        raw = self.base.rows(index.clamp(max=len(self.base) - 1))
        slot, hit = self._slots(index)
        if len(hit):
            raw[hit.to(raw.device)] = self.images[slot].to(raw.device)
        return raw

    def position(self, index: Tensor) -> Tensor:
        index = index.cpu()
        at = index.clamp(max=len(self.base) - 1)
        slot, hit = self._slots(index)
        return self.base.position(at.index_copy(0, hit, self.poison.index[slot]))

    def _slots(self, index: Tensor) -> tuple[Int[Tensor, "h"], Int[Tensor, "h"]]:
        """(which poisoned row, at which place of `index`) for the poisoned rows among those asked for."""
        if len(self.rows_at) == 0:
            return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        slot = torch.searchsorted(self.rows_at, index).clamp_(max=len(self.rows_at) - 1)
        hit = torch.nonzero(self.rows_at[slot] == index)[:, 0]
        return slot[hit], hit

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
        for tensor in (self.rows_at, self.targets, self.images):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()


class Sealed(Subset):
    """What a defender sees of training data: length, shape, classes, batches. Positions are rows of this view."""

    def position(self, index: Tensor) -> Tensor:
        return index


def seal(data: Dataset) -> tuple[Sealed, Int[Tensor, "n"]]:
    """A sealed view, and for the evaluator alone which row of `data` each row of the view is.

    Appended rows would betray themselves by their place, so a set that has them is shuffled.
    """
    order = torch.arange(len(data))
    if isinstance(data, PoisonedDataset) and data.poison.append:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(len(data)))
    return Sealed(data, order), order


def _check(backdoor: Backdoor, base: Dataset) -> None:
    poison, n = backdoor.poison, len(base)
    index, k = poison.index, len(poison.index)
    if k and (index.min() < 0 or index.max() >= n):
        raise ConfigError(f"poison rows from {index.min()} to {index.max()} given; expected 0 to {n - 1}")
    if not poison.append and bool((index.diff() <= 0).any()):
        raise ConfigError("poison rows must be ascending and without repeats")
    if not k == len(poison.door) == len(poison.cover):
        raise ConfigError(f"poison has {k} rows, {len(poison.door)} doors and {len(poison.cover)} cover marks")
    if k and not 0 <= poison.door.min() <= poison.door.max() < len(backdoor.doors):
        raise ConfigError(f"poison names doors up to {poison.door.max()}, but there are {len(backdoor.doors)}")
    if poison.images is not None and (poison.images.shape != (k, *base.shape) or poison.images.dtype != torch.uint8):
        raise ConfigError(f"poison images of shape {tuple(poison.images.shape)} and type {poison.images.dtype} given; "
                          f"expected uint8 {(k, *base.shape)}")
    if poison.targets is not None and len(poison.targets) != k:
        raise ConfigError(f"poison has {k} rows, but {len(poison.targets)} targets")
    if poison.targets is not None and k and not 0 <= poison.targets.min() <= poison.targets.max() < len(base.classes):
        raise ConfigError(f"poison targets from {poison.targets.min()} to {poison.targets.max()} given; "
                          f"expected 0 to {len(base.classes) - 1}")


def _labels(base: Dataset, backdoor: Backdoor, task: Task) -> Tensor:
    """The labels of the poisoned rows: as given, or the door's goal; cover rows keep the truth."""
    poison = backdoor.poison
    truth = base.targets[poison.index]
    if poison.targets is not None:
        return poison.targets
    labels = truth.clone()
    index = base.position(poison.index)
    for k, door in enumerate(backdoor.doors):
        mine = (poison.door == k) & ~poison.cover
        labels[mine] = door.goal.target(task, truth[mine], index[mine])
    return labels


def _stamped(base: Dataset, backdoor: Backdoor, batch: int = 256) -> Tensor:
    """The poisoned rows as the door of each stamps them, in 8 bits."""
    poison = backdoor.poison
    images = torch.empty((len(poison.index), *base.shape), dtype=torch.uint8)
    with torch.no_grad():
        for k, door in enumerate(backdoor.doors):
            mine = torch.nonzero(poison.door == k)[:, 0]
            for slots in torch.split(mine, batch) if len(mine) else ():
                x, _, index = base.fetch(poison.index[slots])
                images[slots] = stamp_levels(door.trigger.cpu(), x, index, base.space).to(torch.uint8)
    return images
