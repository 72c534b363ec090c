"""One abstract class a stage, one verb each. The signature is the threat model: a defence gets what it names.

Higher scores are more suspicious everywhere. Thresholds belong to the evaluator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.types import Build, Images, Index, Purify, Task

Detect = Callable[[Images, Index], Float[Tensor, "b"]]
"""What a fitted input detector is: (x, index) -> suspicion of each input."""


@dataclass(frozen=True)
class Defense(Method):
    """A defence at one stage of a model's life.

    Attributes:
        stage: "filter", "training", "repair", "audit", "detector" or "purifier".
        tasks: the kinds of task that it can defend.
    """

    stage: ClassVar[str]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)


class DataFilter(Defense, ABC):
    """Finds poisoned rows in training data of unknown origin."""

    stage: ClassVar[str] = "filter"

    @abstractmethod
    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Suspicion of each row of the (sealed) training data, standardised within each class."""


class TrainingDefense(Defense, ABC):
    """Trains a clean model on poisoned data."""

    stage: ClassVar[str] = "training"

    @abstractmethod
    def train(self, train: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        """A new model, trained on the (sealed) training data."""


class Repair(Defense, ABC):
    """Removes a backdoor from a model with a little clean data."""

    stage: ClassVar[str] = "repair"

    @abstractmethod
    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        """A new model; the one given is left alone."""


@dataclass
class Finding:
    """What an audit says of a model.

    Args:
        score: suspicion of the model, finite, higher is worse.
        threshold: the paper's own.
        suspected: the class (or other goal) most likely to be the target, if any.
        per_class: suspicion of each class.
        trigger: the recovered trigger as an image (c, h, w) in [0, 1], if the audit recovers one.
        mask: where the trigger lies, (h, w) in [0, 1].
    """

    score: float
    threshold: float
    suspected: int | None
    per_class: list[float] = field(default_factory=list)
    trigger: Float[Tensor, "c h w"] | None = None
    mask: Float[Tensor, "h w"] | None = None


class ModelAudit(Defense, ABC):
    """Says whether a model has a backdoor."""

    stage: ClassVar[str] = "audit"

    @abstractmethod
    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The verdict on a model, which is left alone."""


class InputDetector(Defense, ABC):
    """Recognises triggered inputs at test time."""

    stage: ClassVar[str] = "detector"

    @abstractmethod
    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to suspicion."""


class Purifier(Defense, ABC):
    """Removes triggers from inputs at test time."""

    stage: ClassVar[str] = "purifier"

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
