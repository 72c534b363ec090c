"""Data sets cut down to what somebody may see of them: images without labels, or nothing but their shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from sidedoor.core.restricted import NotDeclared
from sidedoor.data.base import Dataset
from sidedoor.types import Batch


def _refuse(what: str, declared: str) -> NoReturn:
    raise NotDeclared(f"`{what}` of the clean data was asked for, but the method declares to need {declared}; declare "
                      "what it needs")


class Unlabelled(Dataset):
    """The images of a data set. Batches have labels of -1, which no loss takes; asking for `targets` fails."""

    def __init__(self, data: Dataset):
        self.shape, self.classes, self.space, self.lazy = data.shape, data.classes, data.space, data.lazy
        self.groups, self._length = data.groups, len(data)
        # A closure, so that the labelled set is not handed on.
        self._behind: Callable[[], Dataset] = lambda: data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(name, "images without labels")

    def __len__(self) -> int:
        return self._length

    def rows(self, index: Tensor) -> Tensor:
        return self._behind().rows(index)

    def position(self, index: Tensor) -> Tensor:
        return self._behind().position(index)

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        batch = self._behind().fetch(index, device)
        return batch._replace(y=torch.full_like(batch.index, -1))

    def staged(self, device: torch.device) -> Dataset:
        return Unlabelled(self._behind().staged(device))

    def fingerprint(self) -> str:
        return self._behind().fingerprint()


class Absent(Dataset):
    """A data set that is not there: what inputs look like is known, but there are none."""

    def __init__(self, data: Dataset):
        self.shape, self.classes, self.space = data.shape, data.classes, data.space

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(name, "no clean images")

    def __len__(self) -> int:
        _refuse("len()", "no clean images")

    def rows(self, index: Tensor) -> Tensor:
        _refuse("rows()", "no clean images")

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        _refuse("fetch()", "no clean images")

    def fingerprint(self) -> str:
        _refuse("fingerprint()", "no clean images")
