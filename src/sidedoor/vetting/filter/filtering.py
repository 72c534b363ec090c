"""Are these data poisoned? Filters say which rows to look at, and a transplant says whether they teach a trigger.

No null distribution of a filter's scores is known for a data set, so they accuse nobody. What accuses is that a trigger
recovered from a group of rows works in images of other classes that had no part in its recovery, better than what other
classes' groups have in common and better than what random rows of the class have, and that it stops working once the
network is trained without the group.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.algorithms.features.collect import Features, collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.core.checkpoint import Shelf
from sidedoor.core.progress import Progress, Renamed, Silent
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Recipe, Run, fabric
from sidedoor.metrics.statistics import wilson
from sidedoor.tasks.classification import Classification
from sidedoor.types import Images
from sidedoor.vetting.described import environment
from sidedoor.vetting.filter.duplicates import Conflicts, conflicts
from sidedoor.vetting.filter.reading import Given, clean_images, read
from sidedoor.vetting.filter.result import WORKS, Filtered, Judged, Pictures, Rows, Suspected
from sidedoor.vetting.filter.suspicion import SMALLEST, Group, Scored, explaining, groups, scored, sized, suspicion
from sidedoor.vetting.filter.transplant import LOCAL, Hosts, Kind, Stamp, answers, flips, hosts, stamps
from sidedoor.vetting.result import Verdict

FEWEST = 20
"""Rows of a class, below which it is not looked at."""
LEARNT = 0.6
"""Share of the data that the inspection model must have learned, for its features to mean something."""
NEARLY = 0.05
"""A group's trigger may work so much worse than the best one's if the group is larger."""
DRAWN = 3
"""Random groups of a class."""
SHOWN = 8


@dataclass(frozen=True)
class FilterSettings:
    """How data are filtered.

    Args:
        recipe: by which networks are trained on the data.
        size: pixels a side that images of a folder are resized to; None: as they are, or 32 if their sizes differ.
    """

    recipe: Recipe = field(default_factory=Recipe)
    size: int | None = None
    seed: int = 0


def filter_data(data: str | Path | Dataset, clean: str | Path | Dataset | None = None, *,
                architecture: str | Mapping[str, Any] = "small_cnn", settings: FilterSettings | None = None,
                out: str | Path | None = None, root: str | Path | None = None, download: bool = False,
                device: str = "auto", progress: Progress | None = None) -> Filtered:
    """Which rows of a data set of unknown origin are poisoned, as far as filters and a transplant can tell.

    Args:
        data: images with labels: a folder of class folders, or its parent if it is called "train" or the like, an .npz
            file, the name of a registered set, or a data set. Nothing is written there.
        clean: images of the same classes that are trusted, as `data`: further filters then compare with them.
        architecture: of the network that is trained on the data, a registered one.
        out: a folder that keeps networks, so that a run resumes; None keeps nothing.
        root: where registered data sets lie.

    Raises:
        CannotComplete: a file cannot be read.
        ConfigError: settings that cannot mean anything, or clean images of another kind.
    """
    settings = settings or FilterSettings()
    given = read(data, settings.size, root, download)
    trusted = None if clean is None else clean_images(clean, given, root, download)
    with tempfile.TemporaryDirectory(prefix="sidedoor-") as temporary:
        network = registry.reference("model", architecture)
        made = json.dumps([network, registry.plain(settings.recipe), settings.seed], sort_keys=True)
        shelf = Shelf((Path(out) if out is not None else Path(temporary)) / "networks",
                      f"inspection-{hashlib.sha256(made.encode()).hexdigest()[:8]}-")
        shown = Renamed(progress or Silent(), {"victim": "training on the data"})
        run = Run(fabric(device), settings.recipe, settings.seed, progress=shown, shelf=shelf)
        return _Filtering(given, trusted, network, run).result()


class _Choice(NamedTuple):
    """The best group of a class for one kind of trigger.

    Args:
        rate: share of the choosing images that it sends to the class.
        judged: how many of the judging images.
    """

    rows: Int[Tensor, "g"]
    stamp: Stamp
    rate: float
    judged: int


class _Filtering:
    """One data set: its inspection model, the groups of its classes, and what their triggers do."""

    def __init__(self, given: Given, clean: Dataset | None, architecture: dict[str, Any], run: Run):
        self.given, self.data, self.clean, self.run = given, given.data, clean, run
        self.quiet = replace(run, progress=Silent())  # of what takes a moment
        self.task, self.architecture = Classification(len(self.data.classes)), architecture
        self.build = registry.make("model", architecture, classes=len(self.data.classes), shape=self.data.shape)
        self.notes = list(given.notes)
        self.count = torch.bincount(self.data.targets, minlength=self.task.classes).tolist()
        self.labels = [label for label, n in enumerate(self.count) if n >= FEWEST]

    def result(self) -> Filtered:
        found = conflicts(self.data)
        if not found.compared:
            self.notes.append("near duplicates were not looked for: there are too many rows to compare all pairs")
        if len(self.labels) < 2:
            few = f"fewer than two classes have {FEWEST} images or more"
            return self.told("inconclusive", (few,), 0.0, (), {}, (), found)
        seen = collect(self.model(self.data), self.data, self.quiet)
        taken = seen.logits.argmax(1)
        accuracy = (taken == seen.labels).float().mean().item()
        if accuracy < LEARNT:
            few = (f"a network trained on the data is right on {accuracy:.1%} of them, so it has not learned them: "
                   "give another --arch, more --recipe epochs, or more images")
            return self.told("inconclusive", (few,), accuracy, (), {}, (), found)
        filters = scored(self.data, self.clean, self.task, self.build, self.run)
        chosen, places = self.chosen(seen, taken, filters)
        suspected = self.suspected(chosen, places, LOCAL)
        if not any(each.confirmed for each in suspected):  # what is blended is doubtful in any class
            suspected += tuple(each for each in self.suspected(chosen, places, ("blend",)) if each.confirmed)
        pictures = tuple(self.pictures(each, chosen[each.label][each.kind].stamp, places[each.label])
                         for each in suspected[:3])
        verdict, why = self.verdict(suspected)
        return self.told(verdict, why, accuracy, filters, chosen, suspected, found, pictures)

    def model(self, data: Dataset) -> nn.Module:
        return inspection_model(data, self.task, self.build, self.run)

    def images(self, rows: Int[Tensor, "b"]) -> Images:
        return self.data.fetch(rows, self.run.device).x

    def chosen(self, seen: Features, taken: Int[Tensor, "n"], filters: tuple[Scored, ...]) \
            -> tuple[dict[int, dict[Kind, _Choice]], dict[int, Hosts]]:
        """The best groups of each class, and the images by which they were chosen and judged."""
        model = self.run.frozen(self.model(self.data))
        chosen, places = {}, {}
        with self.run.progress.task("classes", len(self.labels)) as advance:
            for label in self.labels:
                members = torch.nonzero(self.data.targets == label)[:, 0]
                scores = {each.name: each.scores[members] for each in filters if each.scores is not None}
                places[label] = hosts(self.data.targets, taken, label, self.quiet)
                found = groups(seen.features[members], scores) if scores and len(places[label].judging) else []
                chosen[label] = self.best(model, label, members, found, places[label])
                if found:
                    broad = explaining(found, suspicion(filters, self.data.targets)[members])
                    chosen[label] |= self.blended(model, label, members, broad, places[label])
                advance(1)
        return chosen, places

    def best(self, model: nn.Module, label: int, members: Int[Tensor, "k"], found: list[Group], place: Hosts) \
            -> dict[Kind, _Choice]:
        """For each kind of local trigger the largest group among those whose trigger works about best."""
        tried: dict[Kind, list[_Choice]] = {kind: [] for kind in LOCAL}
        rows, others = self.images(members), self.images(place.others)
        for group in found:
            made = stamps(rows[group], rows[~group], others)
            for kind in [kind for kind in LOCAL if kind in made]:
                hit = flips(model, self.data, place.choosing, made[kind], label, self.quiet)
                tried[kind].append(_Choice(members[group], made[kind], hit / len(place.choosing), 0))
        chosen: dict[Kind, _Choice] = {}
        for kind, choices in tried.items():
            if choices:
                least = max(choice.rate for choice in choices) - NEARLY
                one = max((choice for choice in choices if choice.rate >= least), key=lambda each: len(each.rows))
                judged = flips(model, self.data, place.judging, one.stamp, label, self.quiet)
                chosen[kind] = one._replace(judged=judged)
        return chosen

    def blended(self, model: nn.Module, label: int, members: Int[Tensor, "k"], group: Group, place: Hosts) \
            -> dict[Kind, _Choice]:
        """The rows that lose their label once what a group has in common is taken out of them, unless they are most of
        the class: blended, any part of a class has the features of the class, and all its rows lose them.
        """
        rows, others = self.images(members), self.images(place.others)
        first = stamps(rows[group], rows[~group], others)["blend"]
        group = answers(model, first.undone(rows), self.quiet) != label
        if not sized(group):
            return {}
        stamp = stamps(rows[group], rows[~group], others)["blend"]
        rate = flips(model, self.data, place.choosing, stamp, label, self.quiet) / len(place.choosing)
        judged = flips(model, self.data, place.judging, stamp, label, self.quiet)
        return {"blend": _Choice(members[group], stamp, rate, judged)}

    def suspected(self, chosen: dict[int, dict[Kind, _Choice]], places: dict[int, Hosts], kinds: tuple[Kind, ...]) \
            -> tuple[Suspected, ...]:
        """The groups whose triggers work, beside what they do to a network that was trained without them.

        Args:
            kinds: of triggers; of each class the first that works counts.
        """
        working = {label: kind for label, found in chosen.items()
                   if (kind := _working({kind: found[kind] for kind in kinds if kind in found},
                                        len(places[label].judging))) is not None}
        if not working:
            return ()
        removed = torch.zeros(len(self.data), dtype=torch.bool)
        for label, kind in working.items():
            removed[chosen[label][kind].rows] = True
        without = self.run.frozen(self.model(Subset(self.data, torch.nonzero(~removed)[:, 0])))
        found = [self.confronted(label, chosen[label][kind], places[label], without)
                 for label, kind in working.items()]
        return self.compared(found, chosen, places)

    def confronted(self, label: int, choice: _Choice, place: Hosts, without: nn.Module) -> Suspected:
        """A group's trigger before and after, and beside triggers of random rows; other classes are not compared."""
        n = len(place.judging)
        low, high = wilson(choice.judged, n)
        after = flips(without, self.data, place.judging, choice.stamp, label, self.quiet) / n
        held = answers(without, self.images(choice.rows), self.quiet)
        return Suspected(label, tuple(choice.rows.tolist()), choice.stamp.kind, choice.stamp.pixels,
                         choice.judged / n, low, high, n, 0.0, self.chance(label, choice, place), after,
                         (held == label).float().mean().item())

    def chance(self, label: int, choice: _Choice, place: Hosts) -> float:
        """What triggers of random rows of the class do, as many as are in the group and none of them."""
        members = torch.nonzero(self.data.targets == label)[:, 0]
        free = members[~torch.isin(members, choice.rows)]
        size, rng = min(len(choice.rows), len(free) // 2), self.quiet.rng(f"random rows of {label}")
        model, others, rates = self.run.frozen(self.model(self.data)), self.images(place.others), [0.0]
        for _ in range(DRAWN if size >= SMALLEST else 0):
            order = free[torch.randperm(len(free), generator=rng)]
            made = stamps(self.images(order[:size]), self.images(order[size:]), others)
            if stamp := made.get(choice.stamp.kind):
                rates.append(flips(model, self.data, place.judging, stamp, label, self.quiet) / len(place.judging))
        return max(rates)

    def compared(self, found: list[Suspected], chosen: dict[int, dict[Kind, _Choice]], places: dict[int, Hosts]) \
            -> tuple[Suspected, ...]:
        """The same beside other classes' triggers: those that are not poisoned by everything else."""
        poisoned = {each.label for each in found if each.confirmed}

        def others(each: Suspected) -> float:
            return max((kinds[each.kind].judged / len(places[label].judging) for label, kinds in chosen.items()
                        if label != each.label and label not in poisoned and each.kind in kinds), default=0.0)

        beside = [replace(each, others=others(each)) for each in found]
        return tuple(sorted(beside, key=lambda each: (not each.confirmed, -each.low)))

    def pictures(self, found: Suspected, stamp: Stamp, place: Hosts) -> Pictures:
        members = torch.nonzero(self.data.targets == found.label)[:, 0]
        rows = torch.tensor(found.rows)
        ordinary = members[~torch.isin(members, rows)][:SHOWN]
        x = self.images(place.judging[:SHOWN])
        trigger = stamp(torch.full_like(x[:1], 0.5))[0]
        return Pictures(found.label, tuple(rows[:SHOWN].tolist()), self.images(rows[:SHOWN]).cpu(),
                        self.images(ordinary).cpu(), x.cpu(), stamp(x).cpu(), trigger.cpu())

    def verdict(self, suspected: tuple[Suspected, ...]) -> tuple[Verdict, tuple[str, ...]]:
        names = self.data.classes
        if shown := [each for each in suspected if each.confirmed]:
            return "finding", tuple(f"class {names[each.label]}: its trigger works, and no longer without the rows"
                                    for each in shown)
        if doubtful := [each for each in suspected if each.beyond]:
            return "suspicious", tuple(_doubt(each, names[each.label]) for each in doubtful)
        few = [names[label] for label in range(self.task.classes) if label not in self.labels]
        if few:
            return "inconclusive", (f"fewer than {FEWEST} images in {len(few)} classes: {', '.join(few[:5])}",)
        return "no finding", tuple(_doubt(each, names[each.label]) for each in suspected)

    def told(self, verdict: Verdict, why: tuple[str, ...], accuracy: float, filters: tuple[Scored, ...],
             chosen: dict[int, dict[Kind, _Choice]], suspected: tuple[Suspected, ...], found: Conflicts,
             pictures: tuple[Pictures, ...] = ()) -> Filtered:
        flagged = torch.zeros(len(self.data), dtype=torch.bool)
        shown = [each for each in suspected if each.confirmed] or list(suspected)
        for each in shown if verdict in ("finding", "suspicious") else ():
            flagged[list(each.rows)] = True
        ranked = suspicion(filters, self.data.targets) if any(each.scores is not None for each in filters) else \
            torch.zeros(len(self.data))
        rows = Rows(self.given.files, self.data.targets, ranked, flagged)
        return Filtered(verdict, why, self.about(), {"architecture": self.architecture}, accuracy, filters,
                        tuple(self.judged(label, filters, chosen.get(label, {})) for label in range(len(self.count))),
                        suspected, found, rows, self.given.quarantined, tuple(self.notes), environment(self.run),
                        pictures)

    def judged(self, label: int, filters: tuple[Scored, ...], kinds: dict[Kind, _Choice]) -> Judged:
        n = self.count[label]
        if not kinds:
            return Judged(label, n, reason=f"fewer than {FEWEST} images" if n < FEWEST else "not looked at")
        clusters = next((each.scores for each in filters if each.name == "activation_clustering"), None)
        index = None if clusters is None else clusters[self.data.targets == label].max().item()
        return Judged(label, n, index, {kind: choice.rate for kind, choice in kinds.items()})

    def about(self) -> dict[str, Any]:
        return {"name": self.given.name, "n": len(self.data), "classes": list(self.data.classes),
                "per_class": self.count, "shape": list(self.data.shape), "fingerprint": self.data.fingerprint(),
                "clean": 0 if self.clean is None else len(self.clean)}


def _working(kinds: dict[Kind, _Choice], n: int) -> Kind | None:
    """The kind of a class's trigger that works, if one does."""
    return next((kind for kind, choice in kinds.items() if wilson(choice.judged, n)[0] >= WORKS), None)


def _doubt(found: Suspected, name: str) -> str:
    """Why a trigger that works does not show poison."""
    if not found.beyond:
        return f"class {name}: its trigger works no better than those of other classes or of random rows"
    if not found.cured:
        return f"class {name}: its trigger works without the rows, too, so it is a feature of the class"
    return f"class {name}: its rows are taken for what they are labelled without them, too"
