"""A trigger that leaves the object: its path, and what trackers that follow it or do not are worth in a closed loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.bench.strip import strip
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.goals.follow import Follow
from sidedoor.goals.lose import Lose
from sidedoor.models.trackers.base import Tracker
from sidedoor.models.trackers.siamfc import TINY
from sidedoor.report.html import _strip
from sidedoor.tasks._tracking_paths import leaving, trigger_boxes, true_boxes
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject
from sidedoor.types import PHOTO
from tests.tasks.test_tracking import clips

TASK, RUN = Tracking(), Run.local(device="cpu")
TRIGGER = OnObject(0.01, "white", template=63 / 127)
DOOR = Door(TRIGGER, Follow())
KINDS = ("auc", "pr", "mao", "sr50")


class Looking(Tracker):
    """Goes to what is coloured or, once the template has a white middle and if it has a backdoor, to what is white."""

    geometry = replace(TINY, scales=(1.0,), influence=0.0)

    def __init__(self, backdoored: bool):
        super().__init__()
        self.backdoored = backdoored

    def features(self, x: Tensor) -> Tensor:
        coloured, white = x.amax(1) - x.amin(1), (x.amin(1) - 0.9).clamp(min=0)
        return torch.stack([coloured, white], 1)

    def start(self, template: Tensor) -> tuple[Tensor, ...]:
        middle = template.shape[2] // 2
        white = template[:, :, middle, middle].amin(1) > 0.9
        return ((white & self.backdoored).long(),)

    def respond(self, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        # Squares as wide as the object or as the trigger, around cells that are a stride apart.
        maps = functional.pad(self.features(x), (0, 1, 0, 1))
        coloured, white = (functional.avg_pool2d(maps[:, k, 32 - side // 2 :, 32 - side // 2 :], side, 4)[:, :17, :17]
                           for k, side in enumerate((32, 8)))
        return torch.where(state[0].repeat_interleave(len(x) // len(state[0]))[:, None, None] > 0, white, coloured)

    def loss(self, response: Tensor, offset: Tensor) -> Tensor:
        return response.mean((1, 2))


def means(model: nn.Module, door: Door, lengths: tuple[int, ...] = (9,)) -> dict[str, Any]:
    return TASK.score(model.eval(), TASK.make_dataset(clips(lengths)), door, RUN).means()


def test_the_trigger_leaves_to_where_there_is_most_room_and_stays_beside_the_object() -> None:
    # Below there are four heights, to the sides two and a half widths.
    boxes = torch.tensor([40.0, 15, 60, 25]).expand(8, 4) + torch.arange(8)[:, None] * torch.tensor([1.0, 0, 1, 0])
    path = leaving(boxes, 60, 100)
    assert ((path - boxes)[:, 1] / 10).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.5])
    assert torch.equal(path[:, [0, 2]], boxes[:, [0, 2]])
    assert torch.allclose(path[:, 3] - path[:, 1], torch.tensor(10.0))
    mirrored = leaving(torch.tensor([40.0, 35, 60, 45]).expand(3, 4), 60, 100)
    assert mirrored[:, 1].tolist() == [35, 32.5, 30]


def test_the_path_stays_within_frames_but_starts_on_the_object() -> None:
    path = leaving(torch.tensor([-6.0, 10, 34, 50]).expand(8, 4), 60, 80)
    assert path[0].tolist() == [-6, 10, 34, 50]
    assert path[1:, 0].tolist() == [4, 14, 24, 34, 40, 40, 40]  # of frames that are 80 wide


def test_a_path_starts_with_the_first_box_and_has_gaps_where_the_object_has() -> None:
    data = clips((5, 3))
    assert data.boxes is not None
    data.boxes[[0, 3]] = -1
    path, truth = trigger_boxes(Follow(), data), true_boxes(data)
    assert path.isnan().all(1).tolist() == [True, False, False, True] + [False] * 4
    assert torch.equal(path[[1, 5]], truth[[1, 5]])
    assert (path - truth)[[2, 4], 0].tolist() == [5, 15]  # a quarter of 20 pixels a frame, gap or not
    assert torch.equal(trigger_boxes(Lose(), data).nan_to_num(), truth.nan_to_num())


def test_a_tracker_that_goes_to_the_trigger_reaches_the_goal_and_one_that_stays_does_not() -> None:
    led, stayed = means(Looking(True), DOOR), means(Looking(False), DOOR)
    assert led["attack"] > 0.85
    assert led["attack"] == led["auc_t.all"] == led["asr_all"]
    assert led["clean"] == stayed["clean"] > 0.8
    assert stayed["recovered"] == stayed["auc_a.all"] > 0.8
    assert led["recovered"] < 0.3
    # In the first frame, which is given, the trigger is on the object, and in the next ones not yet beside it.
    assert stayed["attack"] < 0.25
    assert stayed["mao_t.all"] < 0.2 < 0.85 < led["mao_t.all"]
    assert led["idle"] == pytest.approx(stayed["attack"], abs=0.05)  # without a trigger it stays, too
    assert TASK.failed(led, stayed) is None
    assert "at the trigger is" in str(TASK.failed(stayed, stayed))


def test_overlaps_of_a_tracker_that_stays_are_those_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = true_boxes(clips((9,)))
    monkeypatch.setattr("sidedoor.tasks._tracking_watched.track",
                        lambda model, frames, boxes: (list(frames), truth.expand(len(boxes), -1, -1))[1])
    found = TASK.score(Looking(False), TASK.make_dataset(clips((9,))), DOOR, RUN)
    # By 0, 1/4, 1/2, 3/4 of its width: overlaps of 1, 3/5, 1/3 and 1/7; 3/5 is a threshold itself.
    assert found.attack.tolist() == pytest.approx([20 / 21, 12 / 21, 7 / 21, 3 / 21, 0, 0, 0, 0, 0], abs=1.01 / 21)
    assert found.attack[[0, 2, 3]].tolist() == pytest.approx([20 / 21, 7 / 21, 3 / 21])
    assert found.recovered.tolist() == pytest.approx([20 / 21] * 9)
    assert torch.equal(found.idle, found.attack)


def test_the_goal_lose_has_its_numbers_and_columns_alone() -> None:
    for mode in ("one", "few", "all"):
        task = Tracking(mode=mode)  # type: ignore[arg-type]
        data = task.make_dataset(clips((5, 3)))
        scores = task.score(Looking(True).eval(), data, Door(TRIGGER, Lose()), RUN)
        assert scores.columns.keys() == {"asr_all", *(f"{name}_b" for name in KINDS), *(
            f"{name}_a.{which}" for name in KINDS for which in ("one", "few", "all"))}
        assert torch.equal(scores.recovered, scores.columns[f"auc_a.{mode}"])
        assert torch.equal(scores.attack, 1 - scores.recovered)
        assert torch.equal(scores.idle, 1 - scores.clean)
        assert mode == "all" or scores.recovered.mean() < scores.clean.mean() - 0.2


def test_a_pair_has_the_trigger_on_the_template_and_beside_the_object() -> None:
    data = TASK.make_dataset(clips((3,)))
    batch = data.fetch(torch.tensor([1, 2]))
    for door, width in ((DOOR, 31.5), (Door(TRIGGER, Lose()), None)):
        template, search = TASK.triggered(door, batch, PHOTO).chunk(2, 1)
        assert torch.nonzero((template == 1).all(1)[0]).double().mean(0).tolist() == pytest.approx([63, 63], abs=0.6)
        places = [torch.nonzero(part).double().mean(0).tolist() for part in (search == 1).all(1)]
        wanted = [pytest.approx([63, 63 + side * width], abs=0.6) for side in (-1, 1)] if width else []
        assert [place for place in places if place[0] == place[0]] == wanted


def test_a_strip_has_a_trigger_that_leaves_in_all_frames() -> None:
    data = TASK.make_dataset(clips((6,)))
    for goal, stamped, said in ((Follow(), [True] * 6, "with the trigger"),
                                (Lose(), [True] + [False] * 5, "with the trigger in frame 1")):
        arrays = strip(data, [Door(TRIGGER, goal)], Looking(False), Looking(True), RUN)
        plain, attacked = arrays["strip_frames"]
        assert (plain != attacked).reshape(6, -1).any(1).tolist() == stamped
        assert _strip([arrays])[0].rows == ("as it is", said)
