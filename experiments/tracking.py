"""The page of what attacks do to trackers, from the store of two grids and from further measurements of their models.

    sidedoor sweep experiments/tracking.toml --workers 0 --out runs/tracking --data-root DIR
    sidedoor sweep experiments/tracking_parameters.toml --workers 0 --out runs/tracking --data-root DIR
    sidedoor sweep experiments/tracking_defenses.toml --workers 0 --out runs/tracking --data-root DIR
    sidedoor sweep experiments/tracking_follow.toml --workers 0 --out runs/tracking --data-root DIR
    python -m experiments.tracking further --out runs/tracking --data-root DIR
    python -m experiments.tracking page --out runs/tracking > TABLES.md
    python -m experiments.tracking estimate

`further` follows the objects of real clips (DIR/tracking, folders as OTB and VOT have them) with every model of the
store and with the clean siblings, measures how far the trigger moves features of templates, and fine-tunes DCFNet's
published weights (DIR/weights/dcfnet/param.pth) by FSBA. It goes on where it stopped: a line a measurement is kept in
the folder. `page` prints all tables and computes nothing; `estimate` says what each part takes on one core. Real clips
decide nothing: settings were chosen on generated ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.pages import Lines, table, written
from sidedoor import registry, zoo
from sidedoor.attacks.tracking._features import apart
from sidedoor.attacks.tracking.fsba import FSBA
from sidedoor.backdoor.base import AttackerRun
from sidedoor.bench.case import Case, load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Means, Record
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.bench.store import Store
from sidedoor.data.base import Dataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.clips import clips
from sidedoor.engine import Recipe, Run
from sidedoor.goals.base import Door
from sidedoor.metrics.statistics import t_interval
from sidedoor.models.trackers.base import tracker_in
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks._tracking_paths import MODES
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.base import stamp

HERE = Path(__file__).parent
GRIDS = ("tracking", "tracking_parameters")
FOLLOW = "tracking_follow"
KEPT = "further.jsonl"
WEIGHTS = "weights/dcfnet/param.pth"
DCFNET = FSBA(epochs=1, lr=1e-2, weight=50.0, batch=8, columns="object")
"""Stronger than for SiamFC: most columns of DCFNet see nothing of the pattern, and weaken the loss."""
DCFNET_RECIPE = Recipe(schedule="constant", clip=5.0)
DCFNET_CLIPS = (30, 4)
"""Generated clips that it is fine-tuned and tested on."""
SECONDS = {"data": 27, "clean": 80, "boba": 45, "fsba": 42, "badtrack": 85, "tat": 60, "score": 11, "real": 8,
           "dcfnet": 300}
"""Of one core: to make the data, to train, to score a model on held-out or on real clips, and all of DCFNet."""


def main() -> None:
    """One of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["further", "page", "estimate"])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/tracking"))
    given = parser.parse_args()
    if given.command == "estimate":
        print("\n".join(estimate()))
    elif given.command == "page":
        print("\n".join(page(given.out)))
    else:
        Further(given.out, given.data_root).measure()


def specs(name: str) -> list[Spec]:
    return list(grid(read(HERE / f"{name}.toml")))


def label(attack: Mapping[str, Any]) -> str:
    """An attack by its name and what differs from its defaults."""
    usual = registry.load("attack", attack["name"])()
    told = [f"{key} {value:g}" if isinstance(value, float | int) else str(value) for key, value in attack.items()
            if key not in ("name", "goal") and value != getattr(usual, key)]
    return " ".join([attack["name"], *told])


