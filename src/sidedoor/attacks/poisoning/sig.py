"""SIG: a faint sinusoidal grating on clean-label samples.

Paper: Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption without Label Poisoning",
ICIP 2019, arXiv:1902.11237.

The paper's test signal may be stronger than the one in the training data. Here it is as strong unless `test_delta`
is given, so that what is scored is as invisible as what was planted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidedoor.attacks.base import CleanLabelAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.sinusoid import Sinusoid
from sidedoor.types import Build


@dataclass(frozen=True)
class SIG(CleanLabelAttack):
    """Add a sinusoid to a share of the target class and leave the labels alone.

    Args:
        rate: share of the target class, in [0, 1].
        delta: amplitude in the training data, in units of the pixel range.
        frequency: periods across the width w; further targets take the next ones, and 1 follows on (w - 1) // 2.
        test_delta: amplitude at test time; None: as in the training data.
    """

    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, MultiTarget)
    because: ClassVar[str] = "it stamps samples that truly are of the class it leads to, so it needs target classes"
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 30 % of the target class", "delta": "paper: 20 levels", "frequency": "paper: 6 periods",
        "test_delta": "ours: as in training, so that what is scored is as invisible as what was planted",
    }

    rate: Share = 0.3
    delta: Positive = 20 / 255
    frequency: Count = 6
    test_delta: Positive | None = None

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals, tested, bands = self.goal.parts(), self.test_delta or self.delta, (train.shape[2] - 1) // 2
        if len(goals) > bands:
            raise ConfigError(f"{len(goals)} target classes given; images {train.shape[2]} wide carry {bands} gratings")
        return tuple(Door(Sinusoid(delta, (self.frequency - 1 + k) % bands + 1), goal, scored=delta == tested)
                     for delta in dict.fromkeys((self.delta, tested))
                     for k, goal in enumerate(goals))
