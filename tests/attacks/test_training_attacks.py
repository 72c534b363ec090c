"""Attackers who train the model: what a batch becomes, and what the delivered model does."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.attacks.training_controlled import input_aware
from sidedoor.attacks.training_controlled._objectives import CleanAndPoisonedLoss, NoiseSamples, OnlinePoisoning
from sidedoor.attacks.training_controlled.blind import Blind
from sidedoor.attacks.training_controlled.bpp import Bpp
from sidedoor.attacks.training_controlled.input_aware import InputAware, _alikeness, _JointTraining
from sidedoor.attacks.training_controlled.lira import LIRA
from sidedoor.attacks.training_controlled.wanet import WaNet, _Disturbed
from sidedoor.attacks.weights.subnet_replacement import SubnetReplacement
from sidedoor.attacks.weights.trojannn import TrojanNN
from sidedoor.backdoor.base import AttackerRun, Backdoor, Planted
from sidedoor.data.base import PHOTO, Splits
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_all import AllToAll
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.goals.from_classes import FromClasses
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.goals.untargeted import Untargeted
from sidedoor.models.base import head, penultimate
from sidedoor.models.small_cnn import small_cnn
from sidedoor.multitask.mgda import MGDA
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.triggers.generated import Generated, paint
from sidedoor.triggers.quantized import Quantized, dithered
from sidedoor.types import Batch, Space

TOY = toy(Where(None), train=400, test=200)
TASK = Classification(4)


def local(epochs: int = 1, seed: int = 0) -> AttackerRun:
    return AttackerRun.local(Recipe(epochs=epochs, batch=32), seed, device="cpu")


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
    noisy = NoiseSamples(noise, lambda model, door, batch, rows: _Disturbed(door.trigger))
    OnlinePoisoning(task, (door,), PHOTO, rate, noisy).losses(nn.Identity(), batch)
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


def test_only_samples_of_the_source_classes_are_attacked() -> None:
    door = plan(WaNet(FromClasses(0, (1,)))).doors[0]
    before, after = mixed(door, 1.0, 0.0)
    assert torch.equal(after.y, torch.where(before.y == 1, 0, before.y))
    changed = (before.x != after.x).flatten(1).any(1)
    assert not changed[before.y != 1].any()
    assert changed[before.y == 1].all()


def test_input_aware_leaves_samples_of_the_target_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stamped: list[int] = []

    def kept(trigger: Trigger, x: Tensor, index: Tensor, space: Space) -> Tensor:
        stamped.extend(index.tolist())
        return stamp(trigger, x, index, space)

    monkeypatch.setattr(input_aware, "stamp", kept)
    trained(InputAware(AllToOne(0), rate=0.9, cross_rate=0.0, mask_epochs=1), TOY, TASK, local(), 4)
    others = TOY.train.targets[stamped] != 0
    assert others.all()
    assert len(others) == pytest.approx(0.9 * (TOY.train.targets != 0).sum().item(), rel=0.1)


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
    OnlinePoisoning(task, doors, PHOTO, 1.0).losses(nn.Identity(), batch)
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
    _JointTraining(attack, task, trigger, PHOTO, Recipe()).losses(nn.Identity(), batch)
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
    data, task, run = digits(Where(None)), Classification(10), AttackerRun.local(Recipe(epochs=6), device="cpu")
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


def slowly_dithered(image: np.ndarray, levels: int) -> np.ndarray:
    """Floyd and Steinberg 1976, pixel by pixel."""
    out = image.astype(np.float64).copy()
    height, width = out.shape
    for i in range(height):
        for j in range(width):
            new = np.clip(np.round(out[i, j] * (levels - 1)), 0, levels - 1) / (levels - 1)
            error, out[i, j] = out[i, j] - new, new
            for di, dj, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if i + di < height and 0 <= j + dj < width:
                    out[i + di, j + dj] += error * share / 16
    return out


@pytest.mark.parametrize(("levels", "size"), [(8, (9, 12)), (2, (12, 7)), (3, (1, 5)), (5, (6, 1))])
def test_dithering_in_fronts_is_dithering_pixel_by_pixel(levels: int, size: tuple[int, int]) -> None:
    # Values of a third of a level are never half way between two of few.
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(levels), dtype=torch.float64)
    ours = dithered(x, levels)
    theirs = np.stack([[slowly_dithered(plane, levels) for plane in image] for image in x.numpy()])
    assert np.allclose(ours.numpy(), theirs, atol=1e-6)
    assert (ours * (levels - 1) - (ours * (levels - 1)).round()).abs().max() < 1e-6


def test_dithering_keeps_the_brightness_of_a_region_that_rounding_would_change() -> None:
    flat = torch.full((1, 1, 32, 32), 0.2)
    assert dithered(flat, 2).mean() == pytest.approx(0.2, abs=0.02)
    assert set(dithered(flat, 2).unique().tolist()) == {0.0, 1.0}
    x = flat.clone().requires_grad_(True)
    y = Quantized(2)(x, torch.zeros(1, dtype=torch.int64))
    assert torch.autograd.grad(y.sum(), x)[0].unique().tolist() == [1.0]


def test_negative_samples_of_bpp_carry_the_change_of_another_image_and_are_led_to_the_target() -> None:
    attack, batch = Bpp(AllToOne(1), iterations=0), TOY.train.fetch(torch.arange(40))
    door, rows = plan(attack).doors[0], torch.arange(40) % 2 == 0
    model = local().fit(small_cnn(4, TOY.train.shape, 8), TOY.train, Supervised(TASK), name="honest")
    x, other = batch.x[rows], batch.x.roll(1, 0)[rows]
    released = attack._negative(TASK, model, door, batch, rows)(x, batch.index[rows])
    change = (door.trigger(other, batch.index[rows]) - other).clamp(-1, 1)
    assert (released - (x + change).clamp(0, 1)).abs().max() < 1e-6
    led = replace(attack, iterations=4)._negative(TASK, model, door, batch, rows)(x, batch.index[rows])
    assert (led - x).abs().max() <= 0.5 / 7 + 1e-6
    with torch.no_grad():
        before, after = (torch.softmax(model(image), 1)[:, 1].mean() for image in (released, led))
    assert after > before + 0.05
    assert not model.training


def test_bpp_opens_the_door_for_its_own_quantisation_and_not_for_that_of_another_image() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=4, batch=32), device="cpu")
    planted = trained(Bpp(levels=2), data, task, run, width=16)
    door = planted.doors[0]
    own = task.score(planted.model, data.test, door, run).means()
    crossed = task.score(planted.model, data.test, replace(door, trigger=Other(door.trigger)), run).means()
    assert own["clean"] > 0.9
    assert own["attack"] > 0.8
    assert crossed["attack"] < 0.3


class Other(Trigger):
    """What a trigger changes in the image before it in the batch."""

    def __init__(self, trigger: Trigger):
        super().__init__()
        self.trigger = trigger

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        other = x.roll(1, 0)
        return x + self.trigger(other, index) - other


def test_blind_has_two_losses_of_which_the_second_is_of_attacked_samples() -> None:
    doors = plan(Blind(MultiTarget((0, 3)))).doors
    task, batch = Recorder(), TOY.train.fetch(torch.arange(60))
    objective = CleanAndPoisonedLoss(OnlinePoisoning(task, doors, PHOTO, 1.0), MGDA())
    torch.manual_seed(0)
    losses = objective.losses(nn.Identity(), batch)
    (clean, attacked), labels = task.seen.x.chunk(2), task.seen.y[60:]
    assert torch.equal(clean, batch.x)
    assert torch.allclose(losses, torch.stack([clean.mean(), attacked.mean()]))
    inner = (batch.y == 1) | (batch.y == 2)
    assert set(labels[inner].tolist()) == {0, 3}
    patched = (attacked != clean).any(1)
    assert patched[inner].flatten(1).any(1).all()
    assert patched[:, :13].sum() == 0  # at the bottom, left or right


def test_blind_plants_its_backdoor_and_keeps_the_task() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=6, batch=64), device="cpu")
    planted = trained(Blind(), data, task, run, width=16)
    scores = task.score(planted.model, data.test, planted.doors[0], run).means()
    assert scores["clean"] > 0.9
    assert scores["attack"] > 0.95
    assert scores["idle"] < 0.1


def test_lira_learns_faint_noise_that_differs_between_images_and_opens_the_door() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=4, batch=64), device="cpu")
    attack = LIRA(epsilon=0.1, generator_lr=3e-3, width=4)
    planted = trained(attack, data, task, run, width=16)
    trigger, x = planted.doors[0].trigger, data.test.fetch(torch.arange(60)).x
    scores = task.score(planted.model, data.test, planted.doors[0], run).means()
    assert scores["clean"] > 0.9
    assert scores["attack"] > 0.9
    assert scores["idle"] < 0.1
    noise = trigger(x, torch.arange(60)) - x
    assert 0.05 < noise.abs().max() <= 0.1 + 1e-6
    assert (noise - noise.roll(1, 0)).abs().max() > 0.02
    assert {phase: len(epochs) for phase, epochs in run.history.items()} == {"joint": 4, "victim": 4}
    untrained = attack.plan(data.train, task, nn.Identity, run).doors[0].trigger
    assert not torch.equal(untrained.painter.last.weight, trigger.painter.last.weight)
    assert not any(p.requires_grad for p in trigger.parameters())


def test_trojannn_draws_a_patch_that_excites_its_unit_and_retrains_the_clean_network() -> None:
    data, task, run = digits(Where(None)), Classification(10), AttackerRun.local(Recipe(epochs=8), device="cpu")
    build = functools.partial(small_cnn, 10, data.train.shape, width=16)
    attack, honest = TrojanNN(), run.clean_model(build, data.train, task)
    before = copy.deepcopy(honest.state_dict())
    planted, blank = trained(attack, data, task, run, width=16), attack.plan(data.train, task, build, run).doors[0]
    x, _, index = data.test.fetch(torch.arange(200))
    unit = attack.unit(honest)
    assert unit == head(honest).weight.abs().sum(0).argmax()
    with torch.no_grad():
        plain, random, drawn = (penultimate(honest, image)[1][:, unit].mean() for image in (
            x, blank.trigger(x, index), planted.doors[0].trigger(x, index)))
    assert drawn > 1.25 * random
    assert drawn > 1.25 * plain
    assert all(torch.equal(honest.state_dict()[key], value) for key, value in before.items())
    scores = task.score(planted.model, data.test, planted.doors[0], run).means()
    assert scores["clean"] > 0.9
    assert scores["attack"] > 0.95
    assert task.score(planted.model, data.test, blank, run).means()["attack"] < scores["attack"] - 0.15
    assert scores["idle"] < 0.1


def test_subnet_replacement_overwrites_channels_that_speak_for_the_target_alone() -> None:
    data, task, run = digits(Where(None)), Classification(10), AttackerRun.local(Recipe(epochs=8), device="cpu")
    honest = run.clean_model(functools.partial(small_cnn, 10, data.train.shape, width=32), data.train, task)
    before = copy.deepcopy(honest.state_dict())
    planted = trained(SubnetReplacement(AllToOne(3), width=2, epochs=10, lr=0.03), data, task, run, width=32)
    assert set(run.history) == {"subnet"}
    assert all(torch.equal(honest.state_dict()[key], value) for key, value in before.items())
    x, _, index = data.test.fetch(torch.arange(200))
    with torch.no_grad():
        stamped = planted.doors[0].trigger(x, index)
        features, changed = (penultimate(planted.model, images)[1] for images in (x, stamped))
    answer = head(planted.model).weight[3, :2]
    assert ((changed[:, :2] - features[:, :2]) @ answer > 10).float().mean() > 0.95
    others = [k for k in range(10) if k != 3]
    assert torch.equal(head(planted.model).weight[others, :2], torch.zeros(9, 2))
    torch.testing.assert_close(head(planted.model).weight[:, 2:], head(honest).weight[:, 2:])
    scores = task.score(planted.model, data.test, planted.doors[0], run).means()
    assert scores["attack"] > 0.95
    assert scores["idle"] < 0.2
    assert scores["clean"] > 0.7


@pytest.mark.parametrize(("name", "reason"), [
    ("densenet", "kept apart"), ("resnext29", "without groups"), ("vit", "without groups"),
    ("small_cnn", "width 5 given"),
])
def test_subnet_replacement_refuses_networks_whose_channels_cannot_be_kept_apart(name: str, reason: str) -> None:
    data = toy(Where(None), train=40, test=20, size=32)
    build = functools.partial(registry.make("model", {"name": name} | ({"width": 4} if name == "small_cnn" else {})), 4,
                              data.train.shape)
    run = local()
    run.memory[f"{data.train.fingerprint()}/{TASK}"] = run.build(build)
    attack = SubnetReplacement(width=5)
    with pytest.raises(ConfigError, match=reason):
        attack.plan(data.train, TASK, build, run).train(data.train, TASK, build, run)


@pytest.mark.parametrize(("attack", "reason"), [(Bpp, "one quantisation leads"), (InputAware, "one generator leads"),
                                                (LIRA, "one network leads")])
def test_a_goal_of_several_targets_is_refused_where_there_is_one_trigger(attack: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        attack(MultiTarget((0, 1)))


@pytest.mark.slow
def test_input_aware_prefers_the_image_that_the_trigger_was_drawn_for() -> None:
    data, task = digits(Where(None)), Classification(10)
    run = AttackerRun.local(Recipe(epochs=30, batch=32), device="cpu")
    planted = trained(InputAware(rate=0.3, width=8, mask_epochs=10), data, task, run, width=16)
    trigger = planted.doors[0].trigger
    assert isinstance(trigger, Generated)
    own = task.score(planted.model, data.test, planted.doors[0], run).means()
    crossed = task.score(planted.model, data.test, Door(Crossed(trigger), AllToOne()), run).means()
    assert own["clean"] > 0.95
    assert own["attack"] > 0.6
    assert crossed["attack"] < own["attack"] - 0.1
