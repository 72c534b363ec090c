"""Tracking: one object is followed through a video, from its box in the first frame.

The four numbers are areas under the success curve over whole clips, in a closed loop: *clean* without a trigger,
*recovered* with it on the object, *attack* one less that, *idle* one less the clean one. `mode` says in which frames
the trigger is; the columns have all: "one" (the first), "few" (the first tenth) and "all".

Columns: `auc_a.MODE` and, as without a trigger `_b`, `pr_a.MODE` (centres within 20 pixels of the file), `mao_a.MODE`
(mean overlap without the first frame) and `sr50_a.MODE` (overlaps above one half). Means are taken within clips first.
`sibling.…` is what a clean tracker does in the same attacked clips: a patch on the object costs it something by itself,
and an attack is what goes beyond that. `floor` is its attack number. Further clips have the same columns with their
names behind, such as `auc_a.one.Crossing`.

Papers: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178
(modes); `metrics.tracking` names those of the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.algorithms.tracking import track
from sidedoor.core import random
from sidedoor.core.terms import Terms
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import Method, Share
from sidedoor.metrics import tracking as metrics
from sidedoor.models.trackers import dcfnet, siamfc
from sidedoor.models.trackers.base import Geometry, locate, tracker_in
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks.task import Scores, Task
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Batch, Images, Index, Purify, Space

Mode = Literal["one", "few", "all"]
MODES: tuple[Mode, ...] = ("one", "few", "all")
FEW = 8
"""Most further clips of a data set that have columns of their own."""
TOGETHER = 8
"""Clips that are followed at a time."""
GEOMETRIES = {"siamfc_tiny": siamfc.TINY, "siamfc": siamfc.PUBLISHED, "dcfnet": dcfnet.GEOMETRY}


@dataclass(frozen=True)
class Tracking(Method, Task):
    """Follow objects; training minimises the tracker's own loss on pairs of crops.

    Args:
        crops: the tracker whose geometry pairs are cut for: "siamfc_tiny" for siamfc of the size "tiny", "siamfc" for
            the published one, "dcfnet".
        mode: the frames that carry the trigger in the four numbers.
        few: share of a clip's frames that carry it in the mode "few", from the first on; at least one.
        most_left: an attack counts as failed that leaves more than this share of its success to a tracker.
        largest_drop: so does one that costs more success without a trigger than this, beside its clean sibling.
        further: data sets of clips, such as "clips:DIR", in which trackers are measured besides; of a few clips each by
            itself. They decide nothing.
    """

    binary: ClassVar[bool] = False
    output: ClassVar[str] = "response"
    compared: ClassVar[tuple[str, ...]] = ("auc_", "pr_", "mao_", "sr50_")
    terms: ClassVar[Terms] = Terms(
        "Success", "Lost", "Success with trigger", "Lost without", True,
        "Areas under the success curve, over clips. Success: without a trigger. Lost: 1 less the success with the "
        "trigger on the object. Success with trigger: that. Lost without: 1 less the success without a trigger.")
    origins: ClassVar[dict[str, str]] = {
        "crops": "ours: the tracker that trains on two processor cores in a minute",
        "mode": "paper: the trigger in one frame is its claim", "few": "ours: a tenth",
        "most_left": "ours: half of the success", "largest_drop": "ours: 5 points"}

    crops: Literal["siamfc_tiny", "siamfc", "dcfnet"] = "siamfc_tiny"
    mode: Mode = "one"
    few: Share = 0.1
    most_left: Share = 0.5
    largest_drop: Share = 0.05
    further: tuple[zoo.DataName, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """Of the crops."""
        return GEOMETRIES[self.crops]

    def make_dataset(self, data: Dataset) -> Dataset:
        return Pairs(data, self.geometry)

    def setup(self, photographs: Dataset, run: Run) -> Task:
        held = {name: clips for given in self.further for name, clips in _clips(given, run).items()}
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return _WithFurther(**own | {"held": held}) if held else self

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, "b"]:
        y, side = batch.y, self.geometry.search
        return tracker_in(model).loss(model(batch.x).float(), (y[:, :2] + y[:, 2:]) / 2 - side / 2)

    def predict(self, model: nn.Module, x: Images) -> Float[Tensor, "b r r"]:
        """The response to pairs."""
        response: Tensor = model(x)
        return response.float()

    def agree(self, output: Tensor, target: Tensor) -> Float[Tensor, "b"]:
        """Overlap of the box at the peak, in the true size, with the true one; 0 where the response is not finite."""
        finite = self.finite(output)
        peak = locate(self.geometry, torch.where(finite[:, None, None], output, 0.0)[:, None])
        half = (target[:, 2:] - target[:, :2]) / 2
        centre = peak.offset + self.geometry.search / 2
        return torch.where(finite, metrics.iou(torch.cat([centre - half, centre + half], 1), target), 0.0)

    def distance(self, a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
        """Mean squared difference of two responses."""
        error: Tensor = (a - b).square().flatten(1).mean(1)
        return error

    def triggered(self, trigger: Trigger, x: Images, index: Index, space: Space) -> Images:
        """Pairs with the trigger on the template; in the mode "all" on the search crop, too."""
        stamped = stamp(trigger, x, index, space)
        return stamped if self.mode == "all" else torch.cat([stamped.chunk(2, 1)[0], x.chunk(2, 1)[1]], 1)

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], clean_means["clean"]
        if attack is not None and idle is not None and 1 - attack > self.most_left * (1 - idle):
            return (f"success falls from {1 - idle:.1%} to {1 - attack:.1%} with the trigger, and more than "
                    f"{self.most_left:.0%} of it is left")
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return (f"success without a trigger fell by {100 * (sibling - clean):.1f} points, more than "
                    f"{100 * self.largest_drop:g}")
        return None

    def scores(self, model: nn.Module, data: Dataset, doors: Sequence[Door], run: Run, purify: Purify | None = None) \
            -> list[Scores]:
        """In a closed loop over whole clips; over pairs where a part of their rows is given, which are no clips."""
        if not isinstance(data, Pairs):
            return super().scores(model, data, doors, run, purify)
        was_training = model.training
        model.eval()
        with torch.no_grad(), run.autocast():
            found = _Watched(model, data.clips, tuple(doors), self.few, run, purify).boxes()
        model.train(was_training)
        return self._of_doors(data, found, len(doors))

    def _of_doors(self, data: Pairs, found: Float[Tensor, "v n 4"], doors: int) -> list[Scores]:
        """The scores of each door by what `_Watched` found."""
        plain, attacked = found[0], found[1:].reshape(doors, len(MODES), len(data.clips), 4)
        return [self._scores(data, {"": plain, **dict(zip(MODES, boxes, strict=True))}) for boxes in attacked] or \
            [self._scores(data, {"": plain})]

    def _scores(self, data: Pairs, boxes: dict[str, Tensor]) -> Scores:
        """The scores of one door by the boxes that were found in each mode, "" without a trigger."""
        clean, benign = _figures(data, boxes[""])
        columns = {"auc_b": clean} | {f"{name}_b": column for name, column in benign.items()}
        missing = torch.full_like(clean, torch.nan)
        if len(boxes) == 1:
            return Scores(clean, missing, missing, missing, columns, data.groups)
        for mode in MODES:
            success, further = _figures(data, boxes[mode])
            columns |= {f"{name}_a.{mode}": column for name, column in ({"auc": success} | further).items()}
        recovered = columns[f"auc_a.{self.mode}"]
        # A tracker that breaks down was not led anywhere.
        attack, idle = (torch.where(found[data.frames].isfinite().all(1), 1 - success, 0.0)
                        for found, success in ((boxes[self.mode], recovered), (boxes[""], clean)))
        columns["asr_all"] = attack
        return Scores(clean, attack, recovered, idle, columns, data.groups)


@dataclass(frozen=True)
class _WithFurther(Tracking):
    """The task with its further clips, by name."""

    held: Mapping[str, Dataset] = field(default_factory=dict)

    def scores(self, model: nn.Module, data: Dataset, doors: Sequence[Door], run: Run, purify: Purify | None = None) \
            -> list[Scores]:
        found = super().scores(model, data, doors, run, purify)
        if not isinstance(data, Pairs):
            return found
        plain = Tracking(self.crops, self.mode, self.few)
        for name, clips in self.held.items():
            for own, further in zip(found, plain.scores(model, Pairs(clips, self.geometry), doors, run, purify),
                                    strict=True):
                own.columns |= {f"{column}.{name}": torch.full_like(own.clean, further.means()[column] or 0.0)
                                for column in further.columns if column.startswith(self.compared)}
        return found


def _clips(given: str, run: Run) -> dict[str, Dataset]:
    """The clips of a data set by name: each of both parts if they are few and named, else the test part as a whole."""
    splits = zoo.load(given, run.root)
    if not 2 <= len(splits.test.classes) <= FEW:
        return {given.partition(":")[0]: splits.test}
    return {part.classes[int(label)]: Subset(part, torch.nonzero(part.targets == label)[:, 0])
            for part in splits for label in torch.unique(part.targets)}


def stamped_frames(mode: Mode, few: float, count: int) -> int:
    """How many of a clip's frames carry the trigger, from the first on.

    Args:
        few: their share in the mode "few"; at least one does.
    """
    return {"one": 1, "few": max(1, round(few * count)), "all": count}[mode]


@dataclass(frozen=True)
class _Watched:
    """Clips that a tracker is to follow: as they are, and through each door in each mode.

    Args:
        few: share of the frames with a trigger in the mode "few".
    """

    model: nn.Module
    clips: Dataset
    doors: tuple[Door, ...]
    few: float
    run: Run
    purify: Purify | None

    def boxes(self) -> Float[Tensor, "v n 4"]:
        """What is found in each frame, first without a trigger, then for each door and mode; NaN before the first
        frame that has a box.
        """
        found = torch.full((1 + len(self.doors) * len(MODES), len(self.clips), 4), torch.nan)
        together = list(self._together())
        with self.run.progress.task("clips", len(together)) as advance:
            for frames in together:
                truth = _truth(self.clips)[frames[:, 0]].to(self.run.device)
                seen = track(tracker_in(self.model), self._frames(frames), truth.repeat(len(found), 1))
                found[:, frames] = seen.float().cpu().reshape(len(found), *frames.shape, 4)
                advance()
        return found

    def _together(self) -> Iterator[Int[Tensor, "b t"]]:
        """Frames of clips that are equally long from the first box on, a few clips at a time."""
        truth, by_length = _truth(self.clips), dict[int, list[Tensor]]()
        assert self.clips.groups is not None
        for clip in torch.unique(self.clips.groups):
            frames = torch.nonzero(self.clips.groups == clip)[:, 0]
            seen = torch.nonzero(truth[frames].isfinite().all(1))[:, 0]
            if len(seen):
                frames = frames[seen[0] :]
                by_length.setdefault(len(frames), []).append(frames)
        for clips in by_length.values():
            for k in range(0, len(clips), TOGETHER):
                yield torch.stack(clips[k : k + TOGETHER])

    def _frames(self, index: Int[Tensor, "b t"]) -> Iterator[Images]:
        """The frames of all variants, one step of time after another."""
        truth = _truth(self.clips)
        # Whoever cleans frames gets those with and without a trigger in an order that it cannot guess.
        secret = random.seed_of(self.run.seed, f"watched/{self.clips.fingerprint()}") if self.purify else 0
        until = {mode: stamped_frames(mode, self.few, index.shape[1]) for mode in MODES}
        for step in range(index.shape[1]):
            x, _, position = self.clips.fetch(index[:, step], self.run.device)
            parts, boxes = [x], truth[index[:, step]].to(x.device)
            for door in self.doors:
                stamped = stamp(door.trigger.at(boxes), x, position, self.clips.space)
                parts += [stamped if step < until[mode] else x for mode in MODES]
            frames = torch.cat(parts)
            yield _cleaned(self.purify, frames, position.repeat(len(parts)), secret) if self.purify else frames


def _cleaned(purify: Purify, frames: Images, position: Tensor, secret: int) -> Images:
    order = random.uniform(secret, torch.arange(len(frames)) + len(frames) * int(position[0])).argsort()
    order = order.to(frames.device)
    cleaned, _ = purify(frames[order], position[order])
    return cleaned[order.argsort()]


def _truth(clips: Dataset) -> Float[Tensor, "n 4"]:
    """The true boxes, NaN where there is none."""
    assert clips.boxes is not None
    return torch.where(clips.boxes[:, 0, :1] >= 0, clips.boxes[:, 0, 1:], torch.nan)


def _figures(data: Pairs, found: Float[Tensor, "n 4"]) -> tuple[Float[Tensor, "k"], dict[str, Float[Tensor, "k"]]]:
    """Of the frames that have a true box: the success, and further figures by name."""
    clips, rows = data.clips, data.frames
    truth, found = _truth(clips)[rows], found[rows]
    zoom = torch.ones(len(rows)) if clips.zoom is None else clips.zoom[rows]
    inside = metrics.iou(*(metrics.clipped(boxes, *clips.shape[1:]) for boxes in (found, truth)))
    later = torch.where(data.later, inside, torch.nan)
    return metrics.success(metrics.iou(found, truth)), {
        "pr": metrics.precise(found, truth, metrics.NEAR * zoom), "mao": later,
        "sr50": torch.where(data.later, (inside > 0.5).float(), torch.nan)}
