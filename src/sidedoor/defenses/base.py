"""One abstract class a stage, one verb each. The signature is the threat model: a defence gets what it names.

Higher scores are more suspicious everywhere. Thresholds belong to the evaluator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Defense(Method):
    """A defence at one stage of a model's life.

    Attributes:
        stage: "filter", "training", "repair", "audit", "detector" or "purifier".
        tasks: the kinds of task that it can defend.
    """

    stage: ClassVar[str]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)
