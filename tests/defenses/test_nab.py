"""NAB: which rows are stamped, what they are called, and accuracy under the trigger behind the stamp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.stamped import Stamped
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.training._non_adversarial import GreySquare, Isolation, StampedRows
from sidedoor.defenses.training.nab import NAB, nearest
from sidedoor.defenses.training.nab_vd import NABVD
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch

TASK = Classification(10)


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


def test_centres_are_those_of_trusted_rows_by_angle() -> None:
    features = torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0], [0.1, 5.0], [3.0, 0.2]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    trusted = torch.tensor([True, True, True, True, False])
    assert nearest(features, labels, trusted).tolist() == [0, 0, 1, 1, 0]
    alone = torch.tensor([True, True, False, False, False])  # nobody is of a class without a centre
    assert nearest(features, labels, alone).tolist() == [0] * 5


def test_rows_of_another_class_than_their_label_are_stamped_and_called_by_it() -> None:
    whole = ArrayDataset(torch.full((6, 1, 4, 4), 200, dtype=torch.uint8), [0, 1, 0, 1, 0, 1], 2)
    data = Subset(whole, torch.tensor([5, 0, 3, 2]))  # a filter may have left these
    seen: list[Batch] = []

    class Watching(Classification):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append(batch)
            return super().loss(model, batch)

    labels = torch.tensor([0, 0, 1, 0])  # the first has another one
    objective = StampedRows(Watching(2), data, labels, Patch(torch.full((1, 1, 1), 0.5), "top left"))
    objective.losses(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), data.fetch(torch.tensor([2, 0, 1, 3])))
    assert seen[0].y.tolist() == [1, 0, 0, 0]
    assert (seen[0].x[:, 0, 0, 0] == 0.5).tolist() == [False, True, False, False]
    assert (seen[0].x[:, 0, 1:] == data.fetch(torch.arange(4)).x[:, 0, 1:]).all()


def test_the_stamp_takes_the_trigger_s_power(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = digits(Where(None))
    run = Run.local(Recipe(epochs=6, lr=0.02, batch=32), device="cpu")
    train = Subset(splits.train, torch.arange(0, len(splits.train), 2))
    backdoor = BadNets(rate=0.1).plan(train, TASK, build, AttackerRun.of(run))
    data = PoisonedDataset(train, backdoor, TASK)
    view, order = seal(data)
    truth = data.is_poisoned()[order]
    plain = run.fit(run.build(build), view, Supervised(TASK), name="plain")
    method = NAB(isolation_epochs=8, isolation_rate=0.08, pretraining_epochs=6, window=0.4, size=0.125)
    isolated = Isolation(method.isolation_rate, method.gamma, method.isolation_epochs).rows(view, TASK, build, run)
    monkeypatch.setattr(Isolation, "rows", lambda *given: isolated)  # once is enough
    model = method.train(view, TASK, build, run)
    assert isinstance(model, Stamped)

    def numbers(model: nn.Module) -> dict[str, float | None]:
        return TASK.score(model, splits.test, backdoor.doors[0], run).means()

    before, after = numbers(plain), numbers(model)
    assert truth[isolated].mean() > 0.6 > truth.mean()  # the premise
    assert before["recovered"] < 0.1  # the premise
    assert after["recovered"] > 0.5
    assert after["clean"] > before["clean"] - 0.1


def test_a_task_without_losses_of_samples_is_refused() -> None:
    @dataclass(frozen=True)
    class Joint(Classification):
        per_sample: ClassVar[bool] = False

    data = ArrayDataset(torch.zeros(6, 1, 16, 16, dtype=torch.uint8), [0, 1, 0, 1, 0, 1], 10)
    with pytest.raises(ConfigError, match="Joint has a loss of batches only"):
        NAB().train(data, Joint(10), build, Run.local(device="cpu"))


def test_with_verified_samples_isolated_rows_get_what_a_network_trained_on_those_says(
        monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.arange(40) % 2
    shades = torch.where(y == 1, 200, 50).to(torch.uint8)[:, None, None, None].expand(40, 1, 4, 4)
    given = y.clone()
    given[:6] = 0  # rows 1, 3 and 5 are called 0
    train, clean = ArrayDataset(shades, given, 2), ArrayDataset(shades[:20], y[:20], 2)
    monkeypatch.setattr(Isolation, "rows", lambda *given: torch.arange(40) < 12)
    seen: list[Tensor] = []
    monkeypatch.setattr(GreySquare, "train", lambda self, train, labels, *rest: seen.append(labels) or nn.Identity())
    run = Run.local(Recipe(epochs=1, lr=0.1), device="cpu")
    NABVD(steps=60).train(train, clean, Classification(2), lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), run)
    assert seen[0].tolist() == y.tolist()
