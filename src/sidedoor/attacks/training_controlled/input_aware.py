"""Input-Aware: a generator draws each image's own trigger and is trained with the model; training-controlled.

Paper: Nguyen, Tran, "Input-Aware Dynamic Backdoor Attack", NeurIPS 2020, arXiv:2010.08138.

Two phases: a mask network learns sparse masks that differ between images; then classifier and pattern network learn
together, while samples that carry the trigger of another image keep their labels (cross-trigger). Ours draws both kinds
sample by sample rather than in fixed numbers a batch, attacks eligible samples only, rounds to 8 bits in the loop,
takes one size of networks for all data, and lets the generators' learning rates follow the victim's schedule.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.attacks.base import TrainingAttack
from sidedoor.attacks.training_controlled._objectives import check_shares
from sidedoor.backdoor.base import Planted
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Player, Recipe, Run, seeded
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.triggers.generated import Generated, paint
from sidedoor.types import Batch, Build, Images, Index, Space


@dataclass(frozen=True)
class InputAware(TrainingAttack):
    """Train a mask network, then the classifier together with a pattern network.

    Args:
        rate: ρ_b, share of the eligible samples that is attacked in each epoch.
        cross_rate: ρ_c, share of all samples that carry the trigger of another image and keep their labels.
        diversity: λ_div, weight of making triggers of different images differ.
        density: largest value of a mask's pixel that costs nothing.
        sparsity: λ_norm, weight of the mean by which pixels exceed it.
        mask_epochs: of the first phase.
        generator_lr: learning rate of both generators (Adam, β₁ = 0.5).
        width: channels of the generators' first layer.

    Raises:
        ConfigError: the shares add up to more than 1.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"sample_specific", "optimised"})
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne, AllToAll)
    because: ClassVar[str] = "its one generator leads each image to one label"
    quick: ClassVar[dict[str, Any]] = {"mask_epochs": 1, "width": 4}
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 0.1", "cross_rate": "paper: 0.1", "diversity": "paper: 1", "density": "release: 0.032",
        "sparsity": "release: 100", "mask_epochs": "release: 25", "generator_lr": "release: 0.01",
        "width": "release: 32, for CIFAR-10",
    }

    rate: Share = 0.1
    cross_rate: Share = 0.1
    diversity: NonNegative = 1.0
    density: Share = 0.032
    sparsity: NonNegative = 100.0
    mask_epochs: Count = 25
    generator_lr: Positive = 0.01
    width: Count = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares(rate=self.rate, cross_rate=self.cross_rate)

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        with seeded(run.rng("generators").initial_seed(), run.device):
            return (Door(Generated(train.shape[0], self.width), self.goal),)

    def train(self, doors: tuple[Door, ...], data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        trigger = copy.deepcopy(doors[0].trigger)
        assert isinstance(trigger, Generated)
        recipe = replace(run.recipe, optimizer="adam", lr=self.generator_lr, momentum=0.5, weight_decay=0.0)
        run.fit(trigger.mask.requires_grad_(), data, _SparseMasks(self), name="masks",
                recipe=replace(recipe, epochs=self.mask_epochs, patience=0))
        trigger.mask.requires_grad_(False)
        trigger.pattern.requires_grad_().train()
        model = run.fit(run.build(build), data, _JointTraining(self, task, trigger, data.space, recipe), name="victim")
        # In the memory format of a trigger that is loaded from a file, so that both draw the same bit for bit.
        trigger.requires_grad_(False).eval().to(memory_format=torch.contiguous_format)
        return Planted(model, (Door(trigger, self.goal),))


class _SparseMasks(Objective):
    """Masks that differ between images and cover little."""

    def __init__(self, attack: InputAware):
        super().__init__()
        self.attack = attack

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        mask = model(batch.x)
        excess = torch.relu(mask - self.attack.density).mean()
        alike = _alikeness(batch.x, batch.x.roll(1, 0), mask, mask.roll(1, 0))
        return torch.stack([self.attack.diversity * alike, self.attack.sparsity * excess])


class _JointTraining(Objective):
    """The task's loss on attacked, cross-triggered and clean samples, and patterns that differ between images."""

    def __init__(self, attack: InputAware, task: Task, trigger: Generated, space: Space, recipe: Recipe):
        super().__init__()
        self.attack, self.task, self.trigger, self.space, self.recipe = attack, task, trigger, space, recipe

    def players(self, model: nn.Module) -> list[Player]:
        return [Player(list(self.trigger.pattern.parameters()), self.recipe)]

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y, other = batch.x.clone(), batch.y.clone(), batch.x.roll(1, 0)
        draw = torch.rand(len(y), device=y.device)
        eligible = self.attack.goal.eligible(self.task, y)
        attacked = torch.nonzero((draw < self.attack.rate) & eligible)[:, 0]
        crossed = torch.nonzero(draw > 1 - self.attack.cross_rate)[:, 0]
        # Without an attacked sample the patterns are still spread, so that every step has gradients on every rank.
        own = attacked if len(attacked) else torch.arange(len(y), device=y.device)
        donors = torch.cat([batch.x[own], other[own], other[crossed]])
        pattern = self.trigger.pattern(donors)
        painting = _Painting(self.trigger.mask(donors), pattern)
        for rows, part in ((attacked, slice(len(attacked))), (crossed, slice(2 * len(own), None))):
            x[rows] = stamp(painting.of(part), batch.x[rows], batch.index[rows], self.space)
        y[attacked] = self.attack.goal.target(self.task, y[attacked], batch.index[attacked])
        alike = _alikeness(batch.x[own], other[own], *pattern[: 2 * len(own)].chunk(2))
        return torch.stack([self.task.loss(model, Batch(x, y, batch.index)).mean(), self.attack.diversity * alike])


class _Painting(Trigger):
    """Paint given masks and patterns, one of each per image."""

    def __init__(self, mask: Float[Tensor, "b 1 h w"], pattern: Images):
        super().__init__()
        self.mask, self.pattern = mask, pattern

    def of(self, rows: slice) -> _Painting:
        return _Painting(self.mask[rows], self.pattern[rows])

    def forward(self, x: Images, index: Index) -> Images:
        return paint(x, self.mask, self.pattern)


def _alikeness(x: Images, other: Images, own: Float[Tensor, "b k h w"],
               own_other: Float[Tensor, "b k h w"]) -> Float[Tensor, ""]:
    """Mean over pairs of the images' distance over the distance of their own triggers (root mean squares)."""

    def distance(a: Images, b: Images) -> Float[Tensor, "b"]:
        # The small number keeps the root's gradient finite where two are equal.
        return ((a - b).square().mean((1, 2, 3)) + 1e-7).sqrt()

    return (distance(x, other) / distance(own, own_other)).mean()
