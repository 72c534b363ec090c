"""Attacks that train on another's poison: what each of them changes in training, and what it is good for."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.attacks.poisoning.blended import Blended
from sidedoor.attacks.strategies.fine_tuned import FineTuned
from sidedoor.attacks.strategies.per_batch import PerBatch, _PoisonedBatches
from sidedoor.attacks.strategies.physical import Physical
from sidedoor.attacks.strategies.trigger_first import TriggerFirst
from sidedoor.attacks.training_controlled.wanet import WaNet
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.bench.spec import Spec
from sidedoor.data.augment import Flip
from sidedoor.data.base import Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.models.small_cnn import small_cnn
from sidedoor.registry import make, reference
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch

DATA = toy(Where(None), train=400, test=20).train
TASK, RUN = Classification(4), AttackerRun.local(Recipe(epochs=1), device="cpu")
BUILD = functools.partial(small_cnn, 4, DATA.shape, width=8)


def success_where_moved(attack: Attack, steps: int) -> tuple[float, float]:
    """Attack success with the patch in its place, and moved to the left and up."""
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=20), device="cpu")
    build = functools.partial(small_cnn, 10, data.train.shape, width=16)
    backdoor = attack.plan(data.train, task, build, run)
    if backdoor.train:
        model = backdoor.train(data.train, task, build, run).model
    else:
        model = run.fit(run.build(build), PoisonedDataset(data.train, backdoor, task), Supervised(task), name="victim")
    batch = Subset(data.test, torch.nonzero(data.test.targets != 0)[:, 0]).fetch(torch.arange(200), run.device)
    stamped = backdoor.doors[0].trigger(batch.x, batch.index)
    patch = stamped != batch.x
    moved = torch.where(torch.roll(patch, (-steps, -steps), (2, 3)), torch.roll(stamped, (-steps, -steps), (2, 3)),
                        batch.x)
    with torch.no_grad():
        inplace, elsewhere = ((model.eval()(x).argmax(1) == 0).float().mean().item() for x in (stamped, moved))
    return inplace, elsewhere


def test_the_trigger_works_elsewhere_when_it_was_moved_in_training() -> None:
    badnets = BadNets(margin=1)
    inplace, elsewhere = success_where_moved(badnets, 3)
    assert inplace > 0.9
    assert elsewhere < 0.6
    # Digits are never mirrored or dimmed at test time, but these are their authors' transformations.
    inplace, moved = success_where_moved(Physical(attack=badnets, shift=0.25, smallest=0.9, largest=1.0), 3)
    assert inplace > 0.9
    assert moved > elsewhere + 0.3


def test_the_goal_is_said_once() -> None:
    assert Physical(AllToOne(2), Blended()).goal == AllToOne(2)
    assert Physical(AllToOne(2), Blended(AllToOne(2))).attack.goal == AllToOne(2)
    with pytest.raises(ConfigError, match="say the goal of the latter instead"):
        Physical(attack=Blended(AllToOne(2)))


@pytest.mark.parametrize("attack", [WaNet(), Physical()])
def test_an_attack_that_trains_by_itself_is_refused(attack: Attack) -> None:
    with pytest.raises(ConfigError, match="expected one that poisons data"):
        Physical(attack=attack)


def test_an_attack_within_is_written_as_any_other_and_decides_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"name": "physical", "attack": {"name": "blended", "ratio": 0.1}}
    assert make("attack", table) == Physical(attack=Blended(ratio=0.1))
    assert reference("attack", table)["attack"]["name"] == "blended"

    def key() -> str:
        return Spec(data="digits", model="small_cnn", attack=table).key("f")

    before = key()
    monkeypatch.setattr(Blended, "version", 2)
    assert key() != before


def test_a_trainer_declares_the_rows_that_it_poisons() -> None:
    declared, expected = (attack.plan(DATA, TASK, BUILD, RUN).poison for attack in (Physical(), BadNets()))
    assert torch.equal(declared.index, expected.index)
    assert declared.rate == expected.rate


def trained(attack: Attack, run: Run) -> nn.Module:
    backdoor = attack.plan(DATA, TASK, BUILD, run)
    assert backdoor.train is not None
    return backdoor.train(DATA, TASK, BUILD, run).model


def test_per_batch_adds_the_promised_share_of_poisoned_samples_to_every_batch() -> None:
    backdoor = BadNets(AllToOne(2)).plan(DATA, TASK, BUILD, RUN)
    poisoned = PoisonedDataset(DATA, backdoor, TASK)
    seen: list[Batch] = []

    class Recorder(Classification):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append(batch)
            return torch.zeros(len(batch.y))

    batch = DATA.fetch(torch.arange(40))
    turned = _PoisonedBatches(Recorder(4), Subset(poisoned, poisoned.rows_at), 0.2, Flip())
    for _ in range(20):
        turned.losses(nn.Identity(), batch)
    both = seen[0]
    assert torch.equal(both.x[:40], batch.x)
    assert torch.equal(both.y[:40], batch.y)
    assert len(both.y) == 50
    drawn = torch.cat([found.x[40:] for found in seen])
    assert (torch.cat([found.y[40:] for found in seen]) == 2).all()
    # The patch lies on the right, or on the left where the sample was mirrored.
    stamped = backdoor.doors[0].trigger.pattern  # type: ignore[union-attr]
    right = (drawn[..., -3:, -3:] == stamped).flatten(1).all(1)
    left = (drawn[..., -3:, :3] == stamped.flip(2)).flatten(1).all(1)  # type: ignore[operator]
    assert (right | left).all()
    assert 0.3 < right.float().mean() < 0.7


def test_few_poisoned_samples_are_enough_where_they_are_in_every_batch() -> None:
    faint = Blended(rate=0.01)
    run = AttackerRun.local(Recipe(epochs=10, batch=32), device="cpu")
    door = faint.plan(DATA, TASK, BUILD, run).doors[0]
    batch = Subset(DATA, torch.nonzero(DATA.targets != 0)[:, 0]).fetch(torch.arange(200))
    x = stamp(door.trigger, batch.x, batch.index, DATA.space)

    def success(model: nn.Module) -> float:
        with torch.no_grad():
            return (model.eval()(x).argmax(1) == 0).float().mean().item()

    plain = run.fit(run.build(BUILD), PoisonedDataset(DATA, faint.plan(DATA, TASK, BUILD, run), TASK), Supervised(TASK),
                    name="plain")
    assert success(plain) < 0.5
    assert success(trained(PerBatch(attack=faint), run)) > 0.9


def test_trigger_first_sees_the_poisoned_samples_first_and_then_the_clean_data() -> None:
    run = AttackerRun.local(Recipe(epochs=2, batch=32), device="cpu")
    trained(TriggerFirst(attack=BadNets(rate=0.2), epochs=3), run)
    assert {name: len(epochs) for name, epochs in run.history.items()} == {"trigger": 3, "victim": 2}
    # All poisoned samples are of one class: after the first phase there is nothing left to learn of them.
    first, *_, last = (epoch["loss"] for epoch in run.history["trigger"])
    assert last < 0.5 * first
    assert run.history["victim"][0]["loss"] > last


def test_a_fine_tuned_victim_starts_from_the_clean_network_and_leaves_it_alone() -> None:
    run = AttackerRun.local(Recipe(epochs=2, batch=32, optimizer="adam", lr=1e-3), device="cpu")
    honest = copy.deepcopy(run.clean_model(BUILD, DATA, TASK))
    still = trained(FineTuned(epochs=1, lr=1e-12), run)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(honest.parameters(), still.parameters(), strict=True))
    moved = trained(FineTuned(epochs=1, lr=1e-2), run)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(honest.parameters(), moved.parameters(), strict=True))
    after = run.clean_model(BUILD, DATA, TASK)
    assert all(torch.equal(a, b) for a, b in zip(honest.parameters(), after.parameters(), strict=True))
