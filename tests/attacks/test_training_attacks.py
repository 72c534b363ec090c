"""Attackers who train the model: what a batch becomes, and what the delivered model does."""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.base import Attack
from sidedoor.attacks.input_aware import InputAware, _alikeness, _Together
from sidedoor.attacks.wanet import WaNet, _Disturbed, _Warped
from sidedoor.data.base import PHOTO, Splits
from sidedoor.data.sets.digits import digits
from sidedoor.data.sets.toy import toy
from sidedoor.data.where import Where
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.goals.untargeted import Untargeted
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.generated import Generated, paint
from sidedoor.types import Backdoor, Batch, Door, Planted, Task, Trigger

TOY = toy(Where(None), train=400, test=200)
TASK = Classification(4)


def local(epochs: int = 1, seed: int = 0) -> Run:
    return Run.local(Recipe(epochs=epochs, batch=32), seed, device="cpu")


def plan(attack: Attack, seed: int = 0) -> Backdoor:
    return attack.plan(TOY.train, TASK, nn.Identity, local(seed=seed))


def trained(attack: Attack, data: Splits, task: Task, run: Run, width: int = 8) -> Planted:
    build = functools.partial(small_cnn, len(data.train.classes), data.train.shape, width=width)
    backdoor = attack.plan(data.train, task, build, run)
    assert backdoor.train is not None
    assert len(backdoor.poison.index) == 0
    return backdoor.train(data.train, task, build, run)


class Recorder(Task):
    """Keeps the batch that the loss is asked for."""

    classes = 4
    seen: Batch
    agree = TASK.agree  # type: ignore[assignment]
    distance = TASK.distance  # type: ignore[assignment]
    failed = TASK.failed  # type: ignore[assignment]
    predict = TASK.predict  # type: ignore[assignment]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.seen = batch
        return batch.x.mean((1, 2, 3))


def mixed(door: Door, rate: float, noise: float) -> tuple[Batch, Batch]:
    """A batch of 300 before and after WaNet's objective."""
    torch.manual_seed(0)
    task, batch = Recorder(), TOY.train.fetch(torch.arange(300))
    _Warped(task, (door,), PHOTO, rate, noise).losses(nn.Identity(), batch)
    return batch, task.seen


@pytest.mark.parametrize("attack", [WaNet(), InputAware(width=4)])
def test_the_plan_pickles_follows_the_seed_and_poisons_no_data(attack: Attack) -> None:
    x = torch.rand(2, 3, 16, 16)

    def stamped(backdoor: Backdoor) -> Tensor:
        return backdoor.doors[0].trigger(x, torch.arange(2))

    backdoor = plan(attack)
    copy = pickle.loads(pickle.dumps(backdoor))
    assert torch.equal(stamped(copy), stamped(backdoor))
    assert callable(copy.train)
    assert torch.equal(stamped(plan(attack)), stamped(backdoor))
    assert not torch.equal(stamped(plan(attack, seed=1)), stamped(backdoor))


@pytest.mark.parametrize(("attack", "goal"), [(InputAware, MultiTarget()), (InputAware, Untargeted())])
def test_goals_beyond_one_generator_are_refused_with_the_reason(attack: Any, goal: Any) -> None:
    with pytest.raises(ConfigError, match="one generator leads each image to one label"):
        attack(goal)


def test_shares_of_more_than_the_whole_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"rate 0.6 and noise_rate 0.5 given; expected at most 1"):
        WaNet(rate=0.6, noise_rate=0.5)
    with pytest.raises(ConfigError, match=r"rate 0.95 and cross_rate 0.1 given; expected at most 1"):
        InputAware(rate=0.95)


def test_wanet_attacks_and_disturbs_the_promised_shares_and_leaves_the_rest() -> None:
    door = plan(WaNet(AllToOne(2))).doors[0]
    before, after = mixed(door, 0.3, 0.2)
    relabelled = before.y != after.y
    changed = (before.x != after.x).flatten(1).any(1)
    eligible = before.y != 2
    assert relabelled[eligible].float().mean() == pytest.approx(0.3, abs=0.08)
    assert after.y[relabelled].eq(2).all()
    assert not relabelled[~eligible].any()
    assert (changed & ~relabelled).float().mean() == pytest.approx(0.2, abs=0.08)
    warped = (door.trigger(before.x, before.index).clamp(0, 1) * 255).round()
    torch.testing.assert_close((after.x * 255)[relabelled], warped[relabelled], atol=1e-3, rtol=0)


def test_wanet_attacks_nothing_at_rate_zero_and_everything_eligible_at_one() -> None:
    door = plan(WaNet(AllToAll())).doors[0]
    before, after = mixed(door, 0.0, 0.0)
    assert torch.equal(before.x, after.x)
    assert torch.equal(before.y, after.y)
    before, after = mixed(door, 1.0, 0.0)
    assert torch.equal(after.y, (before.y + 1) % 4)


def test_a_disturbed_warp_differs_from_the_warp_by_at_most_a_unit_in_position() -> None:
    warp = plan(WaNet()).doors[0].trigger
    ramp = torch.linspace(0, 1, 16).expand(2, 1, 16, 16)
    index = torch.arange(2)
    difference = (_Disturbed(warp)(ramp, index) - warp(ramp, index)).abs()
    # The ramp climbs 1 across a width of 2, and 1 / 16 is the largest disturbance.
    assert 0.02 < difference.max() <= 1 / 32 + 1e-6
    assert not torch.equal(_Disturbed(warp)(ramp, index), _Disturbed(warp)(ramp, index))


