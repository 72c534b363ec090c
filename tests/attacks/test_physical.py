"""Training under transformations makes a trigger work where it was not put."""

from __future__ import annotations

import functools

import pytest
import torch

from sidedoor.attacks.badnets import BadNets
from sidedoor.attacks.base import Attack
from sidedoor.attacks.blended import Blended
from sidedoor.attacks.physical import Physical
from sidedoor.attacks.wanet import WaNet
from sidedoor.bench.spec import Spec
from sidedoor.data.base import Subset
from sidedoor.data.poisoned import PoisonedDataset
from sidedoor.data.sets.digits import digits
from sidedoor.data.where import Where
from sidedoor.engine import Recipe, Run, Supervised
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.models.small_cnn import small_cnn
from sidedoor.registry import make, reference
from sidedoor.tasks.classification import Classification


def success_where_moved(attack: Attack, steps: int) -> tuple[float, float]:
    """Attack success with the patch in its place, and moved to the left and up."""
    data, task = digits(Where(None)), Classification(10)
    run = Run.local(Recipe(epochs=20), device="cpu")
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
