"""Source-specific: triggered images of some classes only are classified as one target class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Goal
from sidedoor.method import Label, Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class FromClasses(Method, Goal):
    """Lead the source classes to the target; the trigger shall do nothing to the others.

    Args:
        target_class: the label, 0 to classes-1.
        source_classes: at least one label, each once, without the target.

    Raises:
        ConfigError: no source class, one given twice, or the target among them.
    """

    target_class: Label = 0
    source_classes: tuple[Label, ...] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = set(self.source_classes)
        if not sources or len(sources) != len(self.source_classes) or self.target_class in sources:
            raise ConfigError(f"source_classes = {list(self.source_classes)} given; expected one or more, each once, "
                              f"without the target class {self.target_class}")

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return AllToOne(self.target_class).target(task, y, index)

    def eligible(self, task: Labelled, y: Tensor) -> Bool[Tensor, "b"]:
        return torch.isin(y, torch.tensor(self.source_classes, device=y.device))
