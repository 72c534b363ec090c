"""WaNet: a faint elastic warp of the whole image; training-controlled.

Paper: Nguyen, Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021, arXiv:2102.10369.

Besides attacked samples batches hold noise-warped ones with true labels, so that only this field opens the door. Ours
draws both sample by sample rather than in fixed numbers a batch, attacks eligible samples only, and rounds to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sidedoor.attacks.base import TrainingAttack
from sidedoor.attacks.training_controlled._objectives import NoiseSamples, OnlinePoisoning, check_shares
from sidedoor.backdoor.base import Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Count, NonNegative, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.warp import Warp, resample
from sidedoor.types import Build, Images, Index


@dataclass(frozen=True)
class WaNet(TrainingAttack):
    """Train on batches in which some samples are warped and lead to the goal, and others are warped with noise.

    Args:
        rate: ρ_a, share of the eligible samples that is attacked in each epoch; several targets split it.
        noise_rate: ρ_n, share of all samples that is warped with a disturbed field and keeps its labels.
        strength: s, of the field.
        control: k, control points a side.

    Raises:
        ConfigError: the shares add up to more than 1.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "sample_specific"})
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 0.1", "noise_rate": "paper: 0.2", "strength": "paper: 0.5", "control": "paper: 4",
    }

    rate: Share = 0.1
    noise_rate: Share = 0.2
    strength: NonNegative = 0.5
    control: Count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(rate=self.rate, noise_rate=self.noise_rate)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        rng = run.rng("field")
        return tuple(Door(Warp(torch.rand(2, self.control, self.control, generator=rng) * 2 - 1, self.strength,
                               train.shape[1:]), goal) for goal in self.goal.parts())

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        noise = NoiseSamples(self.noise_rate, lambda model, door, batch, rows: _Disturbed(door.trigger))
        objective = OnlinePoisoning(task, doors, data.space, self.rate, noise)
        return Planted(run.fit(run.build(build), data, objective, name="victim"), doors)


class _Disturbed(Trigger):
    """A warp with every position moved by up to 1 / size in either direction, drawn anew in each call."""

    def __init__(self, warp: Trigger):
        super().__init__()
        assert isinstance(warp, Warp)
        self.warp = warp

    def forward(self, x: Images, index: Index) -> Images:
        height, width = x.shape[-2:]
        noise = torch.rand(len(x), height, width, 2, device=x.device) * 2 - 1
        noise = noise / torch.tensor([width, height], device=x.device)
        return resample(x, (self.warp.grid + noise).clamp(-1, 1))
