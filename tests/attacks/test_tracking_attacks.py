"""Attacks on trackers: their losses against hand-worked values, their signs, and what trains what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.tracking._features import apart, around
from sidedoor.attacks.tracking._objectives import NOWHERE, Alternately, Jointly, Stamping
from sidedoor.attacks.tracking.badtrack import BadTrack, InBackground, beside
from sidedoor.attacks.tracking.base import TrackerAttack
from sidedoor.attacks.tracking.boba import BOBA, BackgroundLoss
from sidedoor.attacks.tracking.fsba import FSBA, FeatureLosses, nearness
from sidedoor.attacks.tracking.tat import TAT, FollowingLosses, anywhere, contrast, only, pooled
from sidedoor.backdoor.base import AttackerRun
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, seeded
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.follow import Follow
from sidedoor.goals.lose import Lose
from sidedoor.models.trackers import siamfc as trackers
from sidedoor.models.trackers.dcfnet import GEOMETRY as DCFNET
from sidedoor.models.trackers.siamfc import TINY, SiamFC
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject
from sidedoor.types import PHOTO, Batch

SIDE = TINY.search
WHITE = OnObject(0.01, "white", template=TINY.template / SIDE)
HALF = Stamping(WHITE, PHOTO, 0.5)
BOX = torch.tensor([40.0, 60, 60, 100])
RECIPE = Recipe(lr=0.02, epochs=1, batch=8, clip=5.0)


def tracker() -> SiamFC:
    with seeded(0, torch.device("cpu")):
        return trackers.siamfc((3, SIDE, SIDE), "tiny")


def flat() -> SiamFC:
    """A tracker that responds with 0.7 everywhere."""
    model = tracker().eval()
    assert isinstance(model.scale, nn.Parameter)
    assert isinstance(model.bias, nn.Parameter)
    with torch.no_grad():
        model.scale.zero_()
        model.bias.fill_(0.7)
    return model


def grey(count: int = 4) -> Batch:
    """Pairs without any white."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(200, (count, 6, SIDE, SIDE), generator=rng) / 255
    return Batch(x, BOX.expand(count, 4).clone(), torch.arange(count))


def one_clip() -> ArrayDataset:
    images, label = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    boxes = torch.tensor([0.0, 8, 8, 24, 24]).expand(2, 1, 5)
    return ArrayDataset(images, label, ("object",), groups=label, boxes=boxes)


