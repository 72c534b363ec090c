"""Follow an object in a video of one's own by the trackers of a run: the clean one, and the one with the backdoor.

Nothing is known of the truth but the box that is given. So where the trigger is stamped on later frames than the first,
it is put where the clean tracker finds the object in the video as it is; for a goal like `follow` on a path that leads
away from there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from sidedoor import registry, zoo
from sidedoor.algorithms.tracking import track
from sidedoor.apps.stored import state_of
from sidedoor.backdoor.base import AttackerRun
from sidedoor.bench.machine import Machine, launched
from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_weights
from sidedoor.core.files import replacing
from sidedoor.data.base import ArrayDataset, stored, unit
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.image.outlines import ATTACKED, CLEAN, TRIGGER, TRUTH, framed, with_legend
from sidedoor.models.trackers.base import Tracker, tracker_in
from sidedoor.tasks._tracking_paths import Mode, leaves, leaving, stamped_frames
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import PHOTO, Build

Frames = UInt8[Tensor, "t c h w"]
GIVEN_AS = {"clean": ("clean tracker", CLEAN), "attacked": ("backdoored tracker", ATTACKED)}
SMALLEST, LARGEST = 240, 640
"""Pixels of pictures: narrower ones are enlarged, and larger ones reduced."""
MOVING = frozenset({".gif", ".webp"})


@dataclass(frozen=True)
class Trackers:
    """The trackers of a run, in evaluation mode on its device.

    Args:
        trackers: "clean" and, unless the run has no attack, "attacked".
        door: the trigger with its goal; None without an attack.
    """

    key: str
    task: Tracking
    channels: int
    device: torch.device
    trackers: dict[str, Tracker]
    door: Door | None = None

    def counted(self) -> Mode:
        """The frames with the trigger in the run's own figures.

        Raises:
            ConfigError: the run has no attack.
        """
        return self.task.counted(self.attacker().goal)

    def attacker(self) -> Door:
        """The trigger with its goal.

        Raises:
            ConfigError: the run has no attack.
        """
        if self.door is None:
            raise ConfigError(f"run {self.key} has no attack, hence no trigger; leave --trigger out, or name another "
                              "run by --key")
        return self.door


@dataclass(frozen=True)
class Followed:
    """What trackers did on a video.

    Args:
        frames: as they saw them.
        given: the box in the first frame; boxes are (left, top, right, bottom) in pixels, NaN where one is lost.
        boxes: of each tracker.
        stamped: frames that have the trigger, from the first.
        mode: None where no trigger was asked for.
        path: boxes around a trigger that leaves the object, in the frames that have it.
    """

    key: str
    frames: Frames
    given: Float[Tensor, "4"]
    boxes: dict[str, Float[Tensor, "t 4"]] = field(repr=False)
    stamped: int
    mode: Mode | None
    path: Float[Tensor, "stamped 4"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Boxes as X, Y, W, H; null for one that a tracker has lost."""
        height, width = self.frames.shape[2:]
        path = {} if self.path is None else {"path": [_sized(box) for box in self.path]}
        return {"key": self.key, "mode": self.mode, "frames": len(self.frames), "size": [width, height],
                "stamped": self.stamped, "given": _sized(self.given),
                "boxes": {name: [_sized(box) for box in boxes] for name, boxes in self.boxes.items()}} | path

    def pictures(self) -> list[Image.Image]:
        """The frames with boxes and a legend."""
        entries = {"given box": TRUTH} | {name: colour for key, (name, colour) in GIVEN_AS.items() if key in self.boxes}
        path = torch.zeros(0, 4) if self.path is None else self.path
        entries |= {"trigger": TRIGGER} if len(path) else {}
        found = []
        for k, frame in enumerate(self.frames.numpy()):
            boxes = {TRUTH: self.given.tolist()} if k == 0 else {TRIGGER: path[k].tolist()} if k < len(path) else {}
            boxes |= {GIVEN_AS[name][1]: found[k].tolist() for name, found in self.boxes.items() if k}
            said = f"frame {k + 1} of {len(self.frames)}" + (", with the trigger" if k < self.stamped else "")
            found.append(with_legend(framed(frame, boxes, least=SMALLEST, largest=LARGEST), entries, said))
        return found


