"""Digits of which a tenth carries a square in the corner and class 0, as a data filter gets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from torch import Tensor, nn

from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import Dataset, split
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.engine import Recipe, Run
from sidedoor.metrics.statistics import auroc
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification


@dataclass(frozen=True)
class Suspect:
    """The sealed training data, the defender's clean samples, and which rows are poisoned."""

    train: Dataset
    clean: Dataset
    task: Classification
    build: Callable[[], nn.Module]
    run: Run
    truth: Tensor

    def auroc(self, score: Tensor) -> float:
        """How well scores tell poisoned rows from clean ones."""
        found = auroc(score[self.truth == 1].numpy(), score[self.truth == 0].numpy())
        assert found is not None
        return found


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


@pytest.fixture(scope="session")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> Suspect:
    """The model that filters look at is kept on the run's shelf, so that it is trained once."""
    train, clean = split(digits(Where(None)).train, 0.15, 0)
    task, run = Classification(10), Run.local(Recipe(epochs=8), device="cpu")
    backdoor = BadNets(rate=0.1).plan(train, task, build, AttackerRun.of(run))
    data = PoisonedDataset(train, backdoor, task)
    view, order = seal(data)
    shelved = replace(run, shelf=Shelf(tmp_path_factory.mktemp("shelf")))
    return Suspect(view, clean, task, build, shelved, data.is_poisoned()[order])