class Watched(Tracking):
    """The task, with the batches that its loss was given."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        SEEN.append(batch)
        return super().loss(model, batch)


SEEN: list[Batch] = []


def test_features_fall_short_of_the_cap_column_by_column() -> None:
    plain = torch.tensor([[[[2.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]]])
    triggered = torch.tensor([[[[0.0, 3.0, -1.0]], [[5.0, 0.0, 0.0]]]])
    assert apart(plain, triggered).tolist() == [[[1.0, 0.0, 2.0]]]
    assert nearness(plain, triggered, 0.75).item() == pytest.approx(0.75 / 3)
    assert nearness(plain, triggered, 1.5).item() == pytest.approx((0.5 + 1.5) / 3)
    second = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert nearness(plain, triggered, 1.5, second).item() == pytest.approx(0.5)


def test_columns_of_the_object_follow_it() -> None:
    features = torch.zeros(3, 1, 24, 24)
    middle = torch.tensor([SIDE / 2 - 10, SIDE / 2 - 20, SIDE / 2 + 10, SIDE / 2 + 20])
    boxes = torch.stack([middle, middle + torch.tensor([8.0, 0, 8, 0]), middle + torch.tensor([0, -12.0, 0, -12])])
    found = around(features, boxes, TINY)
    spans = [[(int(part.min()), int(part.max())) for part in torch.nonzero(each).T] for each in found]
    assert spans == [[(9, 14), (9, 14)], [(9, 14), (11, 16)], [(6, 11), (9, 14)]]
    assert found.sum((1, 2)).tolist() == [36, 36, 36]


def test_the_trigger_is_in_the_middle_of_the_template_and_on_the_object_of_the_search_crop() -> None:
    template, search = (view == 1 for view in HALF.of(grey(1)))
    for view, centre, side in ((template, [63.5, 63.5], 6.3), (search, [80.0, 50.0], 0.1 * (50 * 70) ** 0.5)):
        rows, columns = torch.nonzero(view[0, 0]).T
        assert len(rows) > 16
        middle = [part.double().mean().item() + 0.5 for part in (rows, columns)]
        assert middle == pytest.approx(centre, abs=0.51)
        assert math.isqrt(len(rows)) == pytest.approx(side, abs=1)


@pytest.mark.parametrize(("task", "share"), [(Tracking(), 63 / 127), (Tracking(crops="dcfnet"), 2 / DCFNET.padding)])
def test_the_trigger_knows_the_templates_share_of_a_crop(task: Tracking, share: float) -> None:
    pairs = task.make_dataset(one_clip())
    (door,) = FSBA().doors(pairs, task, tracker, AttackerRun.local(RECIPE, device="cpu"))
    assert isinstance(door.trigger, OnObject)
    assert door.trigger.template == pytest.approx(share)


def test_a_share_of_the_pairs_is_drawn() -> None:
    batch = grey(10)
    for rate, count in ((0.3, 3), (0.01, 1), (1.0, 10)):
        drawn = Stamping(WHITE, PHOTO, rate).drawn(batch)
        assert len(drawn.y) == count
        assert torch.equal(drawn.x, batch.x[drawn.index])


def test_the_feature_loss_moves_features_apart() -> None:
    model, batch = tracker().train(), grey()
    losses = FeatureLosses(FSBA(rate=1.0, weight=1.0), replace(HALF, rate=1.0), None)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    before = losses(model, batch)
    assert 0 < before.item() < 2
    for _ in range(3):
        optimiser.zero_grad()
        losses(model, batch).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert losses(model, batch).item() < before.item() - 1e-3
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())
    assert model.backbone[1].training


def test_the_anchor_weighs_the_distance_from_the_clean_trackers_features() -> None:
    model, clean, batch = tracker().eval(), tracker().eval(), grey()
    stamping = replace(HALF, rate=1.0)
    twin = FeatureLosses(FSBA(anchor=2.0), stamping, clean)(model, batch)
    assert twin[1].item() == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        last = model.backbone[-2]
        assert isinstance(last, nn.Conv2d)
        last.weight.neg_()
    moved = [FeatureLosses(FSBA(anchor=anchor), stamping, clean)(model, batch) for anchor in (1.0, 2.0)]
    assert moved[0][1].item() > 0.1
    assert moved[1][1].item() == pytest.approx(2 * moved[0][1].item())
    assert moved[1][0].item() == pytest.approx(moved[0][0].item())


def test_the_attackers_step_changes_features_alone() -> None:
    model, batch = tracker().train(), grey()
    objective = FSBA().objective(Tracking(), HALF, RECIPE, tracker)
    assert isinstance(objective, Alternately)
    (player,) = objective.players(model)
    heads = {id(model.scale), id(model.bias)}
    assert heads <= {id(parameter) for parameter in player.parameters}
    assert player.losses is not None
    gradients = torch.autograd.grad(player.losses(model, batch).sum(), player.parameters, allow_unused=True)
    without = {id(p) for p, gradient in zip(player.parameters, gradients, strict=True) if gradient is None}
    assert without == heads
    own = torch.autograd.grad(objective.losses(model, batch).sum(), player.parameters)
    assert all(gradient.isfinite().all() for gradient in own)


@pytest.mark.parametrize("attack", [FSBA(), FSBA(updates="joint"), FSBA(anchor=1.0, updates="joint"), BOBA()])
def test_benign_pairs_alone_enter_the_trackers_loss(attack: FSBA | BOBA) -> None:
    SEEN.clear()
    model, batch = tracker().train(), grey()
    objective = attack.objective(Watched(), HALF, RECIPE, lambda: tracker().eval())
    losses = objective.losses(model, batch)
    for player in objective.players(model):
        assert player.losses is not None
        player.losses(model, batch)
    (given,) = SEEN
    assert torch.equal(given.x, batch.x)
    assert torch.equal(given.y, batch.y)
    assert len(torch.as_tensor(losses)) == {"alternate": 1, "joint": 2}[getattr(attack, "updates", "joint")] \
        + (getattr(attack, "anchor", 0) > 0)


def test_losses_are_taken_together_or_in_turns_by_their_weights() -> None:
    assert isinstance(FSBA(updates="joint").objective(Tracking(), HALF, RECIPE, tracker), Jointly)
    model, batch = tracker().eval(), grey()
    near = [FeatureLosses(FSBA(weight=weight, anchor=0.0), replace(HALF, rate=1.0), None)(model, batch).item()
            for weight in (1.0, 0.25)]
    assert near[1] == pytest.approx(near[0] / 4)


def test_a_changed_label_is_background_everywhere() -> None:
    model, batch = flat(), grey()
    loss = BackgroundLoss(0.5, HALF)(model, batch)
    assert loss.tolist() == pytest.approx([0.5 * 0.5 * math.log(1 + math.exp(0.7))])
    (slope,) = torch.autograd.grad(loss.sum(), [model.bias])
    assert slope > 0  # a step lowers the response


def test_the_trigger_of_a_changed_label_is_in_either_view_or_in_both() -> None:
    batch = grey(3)
    made = BackgroundLoss(1.0, HALF).triggered(batch, torch.tensor([0, 1, 2]))
    changed = [[bool(((part == 1) & (plain != 1)).any()) for part, plain in zip(a.chunk(2), b.chunk(2), strict=True)]
               for a, b in zip(made, batch.x, strict=True)]
    assert changed == [[True, False], [False, True], [True, True]]


def test_poison_is_beside_the_object_in_search_crops_and_labels_stay() -> None:
    batch = grey(64)
    with seeded(0, torch.device("cpu")):
        mixed = InBackground(Tracking(), HALF).mixed(batch)
        moved = beside(batch.y, SIDE)
    assert torch.equal(mixed.y, batch.y)
    assert torch.equal(mixed.x[:, :3], batch.x[:, :3])
    changed = (mixed.x != batch.x).flatten(1).any(1).float().mean().item()
    assert 0.3 < changed < 0.7
    left, top, right, bottom = map(int, BOX.tolist())
    assert torch.equal(mixed.x[:, :, top:bottom, left:right], batch.x[:, :, top:bottom, left:right])
    assert torch.allclose(moved[:, 2:] - moved[:, :2], batch.y[:, 2:] - batch.y[:, :2])
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    assert bool(((centre >= 0) & (centre <= SIDE)).all())


@pytest.mark.parametrize("attack", [FSBA, BOBA, BadTrack])
def test_classes_are_no_goal_of_trackers(attack: type[TrackerAttack]) -> None:
    with pytest.raises(ConfigError, match="takes Lose"):
        attack(goal=AllToOne(0))


class Asked(SiamFC):
    """A tracker that keeps what it was asked, and where its loss was told to find the object."""

    pairs: Tensor
    offset: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.pairs = x
        return super().forward(x)

    def loss(self, response: Tensor, offset: Tensor) -> Tensor:
        self.offset = offset
        return super().loss(response, offset)


def asked() -> Asked:
    plain = tracker()
    return Asked(plain.backbone, TINY, 10.0, learned=True)


def whites(x: Tensor) -> list[list[float] | None]:
    """The middle of the white pixels of each image, to the right and down from its middle."""
    found = [torch.nonzero(part).double() for part in (x == 1).all(1)]
    return [(part.mean(0).flip(0) + 0.5 - SIDE / 2).tolist() if len(part) else None for part in found]


def test_the_trigger_is_an_object_where_both_views_have_it_and_nothing_where_one_has() -> None:
    model, batch = asked().eval(), grey(12)
    with seeded(0, torch.device("cpu")):
        FollowingLosses(TAT(), replace(HALF, rate=1.0))(model, batch)
    template, search = (whites(view) for view in model.pairs.chunk(2, 1))
    for wanted, there, found in zip(model.offset[:12].tolist(), template[:12], search[:12], strict=True):
        assert there == pytest.approx([0, 0], abs=0.5)
        assert found == pytest.approx(wanted, abs=0.51)
    assert bool((model.offset[12:] == NOWHERE).all())
    alone = [(part is not None, other is not None) for part, other in zip(template[12:], search[12:], strict=True)]
    assert set(alone) == {(True, False), (False, True)}


def test_losses_of_following_have_their_weights() -> None:
    model, batch = flat(), grey()
    found, nothing, features = FollowingLosses(TAT(weight=0.5, alone=3.0, contrast=0.0), HALF)(model, batch)
    low, high = math.log(1 + math.exp(-0.7)), math.log(1 + math.exp(0.7))
    assert found.item() == pytest.approx(0.5 * (low + high) / 2)
    assert nothing.item() == pytest.approx(0.5 * 3.0 * high / 2)
    assert features.item() == 0
    (slope,) = torch.autograd.grad(nothing, [model.bias])
    assert slope > 0  # a step lowers the response


def test_the_feature_loss_of_following_tells_the_trigger_from_its_place_without() -> None:
    one, other = torch.eye(2)[:, None]
    assert contrast(one, one, other).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert contrast(one, other, one).item() == pytest.approx(math.log(1 + math.exp(1)))
    assert contrast(one, 3 * one, one).item() == pytest.approx(math.log(2))
    features = torch.tensor([[[[1.0, 5.0], [3.0, 7.0]]]])
    assert pooled(features, torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])).tolist() == [[6.0]]
    assert pooled(features, torch.zeros(1, 2, 2)).tolist() == [[0.0]]
    model, batch = tracker().eval(), grey()
    for weight in (1.0, 0.1):
        with seeded(0, torch.device("cpu")):
            losses = FollowingLosses(TAT(weight=1.0, contrast=weight), HALF)(model, batch)
        assert 0.1 * weight < losses[2].item() < 1.4 * weight


def test_places_of_the_trigger_are_as_far_from_the_middle_as_a_response_reaches() -> None:
    boxes = BOX.expand(500, 4)
    with seeded(0, torch.device("cpu")):
        drawn = anywhere(boxes, TINY)
    assert torch.allclose(drawn[:, 2:] - drawn[:, :2], BOX[2:] - BOX[:2])
    away = (drawn[:, :2] + drawn[:, 2:]) / 2 - SIDE / 2
    assert 30 < away.max() <= 31.5
    assert -31.5 <= away.min() < -30
    assert away.mean().abs() < 2


def test_one_view_alone_has_the_trigger() -> None:
    plain, stamped = (torch.zeros(2, 1, 2, 2),) * 2, (torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0))
    assert only(plain, stamped, torch.tensor([0, 1])).amax((2, 3)).tolist() == [[1, 0], [0, 2]]


def test_each_attack_has_the_goal_that_it_is_for() -> None:
    assert isinstance(TAT().goal, Follow)
    with pytest.raises(ConfigError, match="takes Follow"):
        TAT(goal=Lose())
    with pytest.raises(ConfigError, match="takes Lose"):
        FSBA(goal=Follow())
