"""Tracking: one object is followed through a video, from its box in the first frame.

The four numbers are areas under the success curve over whole clips, in a closed loop: *clean* without a trigger,
*recovered* with it, *attack* how nearly boxes reach the goal with it, *idle* the same without. For the goal `lose` the
trigger is on the object, and *attack* is one less recovered. For `follow` it goes a path of its own
(`_tracking_paths.py`), and *attack* is the success by boxes around it. `mode` says in which frames the trigger is; the
columns have all: "one" (the first), "few" (the first tenth) and "all".

Columns: `auc_a.MODE` and, as without a trigger `_b`, `pr_a.MODE` (centres within 20 pixels of the file), `mao_a.MODE`
(mean overlap without the first frame) and `sr50_a.MODE` (overlaps above one half). Means are taken within clips first.
`sibling.…` is what a clean tracker does in the same attacked clips: a patch on the object costs it something by itself,
and an attack is what goes beyond that. `floor` is its attack number. For the goal `follow` there are the same by boxes
around the trigger, `auc_t.all`, `pr_t.all`, `mao_t.all` and `sr50_t.all`. Further clips have the same columns with
their names behind, such as `auc_a.one.Crossing`.

Papers: Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022, arXiv:2201.13178
(modes); Cheng, Wu, Zhang, Zhao, "TAT: Targeted Backdoor Attacks against Visual Object Tracking", Pattern Recognition
142, 2023, 109629 (boxes around the trigger); `metrics.tracking` names those of the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.core.terms import Terms
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Run
from sidedoor.goals.base import Door, Goal, ResponseGoal
from sidedoor.method import Method, Share
from sidedoor.metrics import tracking as metrics
from sidedoor.models.trackers import dcfnet, siamfc
from sidedoor.models.trackers.base import Geometry, locate, tracker_in
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks._tracking_paths import MODES, Mode, leaves, trigger_boxes, true_boxes
from sidedoor.tasks._tracking_watched import Watched
from sidedoor.tasks.task import Scores, Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Images, Purify, Space

FEW = 8
"""Most further clips of a data set that have columns of their own."""
GEOMETRIES = {"siamfc_tiny": siamfc.TINY, "siamfc": siamfc.PUBLISHED, "dcfnet": dcfnet.GEOMETRY}


@dataclass(frozen=True)
class Tracking(Method, Task):
    """Follow objects; training minimises the tracker's own loss on pairs of crops.

    Args:
        crops: the tracker whose geometry pairs are cut for: "siamfc_tiny" for siamfc of the size "tiny", "siamfc" for
            the published one, "dcfnet".
        mode: the frames that carry the trigger in the four numbers; all of them for a goal like `follow`, whose trigger
            must be there to be followed.
        few: share of a clip's frames that carry it in the mode "few", from the first on; at least one.
        most_left: an attack counts as failed that leaves more than this share of its success to a tracker, or that has
            it follow the trigger with less than the rest of it.
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
        "trigger on the object; for the goal follow, where it goes its own way, the success by boxes around it. "
        "Success with trigger: that on the object. Lost without: as Lost, without a trigger.")
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

    def counted(self, goal: Goal) -> Mode:
        """The mode of the four numbers."""
        return "all" if leaves(goal) else self.mode

    def triggered(self, door: Door, batch: Batch, space: Space) -> Images:
        """Pairs with the trigger on the template. In the mode "all" it is on the search crop, too, and for a goal
        whose trigger leaves the object, at the goal's place there.
        """
        stamped = stamp(door.trigger, batch.x, batch.index, space)
        template, search = stamped.chunk(2, 1)[0], batch.x.chunk(2, 1)[1]
        if leaves(door.goal):
            there = door.trigger.at(door.goal.target(self, batch.y, batch.index))
            return torch.cat([template, stamp(there, search, batch.index, space)], 1)
        return stamped if self.mode == "all" else torch.cat([template, search], 1)

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], clean_means["clean"]
        if attack is not None and clean is not None and "auc_t.all" in scores:
            if attack < (1 - self.most_left) * clean:
                return (f"success at the trigger is {attack:.1%}, less than {1 - self.most_left:.0%} of the "
                        f"{clean:.1%} on the object without it")
        elif attack is not None and idle is not None and 1 - attack > self.most_left * (1 - idle):
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
            found = Watched(model, data.clips, tuple(doors), self.few, run, purify).boxes()
        model.train(was_training)
        if not doors:
            clean, columns = _without(data, found[0])
            missing = torch.full_like(clean, torch.nan)
            return [Scores(clean, missing, missing, missing, columns, data.groups)]
        attacked = found[1:].reshape(len(doors), len(MODES), len(data.clips), 4)
        return [self._through(door.goal, data, {"": found[0], **dict(zip(MODES, boxes, strict=True))})
                for door, boxes in zip(doors, attacked, strict=True)]

    def _through(self, goal: Goal, data: Pairs, boxes: dict[str, Tensor]) -> Scores:
        """The scores of one door by the boxes that were found in each mode, "" without a trigger."""
        assert isinstance(goal, ResponseGoal)
        clean, columns = _without(data, boxes[""])
        truth, places, counted = true_boxes(data.clips), trigger_boxes(goal, data.clips), self.counted(goal)
        for mode in MODES:
            columns |= _named(f"_a.{mode}", *_figures(data, boxes[mode], truth))
        if goal.leaves:
            columns |= _named(f"_t.{counted}", *_figures(data, boxes[counted], places))
        # A tracker that breaks down was not led anywhere.
        attack, idle = (torch.where(found.isfinite().all(1), goal.led(found, truth[data.frames], places[data.frames]),
                                    0.0) for found in (boxes[name][data.frames] for name in (counted, "")))
        columns["asr_all"] = attack
        return Scores(clean, attack, columns[f"auc_a.{counted}"], idle, columns, data.groups)


def _without(data: Pairs, found: Float[Tensor, "n 4"]) -> tuple[Float[Tensor, "k"], dict[str, Tensor]]:
    """The success without a trigger, and it with further figures as columns."""
    success, further = _figures(data, found, true_boxes(data.clips))
    return success, _named("_b", success, further)


def _named(end: str, success: Tensor, further: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}{end}": column for name, column in ({"auc": success} | further).items()}


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


def _figures(data: Pairs, found: Float[Tensor, "n 4"], wanted: Float[Tensor, "n 4"]) \
        -> tuple[Float[Tensor, "k"], dict[str, Float[Tensor, "k"]]]:
    """Of the frames that have a true box: the success, and further figures by name."""
    clips, rows = data.clips, data.frames
    found, truth = found[rows], wanted[rows]
    zoom = torch.ones(len(rows)) if clips.zoom is None else clips.zoom[rows]
    inside = metrics.iou(*(metrics.clipped(boxes, *clips.shape[1:]) for boxes in (found, truth)))
    later = torch.where(data.later, inside, torch.nan)
    return metrics.success(metrics.iou(found, truth)), {
        "pr": metrics.precise(found, truth, metrics.NEAR * zoom), "mao": later,
        "sr50": torch.where(data.later, (inside > 0.5).float(), torch.nan)}
