"""What the owner of a watermarked data set keeps, and what an attack that serves as a watermark can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.errors import ConfigError
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger


@dataclass(frozen=True)
class Secret:
    """The triggers of a watermark, and what tests of ownership compare them with.

    Args:
        triggers: those in the data.
        labels: for each trigger the class that it leads to, drawn uniformly and independently of everything else;
            empty for a watermark that leads to no class.
        decoys: triggers of the same generator that are in no data and were shown to nobody.

    Raises:
        ConfigError: no trigger, or another number of labels.
    """

    triggers: tuple[Trigger, ...]
    labels: tuple[int, ...] = ()
    decoys: tuple[Trigger, ...] = ()

    def __post_init__(self) -> None:
        if not self.triggers or len(self.labels) not in (0, len(self.triggers)):
            raise ConfigError(f"a secret of {len(self.triggers)} triggers and {len(self.labels)} labels given; expected"
                              " at least one trigger, and a label for each or none at all")


@runtime_checkable
class Watermark(Protocol):
    """An attack on training data that an owner can plant and later prove."""

    def secret(self, backdoor: Backdoor, train: Dataset, task: Task, decoys: int, run: AttackerRun) -> Secret:
        """What the owner keeps of a plan.

        Args:
            backdoor: what `plan` gave for the same data and run.
            train: the owner's data.
            decoys: how many triggers are drawn in addition, which nobody sees.
        """
