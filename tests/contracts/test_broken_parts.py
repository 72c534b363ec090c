"""The contracts of models, data sets and tasks catch those that break them; each here breaks one rule."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset, Dataset, Splits
from sidedoor.data.root import Where
from sidedoor.models.base import Classifier, classifier
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.testing import check_data, check_model, check_task
from sidedoor.types import Batch, Images

SHAPE = (3, 32, 32)
calls = itertools.count()


def sound(classes: int, shape: tuple[int, int, int]) -> Classifier:
    """Keeps every rule."""
    return small_cnn(classes, shape, 4)


def unnormalised(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return sound(classes, shape).body


def too_wide(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return sound(classes + 1, shape)


def failing(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    raise RuntimeError("no such layer")


def differently_seeded(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    torch.manual_seed(next(calls))
    return sound(classes, shape)


class Tail(nn.Module):
    """What comes after the head of a sound network, and should not."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def tailed(f: Callable[[Tensor], Tensor]) -> Callable[[int, tuple[int, int, int]], nn.Module]:
    def build(classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return nn.Sequential(sound(classes, shape), Tail(f))
    return build


class Forgetful(nn.Module):
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: Images) -> Images:
        return x * self.scale


def forgetful(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return classifier(nn.Sequential(Forgetful(), sound(classes, shape).body), classes, shape[0])


class Pooled(nn.Module):
    def forward(self, x: Images) -> Tensor:
        return x.mean((2, 3)) - 0.5


def headless(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(Pooled(), nn.BatchNorm1d(3, affine=True), Tail(lambda x: torch.cat([x, x[:, :1]], 1)))


MODELS = [
    (unnormalised, "normalisation is the model's own"), (too_wide, r"expected float32 \(3, 4\) logits"),
    (failing, "cannot be built .*no such layer"), (differently_seeded, "other weights when built with the same seed"),
    (tailed(lambda x: x.softmax(1)), "not what its head makes"),
    (tailed(lambda x: x.double()), "gave torch.float64"), (tailed(lambda x: x / 0), "not finite"),
    (tailed(lambda x: x + torch.rand(len(x), 1)), "something else the second time"),
    (tailed(lambda x: x - x.mean(0)), "by its neighbours"),
    (forgetful, "a buffer is not persistent"), (headless, "its head cannot be found"),
]


def test_the_model_that_the_broken_ones_change_is_sound() -> None:
    check_model(sound, SHAPE)


@pytest.mark.parametrize(("builder", "message"), MODELS)
def test_a_broken_model_is_caught(builder: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"model .*{message}"):
        check_model(builder, SHAPE)


def part(seed: int, n: int = 30, classes: Any = 3, kind: type[ArrayDataset] = ArrayDataset) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    return kind(rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), np.arange(n) % 3, classes)


class Lending(ArrayDataset):
    """Hands out one and the same tensor."""

    def rows(self, index: Tensor) -> Tensor:
        if not hasattr(self, "lent"):
            self.lent = super().rows(index)
        return self.lent


class Sorting(ArrayDataset):
    def rows(self, index: Tensor) -> Tensor:
        return super().rows(index.sort().values)


class Floating(ArrayDataset):
    def rows(self, index: Tensor) -> Tensor:
        return super().rows(index) / 255


class Stretched(ArrayDataset):
    def fetch(self, index: Tensor, device: Any = "cpu") -> Batch:
        batch = super().fetch(index, device)
        return batch._replace(x=batch.x * 2 - 1)


class Mislabelled(ArrayDataset):
    def fetch(self, index: Tensor, device: Any = "cpu") -> Batch:
        batch = super().fetch(index, device)
        return batch._replace(y=batch.y * 0)


class Nowhere(ArrayDataset):
    def position(self, index: Tensor) -> Tensor:
        return index * 0


class Unstaged(ArrayDataset):
    def staged(self, device: torch.device) -> Dataset:
        return part(99, len(self))


def labelled_beyond(where: Where) -> Splits:
    train = part(0)
    train.targets = train.targets + 1
    return Splits(train, part(1))


def short_labels(where: Where) -> Splits:
    train = part(0)
    train.targets = train.targets.int()
    return Splits(train, part(1))


def overlapping(where: Where) -> Splits:
    train, test = part(0), part(1)
    test.images[4] = train.images[7]
    return Splits(train, test)


def of(kind: type[ArrayDataset]) -> Callable[[Where], Splits]:
    return lambda where: Splits(part(0, kind=kind), part(1))


DATA = [
    (lambda where: (part(0), part(1)), "expected Splits"),
    (lambda where: Splits(part(0), part(1, classes=4)), "differ in classes"),
    (lambda where: Splits(part(0, classes=("a", "b", "a")), part(1, classes=("a", "b", "a"))), "share a name"),
    (labelled_beyond, "labels from 1 to 3 for 3 classes"), (short_labels, "not int64"),
    (overlapping, "1 different rows are in both parts, 0 are known"),
    (lambda where: Splits(part(next(calls) + 100), part(1)), "another fingerprint"),
    (of(Lending), "hands out its own pixels"), (of(Sorting), "in another order"), (of(Floating), "expected uint8"),
    (of(Stretched), r"fetch left \[0, 1\]"), (of(Mislabelled), "other labels than targets"),
    (of(Nowhere), "one position"), (of(Unstaged), "staged it has other rows"),
]


def test_the_data_that_the_broken_ones_change_are_sound() -> None:
    check_data(of(ArrayDataset))


@pytest.mark.parametrize(("loader", "message"), DATA)
def test_broken_data_are_caught(loader: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=f"data .*{message}"):
        check_data(loader)


def test_rows_that_are_known_to_be_shared_are_tolerated() -> None:
    check_data(overlapping, shared=1)


class MeanLoss(Classification):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).mean()[None]


