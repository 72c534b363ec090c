"""A message that a network writes into each sample in its own way, on mislabelled samples.

Paper: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816.

The networks are trained on the data that is poisoned (`sidedoor.writing`) and kept for all victims. Only data is
poisoned; what releases do, poisoned samples in every batch, is `per_batch` with this attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning._train_stegastamp import Writing
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.encoded import Encoded, messages
from sidedoor.types import Build


@dataclass(frozen=True)
class ISSBA(Attack):
    """Write one message into a share of the eligible samples and change their labels; further targets have another.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        bits, epochs, lr, invisible: of the networks' training, see `Writing`.
        network_seed: of the networks, to share them between runs of several seeds: None for the run's own.
    """

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    bits: Count = 20
    epochs: Count = 20
    lr: Positive = 1e-4
    invisible: NonNegative = 2.0
    network_seed: int | None = None

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        there = run.of_seed(self.network_seed)
        goals = self.goal.parts()
        network = Writing(self.bits, self.epochs, self.lr, self.invisible).learned(train, there).encoder
        doors = tuple(Door(Encoded(network, message), goal) for message, goal in
                      zip(messages(len(goals), self.bits, there.rng("messages")), goals, strict=True))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))
