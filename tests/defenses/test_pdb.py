"""PDB: the stamp and the order of classes, and how little of a backdoor of few rows is left behind them.

Attack success says nothing here: where the malicious trigger wins, the answer is the class before the target, and every
triggered image is wrong. So accuracy under the trigger is what counts.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sidedoor.algorithms.stamped import Stamped
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import split
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.training.pdb import PDB, DefensiveBackdoor, shifted
from sidedoor.engine import Recipe, Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.models.base import Classifier, penultimate
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch

TASK = Classification(10)
STAMP = Patch(torch.full((1, 2, 2), 2.0), "top left")
ORDER = shifted(torch.arange(10), 10)


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(10.0).expand(len(x), 10)


def test_logits_are_brought_back_to_the_classes_that_the_stamp_left() -> None:
    found = Stamped(Constant(), STAMP, ORDER)(torch.zeros(3, 1, 16, 16))
    assert found[0].tolist() == [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    labels = torch.arange(10)
    certain = nn.functional.one_hot(shifted(labels, 10), 10)  # a network that has learned the stamp
    assert torch.equal(certain[:, ORDER].argmax(1), labels)


def test_the_network_sees_the_stamp_as_no_file_holds_it() -> None:
    seen: list[Tensor] = []

    class Watching(Constant):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    x = torch.rand(3, 1, 16, 16)
    Stamped(Watching(), STAMP, ORDER)(x)
    assert (seen[0][..., :2, :2] == 2).all()
    assert torch.equal(seen[0][..., 2:], x[..., 2:])
    assert x.max() <= 1  # what was given is left alone


def test_a_state_holds_the_stamp_and_features_are_the_networks() -> None:
    model = Stamped(build(), STAMP, ORDER).eval()
    assert {"trigger.pattern", "order"} < model.state_dict().keys()
    again = Stamped(build(), Patch(torch.zeros(1, 2, 2), "top left"), torch.arange(10)).eval()
    again.load_state_dict(model.state_dict())
    x = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(again(x), model(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x))
    logits, features = penultimate(model, x)
    inner, same = penultimate(model.model, STAMP(x, torch.arange(4)))
    torch.testing.assert_close(features, same)
    torch.testing.assert_close(logits, inner.roll(-1, 1))
    assert isinstance(model.model, Classifier)


def test_defensive_samples_are_stamped_clean_ones_of_the_next_class() -> None:
    train, clean = split(digits(Where(None)).train, 0.15, 0)
    objective = DefensiveBackdoor(TASK, clean, STAMP, 0.5)
    objective.start(build(), Run.local(device="cpu", augment=lambda batch: batch._replace(x=batch.x.flip(3))))
    plain, made = clean.fetch(torch.arange(20)), objective.defensive(torch.arange(20))
    assert torch.equal(made.y, (plain.y + 1) % 10)
    assert (made.x[..., :2, :2] == 2).all()  # behind the augmentation
    assert torch.equal(made.x[..., 2:, :], plain.x.flip(3)[..., 2:, :])

    seen: list[Batch] = []

    class Watching(Classification):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append(batch)
            return super().loss(model, batch)

    watching = DefensiveBackdoor(Watching(10), clean, STAMP, 0.5)
    watching.start(build(), Run.local(device="cpu"))
    batch = train.fetch(torch.arange(32))
    watching.losses(build(), batch)
    assert len(seen[0].x) == 32 + 16
    assert torch.equal(seen[0].y[:32], batch.y)
    assert (seen[0].x[32:, ..., :2, :2] == 2).all()
    assert seen[0].x[:32].max() <= 1


def test_accuracy_under_the_trigger_comes_back() -> None:
    splits = digits(Where(None))
    train, clean = split(splits.train, 0.15, 0)
    run = Run.local(Recipe(epochs=10), device="cpu")
    backdoor = BadNets(rate=0.02).plan(train, TASK, build, AttackerRun.of(run))
    view, _ = seal(PoisonedDataset(train, backdoor, TASK))
    plain = run.fit(run.build(build), view, Supervised(TASK), name="plain")
    model = PDB(size=0.4, repeats=1.0).train(view, clean, TASK, build, run)
    assert isinstance(model, Stamped)

    door = backdoor.doors[0]
    before_target = Door(door.trigger, AllToOne(9))  # the class that h leads to the target 0

    def numbers(model: nn.Module, door: Door) -> dict[str, float | None]:
        return TASK.score(model, splits.test, door, run).means()

    before, after, shift = numbers(plain, door), numbers(model, door), numbers(model, before_target)
    assert before["recovered"] < 0.3  # the premise
    assert after["recovered"] > 0.5
    assert after["attack"] < 0.1
    assert shift["attack"] < 0.5 < before["attack"]
    assert after["clean"] > 0.6