class BatchLoss(Classification):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * batch.x.mean()


class NoGradient(Classification):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).detach()


class Signed(Classification):
    def distance(self, a: Any, b: Any) -> Tensor:
        return a[:, 0] - b[:, 0]


class Apart(Classification):
    def distance(self, a: Any, b: Any) -> Tensor:
        return super().distance(a, b) + 1


class OneSided(Classification):
    def distance(self, a: Any, b: Any) -> Tensor:
        return (a - b)[:, 0].relu()


class Percent(Classification):
    def agree(self, output: Any, target: Tensor) -> Tensor:
        return super().agree(output, target) * 100


class Content(Classification):
    def failed(self, scores: Any, reference: Any) -> None:
        return None


class Discontent(Classification):
    def failed(self, scores: Any, reference: Any) -> str:
        return "never good enough"


class Credulous(Classification):
    def agree(self, output: Any, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float()


class Counting(Classification):
    """Counts samples of the target class as attacked."""

    def score(self, *given: Any, **named: Any) -> Any:
        scores = super().score(*given, **named)
        scores.attack = scores.attack.nan_to_num(1.0)
        return scores


TASKS = [
    (MeanLoss, r"gave the shape \(1,\) for 12 samples"), (BatchLoss, "by its neighbours"), (NoGradient, "no gradient"),
    (Signed, "negative values"), (Apart, "at a distance from itself"), (OneSided, "depends on the order"),
    (Percent, "agree.. is above 1"), (Content, "does not call an attack failed"),
    (Discontent, "calls a working attack failed: never good enough"), (Counting, "not NaN exactly where"),
    (Credulous, "outputs of nan as right"),
]


@pytest.mark.parametrize(("task", "message"), TASKS, ids=[task.__name__ for task, _ in TASKS])
def test_a_broken_task_is_caught(task: type[Classification], message: str) -> None:
    with pytest.raises(AssertionError, match=f"task {task.__name__}: .*{message}"):
        check_task(task(4))
