"""Shadow models: clean models that a defender trains on images of its own, to know what a clean model looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Run
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build

BATCH = 16
"""Images per step: the defender's are few."""


class Shadow(NamedTuple):
    """A clean model, and which rows of the defender's data it was not trained on."""

    model: nn.Module
    held_out: Int[Tensor, "m"]


def shadows(build: Build, clean: Dataset, task: Task, run: Run, count: int, epochs: int) -> Iterator[Shadow]:
    """Models of different weights, each trained by the recipe on a random half; nothing is kept."""
    recipe = replace(run.recipe, epochs=epochs, batch=min(BATCH, run.recipe.batch), patience=0)
    with run.progress.task("shadow models", count) as advance:
        for number in range(count):
            own = replace(run.within(f"shadow-{number}"), checkpoints=None, history={})
            order = torch.randperm(len(clean), generator=own.rng("half"))
            half = Subset(clean, order[: (len(clean) + 1) // 2].sort().values)
            model = own.fit(own.build(build), half, Supervised(task), name="shadow", recipe=recipe)
            yield Shadow(model.requires_grad_(False), order[(len(clean) + 1) // 2 :])
            advance()
