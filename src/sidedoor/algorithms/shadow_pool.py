"""Shadow pools: models of a suspect's architecture that a defender trains on its own images, half of them backdoored.

Paper of the backdoors: Xu, Wang, Li, Borisov, Gunter, Li, "Detecting AI Trojans Using Meta Neural Analysis", S&P 2021,
arXiv:1910.03137, whose "jumbo" distribution draws the trigger, its place, opacity and target and the rate of poisoning
anew for each model.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.algorithms.short_training import for_steps
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Batch, Build, Images, Index, Space, joined

BATCH = 32
"""Images a step, at most."""
SIDES = (2, 3, 4, 5)
"""Of patches, in pixels; one trigger in five covers the whole image instead."""


class Pool(NamedTuple):
    """Shadow models in evaluation mode, their parameters without gradients, and which of them are backdoored."""

    models: tuple[nn.Module, ...]
    backdoored: Bool[Tensor, "n"]


class Jumbo(NamedTuple):
    """A backdoor: what is stamped, into copies of which share of the training rows, and the class that these have."""

    trigger: Trigger
    rate: float
    target: int


class Overlay(Trigger):
    """Mix a pattern into each pixel by an opacity of its own."""

    elementwise: ClassVar[bool] = True
    pattern: Tensor
    opacity: Tensor

    def __init__(self, pattern: Float[Tensor, "c h w"], opacity: Float[Tensor, "1 h w"]):
        super().__init__()
        self.register_buffer("pattern", pattern)
        self.register_buffer("opacity", opacity)

    def forward(self, x: Images, index: Index) -> Images:
        return torch.lerp(x, self.pattern.expand_as(x), self.opacity.expand_as(x))


@torch.enable_grad()
def shadow_pool(model: nn.Module, clean: Dataset, task: Task, run: Run, each: int, steps: int) -> Pool:
    """Models like the suspect, trained by the run's recipe on the defender's images; kept on its shelf, if it has one.

    Args:
        model: the suspect, of which nothing but the architecture is used.
        each: clean models, and as many backdoored ones; they take turns.
        steps: of training each.

    Raises:
        NotApplicable: the architecture holds weights that cannot be drawn anew, or images have no bounded range.
    """
    build, own = untrained(model), replace(run, checkpoints=None, recipe=for_steps(run, clean, steps, BATCH))
    about = {"data": clean.fingerprint(), "network": _described(model), "recipe": registry.plain(own.recipe),
             "augment": repr(run.augment), "seed": run.seed}
    found = []
    with run.progress.task("shadow models", 2 * each) as advance:
        for number in range(2 * each):
            def make(own: Run, number: int = number) -> nn.Module:
                objective = Jumbos(task, clean, own) if number % 2 else Supervised(task)
                return own.fit(own.build(build), clean, objective, name="shadow")

            found.append(own.artefact(about | {"shadow": number}, build, make).requires_grad_(False))
            advance()
    return Pool(tuple(found), torch.arange(2 * each) % 2 == 1)


class Jumbos(Objective):
    """The task's loss on data to which stamped copies of some rows, of the trigger's class, are added.

    The rows themselves stay, so that backdoored models have learned as much of clean images as clean ones have: else
    that is what tells them apart.
    """

    def __init__(self, task: Task, data: Dataset, run: Run):
        super().__init__()
        self.task, self.space = task, data.space
        self.backdoor = jumbo(data, run.rng("jumbo"))
        self.trigger = self.backdoor.trigger
        self.seed = random.seed_of(run.seed, f"{run.scope}jumbo/rows")

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        chosen = random.uniform(self.seed, batch.index) < self.backdoor.rate
        x, y, index = (part[chosen] for part in batch)
        copies = Batch(stamp(self.trigger, x, index, self.space), torch.full_like(y, self.backdoor.target), index)
        return self.task.loss(model, joined(batch, copies)).mean()[None]


def jumbo(data: Dataset, rng: torch.Generator) -> Jumbo:
    """A random backdoor: a small patch of full or partial opacity anywhere, or a faint pattern all over the image.

    Raises:
        NotApplicable: the images have no bounded range.
    """
    def between(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=rng).item()

    def below(count: int) -> int:
        return int(torch.randint(count, (), generator=rng))

    channels, *sides = data.shape
    space = bounded(data.space)
    kind = below(len(SIDES) + 1)
    height, width = sides if kind == len(SIDES) else (min(SIDES[kind], side) for side in sides)
    strength = between(0.05, 0.2) if kind == len(SIDES) else between(0.2, 0.6)
    top, left = below(sides[0] - height + 1), below(sides[1] - width + 1)
    opacity = torch.zeros(1, *sides)
    # Above one half it is opaque, as in the release: a quarter of the patches.
    opacity[:, top : top + height, left : left + width] = 1.0 if strength > 0.5 else strength
    pattern = torch.randint(2, (channels, *sides), generator=rng) * (space.high - space.low) + space.low
    return Jumbo(Overlay(pattern, opacity), between(0.05, 0.5), below(len(data.classes)))


def bounded(space: Space) -> Space:
    """A space of which a pattern can be drawn.

    Raises:
        NotApplicable: it has no bounds.
    """
    if not torch.tensor(space[:2]).isfinite().all():
        raise NotApplicable(f"images in the space {tuple(space)} given; triggers are drawn from a bounded range")
    return space


def untrained(model: nn.Module) -> Build:
    """A function that builds networks of a model's architecture, with weights as its layers draw them.

    Raises:
        NotApplicable: a module holds weights and has no way to draw them.
    """
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)) and _reset(module) is None:
            raise NotApplicable(f"`{name}` of {type(model).__name__} holds weights and has no `reset_parameters`, so "
                                "that shadow models like it cannot be made")

    def build() -> nn.Module:
        fresh = copy.deepcopy(model).requires_grad_(True).train()
        for module in fresh.modules():
            if reset := _reset(module):
                reset()
        return fresh

    return build


def _reset(module: nn.Module) -> Callable[[], None] | None:
    found: Callable[[], None] | None = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
    return found


def _described(model: nn.Module) -> str:
    """A hash of what the architecture is, without its weights."""
    shapes = [(name, tuple(value.shape)) for name, value in model.state_dict().items()]
    return hashlib.sha256(f"{model!r} {shapes}".encode()).hexdigest()
