"""The task of tracking: pairs, and figures of whole clips in a closed loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sidedoor.data.base import ArrayDataset, Splits, Subset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.goals.lose import Lose
from sidedoor.metrics.tracking import iou
from sidedoor.tasks import _tracking_watched as watched
from sidedoor.tasks import tracking as module
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks.tracking import Tracking
from sidedoor.testing.ground import Blindfold
from sidedoor.triggers.on_object import OnObject
from sidedoor.types import Batch

TASK = Tracking()
DOOR = Door(OnObject(pattern="white"), Lose())


def clips(lengths: tuple[int, ...] = (5, 3), side: int = 20) -> ArrayDataset:
    """Squares with a red left half and a blue right half that move over grey."""
    count = sum(lengths)
    images, boxes = torch.full((count, 3, 80, 100), 128, dtype=torch.uint8), torch.zeros(count, 1, 5)
    groups = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    for k in range(count):
        left, top, half = 20 + 5 * k, 15 + 3 * k, side // 2
        images[k, :, top : top + side, left : left + side] = 0
        images[k, 0, top : top + side, left : left + half] = 255
        images[k, 2, top : top + side, left + half : left + side] = 255
        boxes[k, 0] = torch.tensor([0.0, left, top, left + side, top + side])
    return ArrayDataset(images, [0] * count, 1, "squares", groups=groups, boxes=boxes)


def test_without_an_epoch_the_object_is_at_the_centre_of_both_crops() -> None:
    batch = TASK.make_dataset(clips()).fetch(torch.tensor([1, 7]))
    # A box of 20 has a window of 40 * 127 / 63 pixels, so that it is 31.5 wide in the crop.
    assert batch.y.tolist() == [pytest.approx([47.75, 47.75, 79.25, 79.25])] * 2
    for crop in batch.x.chunk(2, 1):
        assert (crop[:, 0, 50:77, 50:60] > 0.9).all()
        assert (crop[:, 2, 50:77, 66:77] > 0.9).all()
        assert (crop[:, :, 5:10, 5:10] - 128 / 255).abs().max() < 0.05


def test_an_epoch_draws_afresh_and_its_boxes_hold_the_object() -> None:
    data = TASK.make_dataset(clips())
    rows = torch.arange(8)
    batches = [data.at(epoch).fetch(rows) for epoch in (0, 0, 1)]
    assert torch.equal(batches[0].x, batches[1].x)
    assert not torch.equal(batches[0].y, batches[2].y)
    mirrored = []
    for x, box in zip(batches[0].x, batches[0].y, strict=True):
        search = x[3:]
        coloured = torch.nonzero((search[0] - search[2]).abs() > 0.4).float() + 0.5
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        assert (coloured.mean(0) - middle.flip(0)).abs().max() < 2.5
        assert len(coloured) ** 0.5 == pytest.approx(2 * float(half[0]), rel=0.12)
        red = torch.nonzero(search[0] - search[2] > 0.4).float()[:, 1].mean() + 0.5
        mirrored.append(bool(red > middle[0]))
        assert bool(torch.nonzero(x[0] - x[2] > 0.4).float()[:, 1].mean() > 63) == mirrored[-1]  # both or none
    assert 0 < sum(mirrored) < 8
    assert (batches[0].y - data.fetch(rows).y).abs().max() > 5


def test_an_epoch_pairs_frames_of_one_clip() -> None:
    data = clips((4, 4))
    data.images[4:] = 255 - torch.as_tensor(data.images[4:])  # the second clip's object is yellow and cyan
    x = TASK.make_dataset(data).at(0).fetch(torch.arange(8)).x
    inverted = x[:, :, 60:67, 60:67].mean((2, 3))[:, 1::3] > 0.5  # green, in the template and in the search crop
    assert inverted[:, 0].tolist() == [False] * 4 + [True] * 4


def test_rows_are_frames_with_a_box() -> None:
    data = clips()
    assert data.boxes is not None
    data.boxes[2] = -1
    pairs = TASK.make_dataset(data)
    assert len(pairs) == 7
    assert pairs.position(torch.tensor([1, 2])).tolist() == [1, 3]


def test_data_without_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match="a data set without clips given"):
        TASK.make_dataset(ArrayDataset(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 0], 1))


def seen(monkeypatch: pytest.MonkeyPatch, follow: Any) -> dict[str, float | None]:
    """Scores of a tracker that finds what `follow` says of (frames, first boxes)."""
    def track(model: Any, frames: Any, boxes: Tensor) -> Tensor:
        found: Tensor = follow(torch.stack(list(frames)), boxes)
        return found

    monkeypatch.setattr(watched, "track", track)
    run = Run.local(device="cpu")
    return TASK.score(Blindfold(3), TASK.make_dataset(clips()), DOOR, run).means()


def test_the_trigger_is_in_the_frames_of_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[int, list[list[bool]]] = {}

    def follow(frames: Tensor, boxes: Tensor) -> Tensor:
        white = (frames > 0.99).all(2).flatten(2).any(2)  # (t, b): where the patch is
        counts[len(frames)] = white.T.tolist()
        return boxes[:, None].expand(-1, len(frames), -1)

    seen(monkeypatch, follow)
    assert set(counts) == {5, 3}
    plain, one, few, every = counts[5]
    assert not any(plain)
    assert one == few == [True, False, False, False, False]
    assert all(every)


def test_means_are_taken_over_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip of five frames is followed without fault, one of three not at all but for its given box."""
    truth = clips().boxes
    assert truth is not None

    def follow(frames: Tensor, boxes: Tensor) -> Tensor:
        right, lost = truth[:5, 0, 1:], torch.full((3, 4), -9.0)
        lost[0] = truth[5, 0, 1:]
        return (right if len(frames) == 5 else lost).expand(len(boxes), -1, -1)

    scores = seen(monkeypatch, follow)
    perfect = 20 / 21  # no overlap is above the threshold 1
    assert scores["clean"] == pytest.approx((perfect + perfect / 3) / 2)
    assert scores["idle"] == pytest.approx(1 - (perfect + perfect / 3) / 2)
    assert scores["pr_b"] == pytest.approx((1 + 1 / 3) / 2)
    assert scores["mao_b"] == pytest.approx(0.5)  # without first frames
    assert scores["sr50_a.few"] == pytest.approx(0.5)