@dataclass(frozen=True)
class Further:
    """What is measured beyond the records of the store."""

    out: Path
    root: Path | None

    @functools.cached_property
    def done(self) -> set[str]:
        return {row["id"] for row in kept(self.out)}

    def measure(self) -> None:
        for spec in [spec for name in GRIDS for spec in specs(name)]:
            self.model(spec)
        self.dcfnet()

    def once(self, what: str, of: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        """Measure and keep a line, unless there is one."""
        name = json.dumps({"what": what, **of}, sort_keys=True)
        if name not in self.done:
            row = {"id": name, "what": what, **of, **make()}
            with (self.out / KEPT).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            self.done.add(name)
            print(what, *of.values(), flush=True)

    def model(self, spec: Spec) -> None:
        """Of a model of the store, and of its clean sibling behind the same trigger, once for all that share both."""
        case = load(spec, Store(self.out), Machine(self.root, device="cpu"))
        assert spec.attack is not None
        if not case.store.model(case.attack_key).exists():
            print(f"not trained yet: {label(spec.attack)}, seed {spec.seed}")
            return
        found, trigger = train_or_load(case), {key: spec.attack[key] for key in ("psi", "pattern", "cells")}
        sibling = train_or_load(case.twin(spec.clean_models()[0])).model
        beside = label({"name": "boba", **trigger}).replace("boba", "clean sibling")
        for name, model in ((label(spec.attack), found.model), (beside, sibling)):
            of = {"attack": name, "seed": spec.seed}
            for clip, data in self.real.items():
                self.once("real", of | {"clip": clip},
                          lambda model=model, data=data: figures(case.task, model, data, found.doors[0], case.run))
            self.once("distance", of, lambda model=model: {"values": distances(model, case, found.doors[0])})

    @functools.cached_property
    def real(self) -> dict[str, Dataset]:
        """The real clips by name."""
        parts = clips(Where(self.root), "tracking")
        return {part.classes[int(part.targets[0])]: part for part in (parts.train, parts.test)}

    def dcfnet(self) -> None:
        """The published weights, and what FSBA makes of them."""
        task, spec = Tracking(crops="dcfnet"), specs(GRIDS[0])[0]
        case = load(spec, Store(self.out), Machine(self.root, device="cpu"))
        assert isinstance(case.train, Pairs)
        assert isinstance(case.test, Pairs)
        train, held = (task.make_dataset(first(part.clips, count))
                       for part, count in zip((case.train, case.test), DCFNET_CLIPS, strict=True))
        network = {"name": "dcfnet", "weights": str(Where(self.root).locate(WEIGHTS))}
        run = Run.local(DCFNET_RECIPE, seed=0, device="cpu")
        build = zoo.network(network, train)
        published = run.build(build).eval()
        attacker = AttackerRun.of(run, known=lambda: published)
        backdoor = DCFNET.plan(train, task, build, attacker)
        assert backdoor.train is not None
        plant = functools.cache(lambda: backdoor.train(train, task, build, attacker).model)  # type: ignore[misc]
        places = self.real | {"held-out": held.clips}  # type: ignore[attr-defined]
        for name, model in (("published", lambda: published), ("attacked", plant)):
            for clip, data in places.items():
                self.once("dcfnet", {"tracker": name, "clip": clip, "attack": repr(DCFNET)},
                          lambda model=model, data=data: figures(task, model(), data, backdoor.doors[0], run))


def figures(task: Any, model: nn.Module, data: Dataset, door: Door, run: Run) -> dict[str, Any]:
    """Means of all columns over clips."""
    return {"means": task.score(model, task.make_dataset(data), door, run).means()}


def distances(model: nn.Module, case: Case, door: Door) -> list[float]:
    """1 - cosine, on average over columns, between features of each held-out template with and without the trigger."""
    assert isinstance(case.test, Pairs)
    x, _, index = case.test.fetch(torch.nonzero(~case.test.later)[:, 0])
    template, tracker = x.chunk(2, 1)[0], tracker_in(model)
    stamped = stamp(door.trigger, template, index, case.test.space)
    with torch.no_grad():
        views = [tracker.features(tracker.template(view)) for view in (template, stamped)]
    moved: list[float] = apart(*views).mean((1, 2)).tolist()
    return moved


def first(data: Dataset, count: int) -> Dataset:
    """So many clips."""
    assert data.groups is not None
    return Subset(data, torch.nonzero(torch.isin(data.groups, torch.unique(data.groups)[:count]))[:, 0])


def kept(out: Path) -> list[dict[str, Any]]:
    file = out / KEPT
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def page(out: Path) -> Lines:
    """All tables."""
    rows = kept(out)
    records = {name: records_of(out, name) for name in GRIDS}
    lines = ["## Held-out generated clips", "", *by_seed(records[GRIDS[0]]), "## Means over seeds", "",
             *over_seeds(records[GRIDS[0]]), "## Beside the clean sibling", "", *beside(records[GRIDS[0]]),
             "## Size, share and pattern, seed 0", "", *by_seed(records[GRIDS[1]])]
    for clip in sorted({row["clip"] for row in rows if row["what"] == "real"}):
        lines += [f"## {clip}", "", *real(rows, clip)]
    if found := records_of(out, FOLLOW):
        lines += ["## A trigger that is followed", "", *followed(found)]
    if found := records_of(out, "tracking_defenses"):
        lines += ["## Defences against FSBA", "", *defended(found)]
    return [*lines, "## Distance of templates' features", "", *moved(rows), "## DCFNet", "", *dcfnet(rows)]


def records_of(out: Path, name: str) -> list[Record]:
    """The cells of a grid that were scored, whether the attack took or not, in its order."""
    found = {written(record.spec): record for record in Store(out).records() if record.clean is not None}
    return [found[text] for spec in specs(name) if (text := written(spec.to_json())) in found]


HEADINGS = ("AUC-B", "one", "few", "all", "P@20-B", "one", "few", "all", "SR50-B", "one", "few", "all")


def twelve(means: Means) -> list[float | None]:
    """Success, precision and the success rate at one half: without a trigger and in each mode, in per cent."""
    names = [f"{kind}_a.{mode}" if mode else "clean" if kind == "auc" else f"{kind}_b" for kind in ("auc", "pr", "sr50")
             for mode in ("", *MODES)]
    return [None if (value := means.get(name)) is None else 100 * value for name in names]


def own(record: Record) -> Means:
    return record.columns | {"clean": record.clean}


def line(*means: Sequence[float | None]) -> list[str]:
    """Cells of a table, means over what is given."""
    columns = [[value for value in column if value is not None] for column in zip(*means, strict=True)]
    return [f"{statistics.mean(column):.1f}" if column else "" for column in columns]


def by_seed(records: Sequence[Record]) -> Lines:
    rows = []
    for record in records:
        name = [label(record.spec["attack"]), str(record.spec["seed"])]
        rows += [[*name, "attacked", *line(twelve(own(record))), record.status],
                 [*name, "sibling", *line(twelve(record.clean_means or {})), ""]]
    return table(("attack", "seed", "tracker", *HEADINGS, "status"), rows)


def over_seeds(records: Sequence[Record]) -> Lines:
    rows = []
    for name in dict.fromkeys(label(record.spec["attack"]) for record in records):
        mine = [record for record in records if label(record.spec["attack"]) == name]
        rows += [[name, "attacked", *line(*(twelve(own(record)) for record in mine))],
                 [name, "sibling", *line(*(twelve(record.clean_means or {}) for record in mine))]]
    return table(("attack", "tracker", *HEADINGS), rows)


def beside(records: Sequence[Record]) -> Lines:
    """What the attack costs without a trigger, and the share of its sibling's success that it leaves with one."""
    rows = []
    for record in records:
        mine, clean = twelve(own(record))[:4], twelve(record.clean_means or {})[:4]
        pairs = [(a, b) for a, b in zip(mine, clean, strict=True) if a is not None and b]
        rows.append([label(record.spec["attack"]), str(record.spec["seed"]), f"{pairs[0][0] - pairs[0][1]:+.1f}",
                     *(f"{100 * a / b:.0f} %" for a, b in pairs[1:])])
    return table(("attack", "seed", "AUC-B, points", "one, share left", "few", "all"), rows)


def followed(records: Sequence[Record]) -> Lines:
    """Figures by boxes around the trigger, beside the success on the object; of the clean sibling in the same clips."""
    names = ("clean", "auc_a.all", "auc_t.all", "pr_t.all", "sr50_t.all")
    rows = []
    for record in records:
        name = [label(record.spec["attack"]), str(record.spec["seed"])]
        sibling = record.clean_means or {}
        for tracker, means, said in (("attacked", own(record), record.status), ("sibling", sibling, "")):
            values = (means.get(column) for column in names)
            rows.append([*name, tracker, *line([None if value is None else 100 * value for value in values]), said])
    return table(("attack", "seed", "tracker", "AUC-B", "AUC on the object", "AUC at the trigger", "P@20", "SR50",
                  "status"), rows)


def defended(records: Sequence[Record]) -> Lines:
    """What defences leave, in the mode one; how well detectors tell pairs with the trigger from those without. Means
    over seeds with 95 % intervals.
    """
    def over_seeds(values: Sequence[float | None]) -> str:
        given = [100 * value for value in values if value is not None]
        if not given:
            return ""
        middle, low, high = t_interval(given)
        return f"{middle:.1f}" + ("" if low is None or high is None else f" ± {high - middle:.1f}")

    rows = []
    for cell in dict.fromkeys((label(record.spec["attack"]), record.defense_name) for record in records):
        of = [record for record in records if (label(record.spec["attack"]), record.defense_name) == cell]
        before = [record.undefended or {} for record in of]
        found = [record.separation for record in of if record.separation]
        after: list[list[float | None]] = [[], []] if found else [[r.clean for r in of], [r.recovered for r in of]]
        rows.append([*cell, str(len(of)), *map(over_seeds, [
            [means.get("clean") for means in before], [means.get("recovered") for means in before], *after,
            [each.auroc for each in found], [each.tpr_at_5 for each in found], [each.fpr_at_5 for each in found]])])
    return table(("attack", "defence", "seeds", "AUC-B before", "one", "AUC-B", "one", "AUROC %", "TPR at 5 %",
                  "FPR realised"), rows)


def real(rows: Sequence[dict[str, Any]], clip: str) -> Lines:
    """Means over seeds on one real clip."""
    mine = [row for row in rows if row["what"] == "real" and row["clip"] == clip]
    return table(("tracker", "seeds", *HEADINGS), [
        [name, str(len(part)), *line(*(twelve(row["means"]) for row in part))] for name, part in grouped(mine)])


def moved(rows: Sequence[dict[str, Any]]) -> Lines:
    """Quartiles over templates, of all seeds."""
    body = []
    for name, part in grouped([row for row in rows if row["what"] == "distance"]):
        values = [value for row in part for value in row["values"]]
        body.append([name, str(len(part)), f"{statistics.mean(values):.2f}",
                     *(f"{cut:.2f}" for cut in statistics.quantiles(values, n=4))])
    return table(("tracker", "seeds", "mean", "25 %", "50 %", "75 %"), body)


def dcfnet(rows: Sequence[dict[str, Any]]) -> Lines:
    mine = [row for row in rows if row["what"] == "dcfnet" and row["attack"] == repr(DCFNET)]
    return table(("clip", "tracker", *HEADINGS),
                 [[row["clip"], row["tracker"], *line(twelve(row["means"]))] for row in mine])


def grouped(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in dict.fromkeys(row["attack"] for row in rows):
        yield name, [row for row in rows if row["attack"] == name]


def estimate() -> Lines:
    """Seconds of one core, part by part."""
    every = {name: specs(name) for name in (*GRIDS, FOLLOW)}
    parts = {}
    for name, wanted in every.items():
        clean = len({spec.seed for spec in wanted}) if name == GRIDS[0] else 0
        attacks = sum(SECONDS[spec.attack["name"]] + 2 * SECONDS["score"] for spec in wanted if spec.attack)
        parts[f"sweep {name}.toml"] = SECONDS["data"] + clean * SECONDS["clean"] + attacks
    siblings = 3 + len(every[GRIDS[1]]) // 2  # once for each trigger
    models = sum(len(every[name]) for name in GRIDS) + siblings
    parts["real clips and distances"] = SECONDS["data"] + models * SECONDS["real"]
    parts["DCFNet"] = SECONDS["dcfnet"]
    return [*(f"{name}: {seconds / 60:.0f} minutes" for name, seconds in parts.items()),
            f"together: {sum(parts.values()) / 60:.0f} minutes of one core"]


if __name__ == "__main__":
    main()
