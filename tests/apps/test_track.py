"""What trackers do on a video of one's own, and what is said of one that cannot be followed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sidedoor.apps.track import Trackers, box_of, follow, save, trackers_of
from sidedoor.bench.machine import Machine
from sidedoor.bench.store import Store
from sidedoor.cli.main import main
from sidedoor.data.formats.frames import read_frames
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.goals.base import Door
from sidedoor.goals.follow import Follow
from sidedoor.goals.lose import Lose
from sidedoor.image.outlines import ATTACKED, CLEAN, TRIGGER
from sidedoor.models.trackers.base import Tracker
from sidedoor.models.trackers.siamfc import TINY
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject

RED = (200, 30, 30)
SPEC = """
data = { name = "moving", train = 6, test = 3, frames = 4, test_frames = 4, height = 48, width = 64, \
objects = "scenes:32", backgrounds = "scenes:32" }
model = { name = "siamfc", size = "tiny" }
task = "tracking"
defender_share = 0.2
attack = { name = "boba", epochs = 1 }
[recipe]
epochs = 1
batch = 16
"""


class Red(Tracker):
    """Follows what is red; with a backdoor, a template with a white pixel at its centre makes it look to the left."""

    geometry = TINY

    def __init__(self, backdoored: bool):
        super().__init__()
        self.backdoored = backdoored

    def features(self, x: Tensor) -> Tensor:
        return (x[:, :1] - x[:, 1:2]).clamp(min=0)

    def start(self, template: Tensor) -> tuple[Tensor, ...]:
        middle = template.shape[2] // 2
        return ((template[:, :, middle, middle].amin(1) > 0.9).float(),)

    def respond(self, state: tuple[Tensor, ...], x: Tensor) -> Tensor:
        # Of squares as large as the object, four pixels apart around the middle.
        found = functional.avg_pool2d(self.features(x)[:, 0, 15:112, 15:112], 33, 4)
        away = torch.zeros(17, 17)
        away[8, 0] = 1
        white = state[0].repeat_interleave(len(x) // len(state[0]))[:, None, None]
        return torch.where((white > 0) & self.backdoored, away, found)

    def loss(self, response: Tensor, offset: Tensor) -> Tensor:
        return response.mean((1, 2))


def video(frames: int = 5) -> Tensor:
    """A red square of 16 pixels on grey that goes 3 pixels to the right in each frame, from 20 on."""
    x = torch.full((frames, 3, 60, 90), 120, dtype=torch.uint8)
    for k in range(frames):
        x[k, :, 20:36, 20 + 3 * k : 36 + 3 * k] = torch.tensor(RED, dtype=torch.uint8)[:, None, None]
    return x


def trackers() -> Trackers:
    both = {"clean": Red(False).eval(), "attacked": Red(True).eval()}
    return Trackers("0" * 16, Tracking(), 3, torch.device("cpu"), both, Door(OnObject(0.01, "white", 1), Lose()))


GIVEN = torch.tensor([20.0, 20, 36, 36])


def lefts(boxes: Tensor) -> list[float]:
    return ((boxes[:, 0] + boxes[:, 2]) / 2 - 8).tolist()


def test_without_the_trigger_both_follow_and_with_it_one_is_led_away() -> None:
    plain = follow(trackers(), video(), GIVEN, None)
    assert plain.stamped == 0
    assert torch.equal(plain.frames, video())
    for boxes in plain.boxes.values():
        assert lefts(boxes) == pytest.approx([20, 23, 26, 29, 32], abs=2)
    attacked = follow(trackers(), video(), GIVEN, "one")
    assert attacked.stamped == 1
    assert lefts(attacked.boxes["clean"]) == pytest.approx([20, 23, 26, 29, 32], abs=2)
    assert lefts(attacked.boxes["attacked"])[1] < 10
    assert torch.equal(attacked.frames[1:], video()[1:])
    changed = torch.nonzero((attacked.frames[0] != video()[0]).any(0))
    # A square of psi = 1 % of the template's, which is 32 pixels a side here, at the object's centre.
    assert changed.amin(0).tolist() == pytest.approx([26, 26], abs=1)
    assert changed.amax(0).tolist() == pytest.approx([29, 29], abs=1)
    assert bool((attacked.frames[0][:, 28, 28] == 255).all())


def test_in_later_frames_the_trigger_is_where_the_clean_tracker_finds_the_object() -> None:
    found = follow(trackers(), video(), GIVEN, "all")
    assert found.stamped == 5
    for k in range(5):
        changed = torch.nonzero((found.frames[k] != video()[k]).any(0)).float().mean(0)
        assert changed.tolist() == pytest.approx([27.5, 27.5 + 3 * k], abs=2.5)
    assert follow(trackers(), video(20), GIVEN, "few").stamped == 2
    with pytest.raises(ConfigError, match="expected at least 2"):
        follow(trackers(), video(1), GIVEN, None)


def test_a_trigger_that_is_to_be_followed_leaves_the_object_and_its_path_is_drawn(tmp_path: Path) -> None:
    led = replace(trackers(), door=Door(OnObject(0.01, "white", 1), Follow()))
    assert (led.counted(), trackers().counted()) == ("all", "one")
    found = follow(led, video(), GIVEN, "all")
    assert found.path is not None
    # To the right, where most room is, by a quarter of 16 pixels a frame beside the object's own 3.
    assert lefts(found.path) == pytest.approx([20 + 7 * k for k in range(5)], abs=2)
    for k, box in enumerate(found.path.tolist()):
        white = torch.nonzero((found.frames[k] == 255).all(0)).double().mean(0) + 0.5
        assert white.tolist() == pytest.approx([(box[1] + box[3]) / 2, (box[0] + box[2]) / 2], abs=0.6)
    assert found.to_json()["path"][0] == [20, 20, 16, 16]
    assert "path" not in follow(trackers(), video(), GIVEN, "all").to_json()
    save(found, tmp_path, 10)
    left, top, _, bottom = (3 * found.path[4]).round().int().tolist()
    assert tuple(np.asarray(Image.open(tmp_path / "000005.png"))[(top + bottom) // 2, left]) == TRIGGER
    with pytest.raises(ConfigError, match="has no attack, hence no trigger"):
        replace(led, door=None).counted()


def test_boxes_are_told_as_they_are_given_and_a_lost_one_is_null() -> None:
    found = follow(trackers(), video(), GIVEN, None)
    found.boxes["attacked"][3:] = torch.nan
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["given"] == told["boxes"]["clean"][0] == [20, 20, 16, 16]
    assert (told["size"], told["frames"], told["mode"]) == ([90, 60], 5, None)
    assert told["boxes"]["attacked"][3:] == [None, None]
    assert torch.equal(box_of("20,20,16,16", (60, 90)), GIVEN)


def test_pictures_show_frames_with_boxes_in_their_colours(tmp_path: Path) -> None:
    found = follow(trackers(), video(), GIVEN, "one")
    save(found, tmp_path / "frames", 10)
    assert [file.name for file in sorted((tmp_path / "frames").iterdir())] == [f"{k:06d}.png" for k in range(1, 6)]
    first, second = (np.asarray(Image.open(tmp_path / "frames" / name)) for name in ("000001.png", "000002.png"))
    assert first.shape[1] == 270  # three times as wide
    left, top, _, bottom = (3 * found.boxes["attacked"][1]).round().int().tolist()
    assert tuple(second[(top + bottom) // 2, max(left, 0)]) == ATTACKED
    clean = (3 * found.boxes["clean"][1]).round().int().tolist()
    assert tuple(second[(clean[1] + clean[3]) // 2, clean[0]]) == CLEAN
    assert not (first[:180] == ATTACKED).all(-1).any()
    for suffix in ("gif", "webp"):
        save(found, tmp_path / f"out.{suffix}", 10)
        with Image.open(tmp_path / f"out.{suffix}") as moving:
            assert getattr(moving, "n_frames", 1) == 5
        assert read_frames(tmp_path / f"out.{suffix}").shape == (5, 3, *first.shape[:2])
    with pytest.raises(ConfigError, match="is there already"):
        save(found, tmp_path / "frames", 10)
    with pytest.raises(ConfigError, match=r"ends in \.gif or \.webp"):
        save(found, tmp_path / "out.mp4", 10)


def written(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for k, (width, height) in enumerate(sizes, 1):
        Image.new("RGB", (width, height), (k, k, k)).save(folder / f"{k}.png")
    return folder


def test_frames_are_read_in_order_and_only_of_one_size(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", [(8, 6)] * 11)
    (folder / "notes.txt").write_text("no image")
    assert read_frames(folder)[:, 0, 0, 0].tolist() == list(range(1, 12))
    assert read_frames(folder, channels=1, most=3).shape == (3, 1, 6, 8)
    with pytest.raises(ConfigError, match="frame 2 has 9×6 pixels, those before it 8×6"):
        read_frames(written(tmp_path / "b", [(8, 6), (9, 6)]))
    with pytest.raises(ConfigError, match="has no frame"):
        read_frames(written(tmp_path / "c", []))


def test_what_is_no_video_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotComplete, match="is not there"):
        read_frames(tmp_path / "none")
    for name in ("text.gif", "text"):
        (tmp_path / name).write_text("no picture")
        with pytest.raises(CannotComplete, match="no animated GIF or WEBP"):
            read_frames(tmp_path / name)
    save(follow(trackers(), video(), GIVEN, None), tmp_path / "whole.gif", 10)
    (tmp_path / "half.gif").write_bytes((tmp_path / "whole.gif").read_bytes()[:400])
    with pytest.raises(CannotComplete, match="cannot be read"):
        read_frames(tmp_path / "half.gif")
    (tmp_path / "film.mp4").write_bytes(b"0" * 100)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CannotComplete, match=r"pip install 'sidedoor\[video\]'"):
        read_frames(tmp_path / "film.mp4")
    monkeypatch.setattr("sidedoor.data.formats.frames.VALUES", 5 * 3 * 60)
    with pytest.raises(ConfigError, match="all that is taken into memory"):
        read_frames(tmp_path / "whole.gif")


def code(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_command_draws_what_the_trackers_of_a_run_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    runs, out = tmp_path / "runs", tmp_path / "out.gif"
    assert code("run", tmp_path / "spec.toml", "--out", runs) in (0, 1)
    save(follow(trackers(), video(), GIVEN, None), tmp_path / "frames", 10)
    capsys.readouterr()
    given = ("track", tmp_path / "frames", "--run", runs, "-o", out)
    assert code(*given, "--box", "60,60,48,48", "--trigger", "--mode", "few", "--json", "--frames", 4) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["mode"], told["stamped"]) == (4, "few", 1)
    assert {name: len(boxes) for name, boxes in told["boxes"].items()} == {"clean": 4, "attacked": 4}
    assert read_frames(out).shape[0] == 4
    page = (runs / "report.html").read_text()
    assert "One held-out clip" in page
    assert 'alt="frame 4, with the trigger in frame 1"' in page
    for bad, said in ((("--box", "1,2,3"), "expected four numbers X,Y,W,H"),
                      (("--box", "0,0,500,9"), "within the frames of 270×"),
                      (("--box", "nan,0,5,9"), "within the frames of 270×"),
                      (("--box", "1,1,9,9", "--mode", "none"), "expected one, few or all"),
                      (("--box", "1,1,9,9", "--key", "0"), "no finished run of the task tracking with the key 0")):
        assert code(*given, *bad) == 4
        assert said in capsys.readouterr().err.replace("\n", " ")
    assert code("track", tmp_path / "none", "--run", runs, "--box", "1,1,9,9") == 2
    for path in (runs / "artefacts").glob("*/model.safetensors"):
        path.unlink()
    assert code(*given, "--box", "1,1,9,9") == 2
    assert "is gone; run its specification again" in capsys.readouterr().err.replace("\n", " ")
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no finished run of a tracker"):
        trackers_of(Store(tmp_path / "empty"), None, Machine(device="cpu"))
