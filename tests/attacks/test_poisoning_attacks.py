"""What the attacks on training data change, row by row."""

from __future__ import annotations

import functools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning.blended import Blended
from sidedoor.attacks.poisoning.sig import SIG
from sidedoor.attacks.poisoning.tact import TaCT
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import ArrayDataset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.goals.from_classes import FromClasses
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.goals.untargeted import Untargeted
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TASK = Classification(5)
ROWS = torch.arange(200)


def noise(shape: tuple[int, int, int] = (3, 16, 16)) -> ArrayDataset:
    """200 images of noise, 40 of each of 5 classes."""
    images = torch.randint(60, 196, (200, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ArrayDataset(images, np.arange(200) % 5, 5)


def plan(attack: Attack, seed: int = 0, data: ArrayDataset | None = None) -> Backdoor:
    return attack.plan(data or noise(), TASK, nn.Identity, AttackerRun.local(Recipe(), seed, device="cpu"))


@pytest.mark.parametrize("attack", [Blended(rate=0.25), SIG(rate=0.25), TaCT(rate=0.25, cover_rate=0.25)])
def test_the_seed_of_the_run_decides_the_rows_and_nothing_else_does(attack: Attack) -> None:
    first, again, other = plan(attack), plan(attack), plan(attack, seed=1)
    assert torch.equal(first.poison.index, again.poison.index)
    assert not torch.equal(first.poison.index, other.poison.index)
    copy = pickle.loads(pickle.dumps(first))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(copy.doors[0].trigger(x, ROWS[:2]), first.doors[0].trigger(x, ROWS[:2]))
    assert torch.equal(copy.poison.index, first.poison.index)


@pytest.mark.parametrize(("attack", "rows"), [(Blended(rate=0.1), 16), (SIG(rate=0.3), 12), (TaCT(rate=0.2), 8)])
def test_a_rate_is_a_share_of_the_eligible_samples(attack: Attack, rows: int) -> None:
    poison = plan(attack).poison
    assert int((~poison.cover).sum()) == rows
    assert poison.rate == attack.rate  # type: ignore[attr-defined]


def test_blended_rows_are_the_mean_of_image_and_pattern_in_8_bits_and_mislabelled() -> None:
    data, backdoor = noise(), plan(Blended(rate=0.2, ratio=0.2))
    rows = backdoor.poison.index
    pattern = backdoor.doors[0].trigger.pattern * 255
    expected = (0.8 * data.images[rows].float() + 0.2 * pattern).round()
    poisoned = PoisonedDataset(data, backdoor, TASK)
    assert (poisoned.rows(rows).float() - expected).abs().max() <= 1
    assert (poisoned.rows(rows).float() - expected).abs().mean() < 0.01
    assert set(data.targets[rows].tolist()) == {1, 2, 3, 4}
    assert poisoned.targets[rows].eq(0).all()
    others = torch.tensor([i for i in range(200) if i not in set(rows.tolist())])
    assert torch.equal(poisoned.rows(others), data.rows(others))


def test_blended_patterns_follow_the_seed_and_differ_between_targets() -> None:
    goal = MultiTarget((0, 3))
    first, second = (door.trigger.pattern for door in plan(Blended(goal)).doors)
    assert not torch.equal(first, second)
    assert torch.equal(first, plan(Blended(goal), seed=9).doors[0].trigger.pattern)
    assert not torch.equal(first, plan(Blended(goal, seed=1)).doors[0].trigger.pattern)
    assert abs(first.mean() - 0.5) < 0.05
    assert first.std() == pytest.approx(math.sqrt(1 / 12), abs=0.02)


def test_sig_stamps_the_target_class_only_and_keeps_every_label() -> None:
    data, backdoor = noise(), plan(SIG(AllToOne(2), rate=0.5))
    poisoned = PoisonedDataset(data, backdoor, TASK)
    assert torch.equal(poisoned.targets, data.targets)
    assert data.targets[backdoor.poison.index].eq(2).all()
    wave = 20 * np.sin(2 * np.pi * 6 * np.arange(1, 17) / 16)
    added = poisoned.rows(backdoor.poison.index).numpy().astype(float) - data.rows(backdoor.poison.index).numpy()
    np.testing.assert_allclose(added, np.broadcast_to(np.round(wave), added.shape), atol=1)


def test_sig_trains_with_one_strength_and_is_scored_with_the_other() -> None:
    backdoor = plan(SIG(MultiTarget((1, 4)), rate=0.5, delta=0.1, test_delta=0.2))
    doors = backdoor.doors
    assert [(d.trigger.delta, d.scored) for d in doors] == [(0.1, False), (0.1, False), (0.2, True), (0.2, True)]
    assert set(backdoor.poison.door.tolist()) == {0, 1}
    assert [d.trigger.delta for d in plan(SIG(delta=0.1)).doors if d.scored] == [0.1]


def test_sig_gives_each_target_its_own_frequency_that_the_width_carries() -> None:
    backdoor = plan(SIG(MultiTarget((0, 1, 2)), rate=0.5))
    assert [door.trigger.frequency for door in backdoor.doors] == [6, 7, 1]
    assert torch.equal(backdoor.poison.door, torch.tensor([0, 1, 2])[noise().targets[backdoor.poison.index]])
    with pytest.raises(ConfigError, match="3 target classes given; images 6 wide carry 2"):
        plan(SIG(MultiTarget((0, 1, 2))), data=noise((1, 6, 6)))


def test_tact_relabels_sources_and_stamps_others_truthfully() -> None:
    data = noise()
    backdoor = plan(TaCT(AllToOne(0), source_classes=(1, 3), rate=0.5, cover_rate=0.25))
    poison, poisoned = backdoor.poison, PoisonedDataset(data, backdoor, TASK)
    truth, labels = data.targets[poison.index], poisoned.targets[poison.index]
    assert set(truth[~poison.cover].tolist()) == {1, 3}
    assert labels[~poison.cover].eq(0).all()
    assert set(truth[poison.cover].tolist()) == {2, 4}
    assert int(poison.cover.sum()) == 20
    assert torch.equal(labels[poison.cover], truth[poison.cover])
    patch = poisoned.rows(poison.index)[..., -3:, -3:]
    assert torch.equal(patch, (torch.arange(9).reshape(3, 3) % 2 == 0).to(torch.uint8).mul(255).expand_as(patch))


def test_only_source_classes_are_eligible() -> None:
    goal = plan(TaCT(AllToOne(2), source_classes=(1, 3), rate=0.5)).doors[0].goal
    assert goal == FromClasses(2, (1, 3))
    y = torch.arange(5)
    assert goal.eligible(TASK, y).tolist() == [False, True, False, True, False]
    assert goal.target(TASK, y, y).tolist() == [2] * 5


@pytest.mark.parametrize("sources", [(), (1, 1), (0, 1)])
def test_sources_that_are_none_repeated_or_the_target_are_refused(sources: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="without the target class 0"):
        plan(TaCT(source_classes=sources))


@pytest.mark.parametrize(("attack", "goal", "reason"), [
    (SIG, AllToAll(), "truly are of the class"),
    (SIG, Untargeted(), "truly are of the class"),
    (TaCT, AllToAll(), "source classes to one target"),
    (TaCT, MultiTarget(), "source classes to one target"),
])
def test_a_goal_that_makes_no_sense_is_refused_with_the_reason(attack: Any, goal: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        attack(goal)


@pytest.mark.parametrize("goal", [AllToAll(), MultiTarget((0, 1)), Untargeted()])
def test_blended_takes_every_goal(goal: Any) -> None:
    data, backdoor = noise(), plan(Blended(goal, rate=0.5))
    rows = backdoor.poison.index
    assert (PoisonedDataset(data, backdoor, TASK).targets[rows] != data.targets[rows]).all()


def test_tact_fires_on_the_source_class_and_not_on_the_others() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=10), device="cpu")
    build = functools.partial(small_cnn, 10, data.train.shape, width=16)
    attack = TaCT(source_classes=(1,), rate=0.4, cover_rate=0.1)
    door = attack.plan(data.train, task, build, run).doors[0]
    poisoned = PoisonedDataset(data.train, attack.plan(data.train, task, build, run), task)
    model = run.fit(run.build(build), poisoned, Supervised(task), name="victim")
    of_source = task.score(model, data.test, door, run).means()
    of_others = task.score(model, data.test, Door(door.trigger, FromClasses(0, tuple(range(2, 10)))), run).means()
    assert of_source["attack"] is not None
    assert of_source["attack"] > 0.8
    assert of_others["attack"] is not None
    assert of_others["attack"] < 0.1
    assert of_source["clean"] is not None
    assert of_source["clean"] > 0.95
