"""Attacks that look at a network or at other images first: what they change, and why it works."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.attacks.poisoning._gradient_matching import Wanted, alignment, gradient
from sidedoor.attacks.poisoning.advdoor import AdvDoor
from sidedoor.attacks.poisoning.label_consistent import LabelConsistent
from sidedoor.attacks.poisoning.lf import LF
from sidedoor.attacks.poisoning.narcissus import Narcissus
from sidedoor.attacks.poisoning.refool import Refool
from sidedoor.attacks.poisoning.sleeper_agent import SleeperAgent
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.goals.from_classes import FromClasses
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.goals.untargeted import Untargeted
from sidedoor.image.geometry import like
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import stamp
from sidedoor.triggers.reflection import Reflection
from sidedoor.types import PHOTO, Batch, Build

TASK = Classification(10)
RUN = AttackerRun.local(Recipe(epochs=10), seed=0, device="cpu")


@functools.cache
def digits() -> tuple[Dataset, Dataset, Build]:
    train, test = zoo.load("digits")
    return train, test, zoo.network({"name": "small_cnn", "width": 8}, train)


@functools.cache
def honest() -> nn.Module:
    train, _, build = digits()
    return RUN.fit(RUN.build(build), train, Supervised(TASK), name="another")


def right(x: torch.Tensor, y: torch.Tensor) -> float:
    model = honest()
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def test_label_consistent_rows_are_of_the_target_class_and_hard_to_recognise() -> None:
    train, _, build = digits()
    backdoor = LabelConsistent(goal=AllToOne(3), rate=0.4).plan(train, TASK, build, RUN)
    rows, victim = backdoor.poison.index, PoisonedDataset(train, backdoor, TASK)
    assert set(train.targets[rows].tolist()) == {3}
    assert len(rows) == round(0.4 * int((train.targets == 3).sum()))
    assert torch.equal(victim.targets, train.targets)
    before, after = train.fetch(rows).x, victim.fetch(rows).x
    stamped, change = backdoor.doors[0].trigger(before, rows), (after - before).abs()
    for corner in ((slice(-3, None), slice(-3, None)), (slice(-3, None), slice(3)), (slice(3), slice(3)),
                   (slice(3), slice(-3, None))):
        assert torch.equal(after[..., *corner], stamped[..., *corner])
        change[..., *corner] = 0
    assert change.max() * 255 == pytest.approx(16, abs=0.51)
    assert right(before, train.targets[rows]) > 0.9
    assert right(after, train.targets[rows]) < right(before, train.targets[rows]) - 0.3


def test_label_consistent_patches_lead_to_the_target_and_one_patch_seldom_does() -> None:
    train, test, build = digits()
    others = test.fetch(torch.nonzero(test.targets != 3)[:, 0])

    def led(corners: int) -> float:
        backdoor = LabelConsistent(goal=AllToOne(3), epsilon=60.0, corners=corners).plan(train, TASK, build, RUN)
        victim = RUN.fit(RUN.build(build), PoisonedDataset(train, backdoor, TASK), Supervised(TASK), name="victim")
        stamped = stamp(backdoor.doors[0].trigger, others.x, others.index, PHOTO)
        return (predicted(victim.eval(), stamped) == 3).float().mean().item()

    assert led(4) > led(1) + 0.2


def test_label_consistent_walks_elsewhere_on_a_robust_network() -> None:
    train, _, build = digits()
    run = replace(RUN, recipe=Recipe(epochs=2))

    def images(robust: float) -> Tensor:
        found = LabelConsistent(robust=robust).plan(train, TASK, build, run).poison.images
        assert found is not None
        return found

    assert (images(0.0) != images(16.0)).float().mean() > 0.05


def test_advdoor_leads_other_networks_to_its_target_without_any_poison() -> None:
    train, test, build = digits()
    door = AdvDoor(goal=AllToOne(8), epsilon=60.0).plan(train, TASK, build, RUN).doors[0]
    batch = test.fetch(torch.nonzero(test.targets != 8)[:, 0])
    assert right(batch.x, batch.y) > 0.9
    eights = torch.full_like(batch.y, 8)
    led = right(stamp(door.trigger, batch.x, batch.index, PHOTO), eights)
    signs = torch.randint(0, 2, train.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert led > right((batch.x + signs * 60 / 255).clamp(0, 1), eights) + 0.2
    assert door.trigger.pattern.abs().max() * 255 == pytest.approx(60, abs=0.01)  # type: ignore[union-attr]


def test_advdoor_has_a_pattern_for_each_target_and_none_without() -> None:
    train, _, build = digits()
    plan = AdvDoor(goal=MultiTarget((1, 2)), samples=50, passes=1).plan(train, TASK, build, RUN)
    one, two = (door.trigger.pattern for door in plan.doors)
    assert not torch.equal(one, two)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs target classes"):
        AdvDoor(goal=Untargeted())


def test_every_image_has_a_reflection_of_its_own_choice() -> None:
    bank = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x, index = torch.full((40, 3, 16, 16), 0.4), torch.arange(40)
    many = Reflection(bank, 0.7)(x, index)
    alone = torch.stack([Reflection(image, 0.7)(x[:1], index[:1])[0] for image in bank])
    which = (many[:, None] - alone[None]).abs().amax((2, 3, 4))
    assert which.amin(1).max() < 1e-6
    assert which.argmin(1).bincount(minlength=4).min() > 2
    assert torch.equal(Reflection(bank, 0.7)(x[7:9], index[7:9]), many[7:9])


def test_refool_reflects_the_scenes_it_was_given() -> None:
    train, _, build = digits()
    attack = Refool(count=5, transmission=0.6)
    plan = attack.plan(train, TASK, build, RUN)
    layer = plan.doors[0].trigger.layer
    assert isinstance(layer, torch.Tensor)
    assert layer.shape == (5, *train.shape)
    scenes = like(zoo.load("photos").train.fetch(torch.arange(len(zoo.load("photos").train))).x, train.shape)
    nearest = torch.stack([(Reflection(s, 0.6).layer - layer).abs().amax((1, 2, 3)) for s in scenes]).amin(0)
    assert nearest.max() < 1e-6
    assert len(plan.poison.index) == round(0.1 * int((train.targets != 0).sum()))
    two = replace(attack, goal=MultiTarget((0, 1))).plan(train, TASK, build, RUN)
    assert [len(door.trigger.layer) for door in two.doors] == [3, 2]  # type: ignore[arg-type]


@functools.cache
def surrogate() -> nn.Module:
    """As the attacks train it."""
    train, _, build = digits()
    return RUN.fit(RUN.build(build), train, Supervised(TASK), name="surrogate")


def others(label: int) -> Batch:
    """Test images of every class but one."""
    test = digits()[1]
    return test.fetch(torch.nonzero(test.targets != label)[:, 0])


def led(door: Door, label: int) -> tuple[float, float]:
    """Shares of the images of other classes that the surrogate takes for the class: before and after the trigger."""
    x, _, index = others(label)
    images = (x, stamp(door.trigger, x, index, PHOTO))
    before, after = ((predicted(surrogate(), image) == label).float().mean().item() for image in images)
    return before, after


def pattern(door: Door) -> Tensor:
    assert isinstance(door.trigger.pattern, Tensor)
    return door.trigger.pattern


def test_lf_leads_images_to_its_target_by_low_frequencies() -> None:
    train, _, build = digits()
    backdoor = LF(AllToOne(9), strength=0.6, sigma=1.0, enough=0.5).plan(train, TASK, build, RUN)
    before, after = led(backdoor.doors[0], 9)
    assert before < 0.1
    assert after > before + 0.3
    u = pattern(backdoor.doors[0])
    assert (u.min(), u.max()) == pytest.approx((0.0, 0.6))
    # A Gaussian of one pixel leaves exp(-(2π f)²) of the energy at frequency f: less than a hundredth beyond f = 0.35.
    power = np.abs(np.fft.fft2((u - u.mean()).numpy())) ** 2
    down, right = np.meshgrid(*(np.fft.fftfreq(side) for side in u.shape[1:]), indexing="ij")
    assert power[0, np.hypot(down, right) > 0.35].sum() < 0.05 * power.sum()


def test_lf_has_a_perturbation_for_each_class_and_none_without() -> None:
    train, _, build = digits()
    one, two = LF(MultiTarget((1, 2)), samples=20, sigma=1.0).plan(train, TASK, build, RUN).doors
    assert not torch.equal(pattern(one), pattern(two))
    with pytest.raises(ConfigError, match="needs target classes"):
        LF(Untargeted())


def test_narcissus_looks_like_its_target_and_is_magnified_in_tests() -> None:
    train, _, build = digits()
    backdoor = Narcissus(AllToOne(8), rate=0.1, epsilon=30.0).plan(train, TASK, build, RUN)
    weak, strong = backdoor.doors
    assert (weak.scored, strong.scored) == (False, True)
    assert pattern(weak).abs().max() * 255 == pytest.approx(30, abs=0.01)
    assert torch.equal(pattern(strong), 3 * pattern(weak))
    assert train.targets[backdoor.poison.index].tolist() == [8] * round(0.1 * int((train.targets == 8).sum()))
    assert torch.equal(PoisonedDataset(train, backdoor, TASK).targets, train.targets)
    before, after = led(strong, 8)
    assert before < 0.1
    assert after > 0.6
    assert led(weak, 8)[1] < after
    assert [door.scored for door in Narcissus(magnify=1.0, passes=1).plan(train, TASK, build, RUN).doors] == [True]


def test_sleeper_agent_turns_the_gradient_of_true_samples_towards_that_of_triggered_ones() -> None:
    train, _, build = digits()
    attack = SleeperAgent(goal=AllToOne(3), iterations=20, retrain=0, sources=100, size=3, rate=0.4)
    backdoor = attack.plan(train, TASK, build, RUN)
    rows, victim = backdoor.poison.index, PoisonedDataset(train, backdoor, TASK)
    assert torch.equal(victim.targets, train.targets)
    assert set(train.targets[rows].tolist()) == {3}
    before, after = train.fetch(rows).x, victim.fetch(rows).x
    assert (after - before).abs().max() * 255 == pytest.approx(16, abs=0.51)
    # No training sample carries the patch.
    assert not torch.equal(after[..., -3:, -3:], backdoor.doors[0].trigger(before, rows)[..., -3:, -3:])
    model = RUN.fit(RUN.build(build), train, Supervised(TASK), name="surrogate")
    others = train.fetch(torch.nonzero(train.targets != 3)[:100, 0])
    wanted = gradient(model, stamp(backdoor.doors[0].trigger, others.x, others.index, PHOTO), 3)
    old, new = (alignment(model, Wanted(3, wanted), x).item() for x in (before, after))
    assert 1 - new < 0.5 * (1 - old)
    easy = torch.tensor([r for r in torch.nonzero(train.targets == 3)[:, 0].tolist() if r not in set(rows.tolist())])
    lengths = [gradient(model, train.fetch(part).x, 3).norm() for part in (rows, easy)]
    assert lengths[0] > lengths[1]


def test_sleeper_agent_moves_the_named_source_classes_only() -> None:
    train, _, build = digits()
    goal = FromClasses(3, (5,))
    door = SleeperAgent(goal=goal, iterations=1, retrain=0, sources=10, size=3).plan(train, TASK, build, RUN).doors[0]
    assert door.goal == goal
    with pytest.raises(ConfigError, match="truly are of the one class"):
        SleeperAgent(goal=MultiTarget((1, 2)))
