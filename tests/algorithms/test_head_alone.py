"""Training a head alone changes the head and nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sidedoor.algorithms.head_alone import train_head
from sidedoor.engine import Recipe
from sidedoor.models.base import head_names
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import CLASSES, ground
from sidedoor.types import Batch


def build() -> nn.Module:
    return small_cnn(CLASSES, (1, 16, 16), 8)


def test_all_but_the_head_is_bit_for_bit_as_before() -> None:
    here = ground(1)
    run = replace(here.run, recipe=Recipe(epochs=3, batch=128), history={})
    modes = []

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        modes.append(model.training)
        return here.task.loss(model, batch).mean()

    model = run.build(build)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = train_head(model, here.train, loss, run)
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == head_names(model, model)
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    assert modes == [False] * 6  # two batches an epoch
    losses = [epoch["loss"] for epoch in run.history["head"]]
    assert losses[-1] < losses[0]
