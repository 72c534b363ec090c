"""Training defences with self-supervised or semi-supervised cores, on digits with a square in the corner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.contrastive import Pretraining, Views
from sidedoor.algorithms.features.collect import collect
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import Dataset, split
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.training.asd import ASD
from sidedoor.defenses.training.d_br import DBR
from sidedoor.defenses.training.d_st import DST
from sidedoor.defenses.training.dbd import DBD
from sidedoor.defenses.training.vibe import VIBE
from sidedoor.engine import Recipe, Run
from sidedoor.goals.base import Door
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

pytestmark = pytest.mark.slow
TASK = Classification(10)
SHORT = {"pretraining_epochs": 60, "pretraining_batch": 256, "pretraining_lr": 0.1, "window": 0.4}


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


@dataclass(frozen=True)
class Scene:
    train: Dataset
    clean: Dataset
    test: Dataset
    truth: Tensor
    door: Door
    run: Run

    def scores(self, model: nn.Module) -> tuple[float, float, float]:
        """C-Acc, ASR and R-Acc."""
        means = TASK.score(model, self.test, self.door, self.run).means()
        return means["clean"] or 0.0, means["attack"] or 0.0, means["recovered"] or 0.0


@pytest.fixture(scope="module")
def scene() -> Scene:
    splits, run = digits(Where(None)), Run.local(Recipe(epochs=10), device="cpu")
    train, clean = split(splits.train, 0.1, 0)
    backdoor = BadNets(rate=0.1).plan(train, TASK, build, AttackerRun.of(run))
    data = PoisonedDataset(train, backdoor, TASK)
    view, order = seal(data)
    here = Scene(view, clean, splits.test, data.is_poisoned()[order], backdoor.doors[0], run)
    victim = run.fit(run.build(build), view, Supervised(TASK), name="victim")
    clean_accuracy, attack, _ = here.scores(victim)
    assert clean_accuracy > 0.95  # the premise
    assert attack > 0.9
    return replace(here, run=replace(run, history={}))


def agreement(features: Tensor, y: Tensor) -> Tensor:
    """Share of the five nearest neighbours of each row that have its label."""
    unit = functional.normalize(features, dim=1)
    near = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(5, 1).indices
    return (y[near] == y[:, None]).float().mean(1)


def test_neighbours_of_poisoned_rows_have_other_labels(scene: Scene) -> None:
    """The premise of DBD, VIBE and D-ST."""
    how = Pretraining(60, 256, 0.1, 0.5, Views(window=0.4))
    model = how.fit(scene.run.build(build), scene.train, scene.run)
    found = agreement(collect(model, scene.train, scene.run).features, scene.train.targets)
    assert found[scene.truth == 0].mean() > 0.8
    assert found[scene.truth == 1].mean() < 0.3


DEFENSES: dict[str, tuple[Callable[[Scene], nn.Module], float]] = {
    "vibe": (lambda here: VIBE(**SHORT, steps=1000, renewal=100, lr=0.05).train(here.train, TASK, build, here.run),
             0.88),
    "dbd": (lambda here: DBD(**SHORT, head_epochs=100, rounds=16, steps=40).train(here.train, TASK, build, here.run),
            0.88),
    "asd": (lambda here: ASD(rounds=24, steps=30, growth=4).train(here.train, here.clean, TASK, build, here.run), 0.88),
    "d_br": (lambda here: DBR(epochs=8, unlearn_lr=1e-3).train(here.train, TASK, build, here.run), 0.92),
    "d_st": (lambda here: DST(epochs=8, contrastive_epochs=60, contrastive_batch=256, contrastive_lr=0.1, window=0.4,
                              head_epochs=30).train(here.train, TASK, build, here.run), 0.8),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_the_model_has_no_backdoor_and_knows_the_digits(scene: Scene, name: str) -> None:
    train, accuracy = DEFENSES[name]
    clean, attack, recovered = scene.scores(train(scene))
    assert attack < 0.1
    assert clean > accuracy
    assert recovered > accuracy - 0.08
