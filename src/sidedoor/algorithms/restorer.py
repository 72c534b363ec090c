"""Networks that turn degraded images back into clean ones, trained on nothing but the defender's images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.types import Batch, Build, Images

BATCH = 32
RATE = 2e-3
"""Learning rate of Adam."""


class Restored(Objective):
    """The loss between images and what the network makes of the same images degraded.

    Args:
        degrade: images -> degraded images; may draw from torch's default generators.
        loss: (output, images) -> a scalar.
    """

    def __init__(self, degrade: Callable[[Images], Images], loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.degrade, self.loss = degrade, loss

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss(model(self.degrade(batch.x)), batch.x)[None]


@torch.enable_grad()
def restorer(clean: Dataset, build: Build, objective: Objective, steps: int, run: Run, key: dict[str, Any]) \
        -> nn.Module:
    """A network in evaluation mode, trained on clean images once and kept on the run's shelf.

    Args:
        build: an untrained one.
        steps: of Adam on 32 images each, at least; whole epochs.
        key: what decides the network beside the data, the seed and `steps`.
    """
    epochs = math.ceil(steps / math.ceil(len(clean) / BATCH))
    recipe = Recipe("adam", lr=RATE, weight_decay=0.0, epochs=epochs, batch=BATCH)

    def make(own: Run) -> nn.Module:
        return replace(own, augment=None).fit(own.build(build), clean, objective, name="restorer", recipe=recipe)

    return run.artefact({"restorer": key, "data": clean.fingerprint(), "seed": run.seed, "steps": steps}, build, make)
