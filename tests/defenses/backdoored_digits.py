"""Digits with a backdoor and without, trained once for all tests of a worker."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import ArrayDataset, Dataset, split
from sidedoor.engine import Recipe, Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TARGET = 3


@dataclass
class Scene:
    """A backdoored model, its clean sibling, and what an evaluator and a defender hold."""

    task: Classification
    run: Run
    clean: Dataset
    test: Dataset
    door: Door
    model: nn.Module
    sibling: nn.Module

    def numbers(self, model: nn.Module) -> tuple[float, float]:
        """(clean accuracy, attack success)"""
        means = self.task.score(model, self.test, self.door, self.run).means()
        assert means["clean"] is not None
        assert means["attack"] is not None
        return means["clean"], means["attack"]


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


@pytest.fixture(scope="session")
def scene() -> Scene:
    task, run = Classification(10), Run.local(Recipe(epochs=8, lr=0.05), device="cpu")
    digits = load_digits()
    images = torch.tensor(digits.images * 15.9375).round().to(torch.uint8)[:, None]
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    train, test = split(ArrayDataset(images, digits.target, 10), 0.25, 0)
    train, clean = split(train, 0.15, 1)
    backdoor = BadNets(goal=AllToOne(TARGET)).plan(train, task, build, AttackerRun.of(run))
    model = run.fit(run.build(build), PoisonedDataset(train, backdoor, task), Supervised(task), name="victim")
    sibling = run.fit(run.build(build), train, Supervised(task), name="sibling")
    scene = Scene(task, run, clean, test, backdoor.doors[0], model, sibling)
    assert scene.numbers(model)[1] > 0.9  # the premise of every test of a defence
    return scene