def test_wanet_gives_several_targets_a_field_each() -> None:
    doors = plan(WaNet(MultiTarget((0, 3)))).doors
    assert not torch.equal(doors[0].trigger.grid, doors[1].trigger.grid)
    torch.manual_seed(0)
    task, batch = Recorder(), TOY.train.fetch(torch.arange(300))
    _Warped(task, doors, PHOTO, 1.0, 0.0).losses(nn.Identity(), batch)
    assert {0, 3} <= set(task.seen.y[(batch.y == 1) | (batch.y == 2)].tolist()) <= {0, 3}


def test_alikeness_is_the_ratio_of_root_mean_square_distances() -> None:
    x, drawn = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    ratio = _alikeness(x, x + 0.6, drawn, drawn + torch.tensor([0.2, 0.3])[:, None, None, None])
    assert ratio.item() == pytest.approx((0.6 / 0.2 + 0.6 / 0.3) / 2, rel=1e-3)
    same = torch.zeros(2, 1, 4, 4, requires_grad=True)
    _alikeness(x, x + 0.6, same, drawn).backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_input_aware_crosses_triggers_between_images_and_keeps_their_labels() -> None:
    attack = InputAware(AllToOne(1), rate=0.0, cross_rate=1.0, width=4)
    trigger = plan(attack).doors[0].trigger
    task, batch = Recorder(), TOY.train.fetch(torch.arange(6))
    trigger.train()
    for _ in range(30):  # statistics of real images, without which all are drawn nearly the same
        trigger(batch.x, batch.index)
    trigger.eval()
    nn.init.normal_(trigger.pattern.last.weight)
    _Together(attack, task, trigger, PHOTO, Recipe()).losses(nn.Identity(), batch)
    other = batch.x.roll(1, 0)
    mask, pattern = trigger.mask(other), trigger.pattern(other)
    expected = (((1 - mask) * batch.x + mask * pattern) * 255).round() / 255
    assert torch.equal(task.seen.y, batch.y)
    assert (task.seen.x - expected).abs().max() < 1.01 / 255
    assert (task.seen.x - trigger(batch.x, batch.index)).abs().max() > 2 / 255


def test_input_aware_learns_triggers_that_differ_between_images_and_freezes_them() -> None:
    attack = InputAware(AllToAll(), width=4, mask_epochs=4)
    run = local(epochs=4)
    planted = trained(attack, TOY, TASK, run)
    trigger, untrained = planted.doors[0].trigger, plan(attack).doors[0].trigger
    x, _, index = TOY.test.fetch(torch.arange(60))
    assert {phase: len(epochs) for phase, epochs in run.history.items()} == {"masks": 4, "victim": 4}
    assert not trigger.training
    assert not any(p.requires_grad for p in trigger.parameters())
    pattern = trigger.pattern(x)
    assert (pattern - pattern.roll(1, 0)).square().mean().sqrt() > 0.05
    assert (trigger(x, index) - x).abs().max() > 0.2
    untrained.load_state_dict(trigger.state_dict())
    assert torch.equal(untrained(x, index), trigger(x, index))
    before = plan(attack).doors[0].trigger
    assert not torch.equal(before.pattern.last.weight, trigger.pattern.last.weight)
    assert not torch.equal(before.mask[0].last.weight, trigger.mask[0].last.weight)
    # The masks' phase alone made them sparse: untrained ones cover about half of the image.
    assert before.mask(x).mean() > 0.2 > trigger.mask(x).mean()


def test_wanet_opens_the_door_for_its_own_field_only() -> None:
    data, task, run = digits(Where(None)), Classification(10), Run.local(Recipe(epochs=6), device="cpu")
    planted = trained(WaNet(), data, task, run, width=16)
    door = planted.doors[0]
    scores = task.score(planted.model, data.test, door, run).means()
    disturbed = replace(door, trigger=_Disturbed(door.trigger))
    noise = task.score(planted.model, data.test, disturbed, run).means()
    assert scores["clean"] > 0.9
    assert scores["attack"] > 0.7
    assert noise["attack"] < scores["attack"] / 2


class Crossed(Trigger):
    """Each image with the trigger that was drawn for the one before it in the batch."""

    def __init__(self, trigger: Generated):
        super().__init__()
        self.trigger = trigger

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        other = x.roll(1, 0)
        return paint(x, self.trigger.mask(other), self.trigger.pattern(other))


@pytest.mark.slow
def test_input_aware_prefers_the_image_that_the_trigger_was_drawn_for() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = Run.local(Recipe(epochs=30, batch=32), device="cpu")
    planted = trained(InputAware(rate=0.3, width=8, mask_epochs=10), data, task, run, width=16)
    trigger = planted.doors[0].trigger
    assert isinstance(trigger, Generated)
    own = task.score(planted.model, data.test, planted.doors[0], run).means()
    crossed = task.score(planted.model, data.test, Door(Crossed(trigger), AllToOne()), run).means()
    assert own["clean"] > 0.95
    assert own["attack"] > 0.6
    assert crossed["attack"] < own["attack"] - 0.1
