"""What a model audit is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense
from sidedoor.engine import Run
from sidedoor.tasks.task import Task


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