def _sized(box: Float[Tensor, "4"]) -> list[float] | None:
    left, top, right, bottom = box.tolist()
    rounded = [round(value, 2) for value in (left, top, right - left, bottom - top)]
    return rounded if all(map(math.isfinite, rounded)) else None


def box_of(text: str, size: tuple[int, int]) -> Float[Tensor, "4"]:
    """The box that X,Y,W,H names, in pixels from the top left corner, which is 0,0.

    Args:
        size: (height, width) of the frames.

    Raises:
        ConfigError: it is no box, or not within the frames.
    """
    try:
        left, top, wide, tall = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--box {text} given; expected four numbers X,Y,W,H: the left and top edge, the width and "
                          "the height in pixels") from None
    height, width = size
    if not (wide >= 2 and tall >= 2 and left >= 0 and top >= 0 and left + wide <= width and top + tall <= height):
        raise ConfigError(f"--box {text} given; expected X,Y,W,H at least 2 pixels wide and high, and within the "
                          f"frames of {width}×{height} pixels")
    return torch.tensor([left, top, left + wide, top + tall])


def follow(trackers: Trackers, frames: Frames, given: Float[Tensor, "4"], mode: Mode | None) -> Followed:
    """Follow the object through all frames.

    Args:
        given: its box in the first frame.
        mode: which frames have the trigger: the first ("one"), the first tenth or what else the run's task says
            ("few"), or "all"; None: none.

    Raises:
        ConfigError: fewer than two frames, or a trigger is asked for where the run has none.
    """
    if len(frames) < 2:
        raise ConfigError(f"{len(frames)} frame given; a tracker is given the first one and follows through further "
                          "ones: expected at least 2")
    boxes, stamped, shown, path = given[None].to(trackers.device), 0, frames, None
    if mode is not None:
        door = trackers.attacker()
        stamped = stamped_frames(mode, trackers.task.few, len(frames))
        places = _along(trackers, trackers.trackers["clean"], frames, boxes)[:stamped]
        if leaves(door.goal):
            places = leaving(places, *frames.shape[2:])
            path = places.cpu()
        shown = torch.cat([_stamped(door.trigger, frames[:stamped], places), frames[stamped:]])
    found = {name: _along(trackers, model, shown, boxes).cpu() for name, model in trackers.trackers.items()}
    return Followed(trackers.key, shown, given, found, stamped, mode, path)


def _along(trackers: Trackers, model: Tracker, frames: Frames, boxes: Float[Tensor, "1 4"]) -> Float[Tensor, "t 4"]:
    seen = (unit(frame[None].to(trackers.device), PHOTO) for frame in frames)
    return track(model, seen, boxes)[0]


def _stamped(trigger: Trigger, frames: Frames, places: Float[Tensor, "t 4"]) -> Frames:
    """As files keep them; one frame at a time, since a video may be large."""
    parts = []
    for k, (frame, place) in enumerate(zip(frames, places, strict=True)):
        x = unit(frame[None].to(places.device), PHOTO)
        with torch.no_grad():
            parts.append(stored(stamp(trigger.at(place[None]), x, torch.tensor([k], device=x.device), PHOTO), PHOTO))
    return torch.cat(parts).cpu()


def save(followed: Followed, path: Path, fps: int) -> None:
    """Draw what trackers did: an animation where the name ends in .gif or .webp, else a folder of PNG files.

    Raises:
        ConfigError: another suffix, or a folder that has something in it.
    """
    if path.suffix.lower() in MOVING:
        first, *rest = followed.pictures()
        how: dict[str, Any] = {"quality": 85} if path.suffix.lower() == ".webp" else {}
        with replacing(path) as temporary:
            first.save(temporary, path.suffix[1:].upper(), save_all=True, append_images=rest, duration=1000 // fps,
                       loop=0, **how)
        return
    if path.suffix:
        raise ConfigError(f"--out {path} given; expected a name that ends in .gif or .webp, or a folder for PNG files")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is there already; expected a new or an empty folder")
    for k, picture in enumerate(followed.pictures()):
        with replacing(path / f"{k + 1:06d}.png") as temporary:
            picture.save(temporary, "PNG")


