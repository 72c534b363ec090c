"""What a purifier is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense, Needs, Stage
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


class Purifier(Defense, ABC):
    """Removes triggers from inputs at test time.

    Attributes:
        relabels: whether purified inputs belong to other classes, by a permutation that `undo` turns back.
    """

    stage: ClassVar[Stage] = Stage("purifier", "fit", "removes triggers from inputs", 5, several=True)
    needs: ClassVar[Needs] = Needs()
    relabels: ClassVar[bool] = False

    @abstractmethod
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        """A function from inputs to purified inputs and how to realign the outputs."""


def require_room(name: str, pixels: int, data: Dataset) -> None:
    """That images are larger than what is taken off their sides.

    Raises:
        ConfigError: they are not.
    """
    height, width = data.shape[1:]
    if pixels >= min(height, width):
        raise ConfigError(f"{name} = {pixels} given for images of {height}×{width}; "
                          f"expected at most {min(height, width) - 1}")


def in_place(purify: Callable[[Images, Index], Images]) -> Purify:
    """A fitted purifier after which there is nothing to undo: it moves no pixel, or outputs have no place."""
    return lambda x, index: (purify(x, index), _as_it_is)


def _as_it_is(output: Any) -> Any:
    return output