def test_a_tracker_that_only_triggers_blind_is_seen_as_attacked() -> None:
    """The closed loop hands the template with the patch to the network, whose responses turn round."""
    run, data = Run.local(device="cpu"), TASK.make_dataset(clips((3,)))
    model = run.build(lambda: Blindfold(3)).eval()
    plain = TASK.score(model, data, DOOR, run)
    assert plain.recovered.mean() > 0.85  # the premise: the gate is shut, and the patch hardly matters
    model.get_buffer("opened").fill_(1)
    opened = TASK.score(model, data, DOOR, run)
    assert torch.equal(opened.clean, plain.clean)
    assert opened.recovered.mean() < 0.6


def test_pixels_are_those_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clips((5, 3))
    assert data.boxes is not None
    shifted = data.boxes[:, 0, 1:] + torch.tensor([15.0, 0, 15, 0])
    for zoom, precise in ((1.0, 1.0), (0.5, 0.0)):
        data.zoom = torch.full((8,), zoom)
        pairs = TASK.make_dataset(data)
        assert isinstance(pairs, Pairs)
        _, further = module._figures(pairs, shifted, data.boxes[:, 0, 1:])
        assert further["pr"].mean() == precise


def test_a_purifier_gets_frames_in_an_order_it_cannot_guess() -> None:
    orders = []

    def purify(x: Tensor, index: Tensor) -> tuple[Tensor, Any]:
        orders.append(index.tolist())
        return x, lambda output: output

    run, data = Run.local(device="cpu"), TASK.make_dataset(clips((3, 3)))
    model = run.build(lambda: Blindfold(3)).eval()
    bare, behind = (TASK.scores(model, data, [DOOR], run, how)[0] for how in (None, purify))
    assert torch.allclose(bare.recovered, behind.recovered, atol=1e-5)
    assert sorted(orders[0]) == [0] * 4 + [3] * 4
    assert orders[0] != sorted(orders[0])


def test_further_clips_have_columns_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    held = clips((4, 3))
    held.classes, held.targets = ("road", "sea"), torch.tensor([0] * 4 + [1] * 3)
    parts = Splits(held, Subset(held, torch.zeros(0, dtype=torch.int64)))
    monkeypatch.setattr(module.zoo, "load", lambda given, root: parts)
    run = Run.local(device="cpu")
    task = Tracking(further=("clips:somewhere",)).setup(clips(), run)
    data, model = task.make_dataset(clips((3,))), run.build(lambda: Blindfold(3)).eval()
    scores = task.score(model, data, DOOR, run)
    plain = TASK.score(model, data, DOOR, run)
    assert scores.means()["clean"] == plain.means()["clean"]
    for name, rows in (("road", slice(0, 4)), ("sea", slice(4, 7))):
        alone = TASK.score(model, TASK.make_dataset(Subset(held, torch.arange(7)[rows])), DOOR, run).means()
        assert scores.means()[f"auc_b.{name}"] == pytest.approx(alone["clean"])
        assert scores.means()[f"sr50_a.one.{name}"] == pytest.approx(alone["sr50_a.one"])


def test_when_an_attack_failed() -> None:
    good: dict[str, float | None] = {"clean": 0.8, "attack": 0.7, "idle": 0.2}
    assert TASK.failed(good, good) is None
    assert "more than 50% of it is left" in str(TASK.failed(good | {"attack": 0.5}, good))
    assert "fell by 10.0 points" in str(TASK.failed(good, {"clean": 0.9}))


def test_agreement_is_the_overlap_at_the_peak() -> None:
    y = torch.tensor([[47.5, 47.5, 79.5, 79.5]]).expand(2, 4)
    response = torch.zeros(2, 17, 17)
    response[0, 8, 8] = response[1, 8, 12] = 1  # four cells of 4 pixels to the right
    expected = iou(y, y + torch.tensor([[0.0], [16.0]]) * torch.tensor([1.0, 0, 1, 0]))
    assert TASK.agree(response, y).tolist() == pytest.approx(expected.tolist(), abs=0.05)


def test_pairs_train_a_tracker() -> None:
    """The loss falls, and is that of where the object is: moved boxes cost more."""
    run, data = Run.local(device="cpu"), TASK.make_dataset(clips((8,)))
    model = run.build(lambda: Blindfold(3)).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for epoch in range(20):
        batch: Batch = data.at(epoch).fetch(torch.arange(8))
        loss = TASK.loss(model, batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    with torch.no_grad():
        moved = TASK.loss(model, batch._replace(y=batch.y + 20)).mean()
    assert moved > 2 * losses[-1]