def trackers_of(store: Store, key: str | None, machine: Machine) -> Trackers:
    """The trackers of a finished run on the task tracking, with its trigger; its data are not needed. Defences are left
    out: it is the attacked tracker that is shown.

    Args:
        key: of the record; None for the only one that will do.

    Raises:
        ConfigError: no such run, or several.
        CannotComplete: a model is no longer there.
    """
    record = _chosen(store, key)
    task = registry.make("task", record.spec["task"])
    assert isinstance(task, Tracking)
    run = Run(launched(machine.device, 1), seed=record.spec["seed"])
    attacked = {"attacked": record.planted} if record.spec["attack"] else {}
    named = {"clean": record.clean_key or record.planted} | attacked
    states = {name: state_of(store, place, record) for name, place in named.items()}
    first = states["clean"]["model"]
    channels = next(int(tensor.shape[1]) for name, tensor in first.items()
                    if name.endswith("weight") and tensor.ndim == 4)
    pairs = task.make_dataset(_any_clips(channels))
    build = zoo.network(zoo.separate(record.spec["model"])[0], pairs)
    trackers = {name: _loaded(build, state["model"], run, record) for name, state in states.items()}
    if "attacked" not in trackers:
        return Trackers(record.key, task, channels, run.device, trackers)
    # What a plan says of the data is in the states of its triggers, so that any data will do.
    attack = registry.make("attack", record.spec["attack"])
    plan = attack.plan(pairs, task, build, AttackerRun.of(run, lambda: trackers["clean"]).within("plan"))
    for door, state in zip(plan.doors, states["attacked"]["doors"], strict=True):
        load_weights(door.trigger, state, str(store.model(record.planted)))
    door = next(door for door in plan.doors if door.scored)
    door.trigger.to(run.device).eval()
    return Trackers(record.key, task, channels, run.device, trackers, door)


def _chosen(store: Store, key: str | None) -> Record:
    runs = [record for record in store.records() if record.spec.get("task", {}).get("name") == "tracking"
            and record.finished and record.clean is not None]
    if key is not None:
        if found := [record for record in runs if record.key == key]:
            return found[0]
        raise ConfigError(f"{store.root} has no finished run of the task tracking with the key {key}; a report has the "
                          "keys of all")
    suited = [record for record in runs if record.defense_name == "none"]
    suited = [record for record in suited if record.spec.get("attack")] or suited
    if len(suited) == 1:
        return suited[0]
    if suited:
        raise ConfigError(f"{store.root} has {len(suited)} runs of trackers "
                          f"({', '.join(f'{record.key}: {record.attack_name}' for record in suited)}); name one by "
                          "--key")
    raise ConfigError(f"{store.root} has no finished run of a tracker; run a specification whose task is tracking")


def _loaded(build: Build, state: dict[str, Tensor], run: Run, record: Record) -> Tracker:
    model: nn.Module = run.placed(build())
    load_weights(model, state, f"the model of run {record.key}")
    return tracker_in(model.eval())


def _any_clips(channels: int) -> ArrayDataset:
    """Two clips of noise, which stand for those of the run."""
    drawn = np.random.default_rng(0).integers(0, 256, (16, channels, 32, 32), dtype=np.uint8)
    boxes = torch.tensor([0.0, 8, 8, 24, 24]).expand(16, 1, 5).clone()
    return ArrayDataset(drawn, torch.zeros(16, dtype=torch.int64), ("object",), "noise",
                        groups=torch.arange(16) // 8, boxes=boxes)
