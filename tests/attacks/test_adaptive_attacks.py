"""Attacks that blur the line between poisoned and clean rows: faint parts in training, cover rows, all at test time."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from sidedoor import zoo
from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning.adaptive_blend import AdaptiveBlend
from sidedoor.attacks.poisoning.adaptive_patch import AdaptivePatch
from sidedoor.attacks.poisoning.ctrl import CTRL
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.chain import Chain
from sidedoor.triggers.patch import Patch
from sidedoor.triggers.pieces import Pieces

TASK = Classification(10)
LEVEL = 100


def grey(shape: tuple[int, int, int] = (3, 16, 16)) -> ArrayDataset:
    """200 flat images, 20 of each class."""
    return ArrayDataset(torch.full((200, *shape), LEVEL, dtype=torch.uint8), torch.arange(200) % 10, 10)


def plan(attack: Attack) -> Backdoor:
    return attack.plan(grey(), TASK, nn.Identity, AttackerRun.local(Recipe(), 0, device="cpu"))


def test_half_of_the_cells_have_the_trigger_and_the_sample_decides_which() -> None:
    x, index = torch.zeros(50, 3, 16, 16), torch.arange(50)
    stamped = Pieces(Additive(torch.ones(3, 16, 16)), grid=4, share=0.5, seed=3)(x, index)
    cells = stamped[:, 0, ::4, ::4]
    assert torch.equal(stamped, cells[:, None].repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1))
    assert cells.sum((1, 2)).tolist() == [8] * 50
    assert len(torch.unique(cells.flatten(1), dim=0)) > 45
    assert cells.mean(0).min() > 0.2  # no cell is left out
    assert torch.equal(Pieces(Additive(torch.ones(3, 16, 16)), seed=3)(x[7:8], index[7:8]), stamped[7:8])


def test_a_chain_applies_its_triggers_in_order() -> None:
    x, index = torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64)
    patch, add = Patch(torch.ones(1, 2, 2)), Additive(torch.full((1, 4, 4), 0.25))
    assert Chain((patch, add))(x, index)[0, 0, 3, 3] == 1.25
    assert Chain((add, patch))(x, index)[0, 0, 3, 3] == 1
    assert Chain((add, patch))(x, index)[0, 0, 0, 0] == 0.25


def test_a_faint_patch_lets_the_image_shine_through() -> None:
    x = torch.full((1, 3, 6, 6), 0.5)
    stamped = Patch(torch.ones(1, 2, 2), opacity=0.2)(x, torch.zeros(1, dtype=torch.int64))
    assert torch.allclose(stamped[..., 4:, 4:], torch.full((1, 3, 2, 2), 0.6))
    assert torch.equal(stamped[..., :4], x[..., :4])


@pytest.mark.parametrize("attack", [AdaptiveBlend(AllToOne(2), rate=0.2, cover_rate=0.25),
                                    AdaptivePatch(AllToOne(2), rate=0.2, cover_rate=0.25)])
def test_as_many_rows_as_asked_for_are_mislabelled_and_as_many_cover_them(attack: Attack) -> None:
    backdoor, data = plan(attack), grey()
    poison, poisoned = backdoor.poison, PoisonedDataset(data, plan(attack), TASK)
    truth = data.targets[poison.index]
    assert int((~poison.cover).sum()) == round(0.2 * 180)
    assert int(poison.cover.sum()) == round(0.25 * (200 - 36))
    assert poisoned.targets[poison.index][~poison.cover].eq(2).all()
    assert torch.equal(poisoned.targets[poison.index][poison.cover], truth[poison.cover])
    assert 2 not in truth[~poison.cover]
    assert [door.scored for door in backdoor.doors].count(True) == 1
    assert not any(backdoor.doors[k].scored for k in poison.door.unique())


def test_rows_of_adaptive_blend_have_half_of_the_picture_and_the_test_set_has_all_of_it() -> None:
    backdoor = plan(AdaptiveBlend(rate=0.5, cover_rate=0.1))
    rows = PoisonedDataset(grey(), backdoor, TASK).rows(backdoor.poison.index).float()
    changed = (rows != LEVEL).any(1)
    assert changed.float().mean((1, 2)).max() <= 0.5
    assert changed.float().mean() > 0.45  # a pixel of the picture may be as bright as the image
    part, whole = (door.trigger for door in backdoor.doors)
    assert isinstance(part, Pieces)
    assert part.trigger.ratio == 0.15
    x = torch.zeros(1, 3, 16, 16)
    assert torch.allclose(whole(x, torch.zeros(1, dtype=torch.int64)), 0.2 * part.trigger.pattern)  # type: ignore[operator]


def test_rows_of_adaptive_patch_have_one_faint_corner_and_the_test_set_has_four() -> None:
    attack = AdaptivePatch(MultiTarget((0, 1)), rate=0.5, cover_rate=0.2)
    backdoor = plan(attack)
    rows = PoisonedDataset(grey(), backdoor, TASK).rows(backdoor.poison.index).float()
    corners = torch.stack([rows[..., r : r + 4, c : c + 4].sub(LEVEL).abs().amax((1, 2, 3))
                           for r, c in ((12, 12), (12, 0), (0, 0), (0, 12))], 1)
    assert ((corners > 0).sum(1) == 1).all()
    # From 100 to 255 is further than to 0, and a pattern has both colours.
    opacity = torch.tensor(attack.opacities)[backdoor.poison.door % 4]
    assert (corners.amax(1) - opacity * (255 - LEVEL)).abs().max() <= 0.5
    x, index = torch.full((1, 3, 16, 16), LEVEL / 255), torch.zeros(1, dtype=torch.int64)
    one, two = (door.trigger(x, index) for door in backdoor.doors if door.scored)
    assert (one != x).any(1).sum() == 64
    assert not torch.equal(one, two)


def test_ctrl_trains_with_one_strength_and_is_scored_with_twice_as_much() -> None:
    backdoor = plan(CTRL(AllToOne(4), rate=0.5, window=16))
    weak, strong = (door.trigger.block for door in backdoor.doors)
    assert torch.allclose(2 * weak, strong)  # type: ignore[operator]
    assert [door.scored for door in backdoor.doors] == [False, True]
    assert weak.norm() * 255 == pytest.approx(50 * 2**0.5, rel=1e-5)  # type: ignore[operator]
    assert grey().targets[backdoor.poison.index].tolist() == [4] * 10
    assert torch.equal(PoisonedDataset(grey(), backdoor, TASK).targets, grey().targets)
    assert len(plan(CTRL(test_magnitude=50.0, window=16)).doors) == 1


@pytest.mark.parametrize("attack", [AdaptiveBlend(rate=0.1, cover_rate=0.1, ratio=0.3, test_ratio=0.4),
                                    AdaptivePatch(rate=0.1, cover_rate=0.1)])
def test_all_parts_together_open_the_door_wider_than_one(attack: Attack) -> None:
    train, test = zoo.load("digits")
    run = AttackerRun.local(Recipe(epochs=12), device="cpu")
    build = zoo.network({"name": "small_cnn", "width": 16}, train)
    backdoor = attack.plan(train, TASK, build, run)
    victim = run.fit(run.build(build), PoisonedDataset(train, backdoor, TASK), Supervised(TASK), name="victim")
    score = functools.partial(TASK.score, victim, test, run=run)
    part, whole = (score(backdoor.doors[k]).means() for k in (0, -1))
    assert whole["clean"] > 0.9
    assert whole["idle"] < 0.1
    assert whole["attack"] > 0.8
    assert part["attack"] < whole["attack"] - 0.2
