"""The tables of the simulated physical world, from the models of four grids.

    sidedoor sweep experiments/physical.toml --workers 1 --out runs/physical --data-root DIR
    sidedoor sweep experiments/physical_wider.toml --workers 1 --out runs/physical --data-root DIR
    sidedoor sweep experiments/physical_cifar.toml --workers 1 --out runs/physical --data-root DIR
    sidedoor sweep experiments/physical_long.toml --workers 1 --out runs/physical --data-root DIR
    python -m experiments.physical --out runs/physical --data-root DIR > TABLES.md

Asks each finished model, and its clean sibling, about 500 test images as they are and behind each condition, and maps
where and how bright its trigger still works, over 100 of them; trains nothing. It goes on where it stopped: what was
found is kept in OUT/physical.jsonl, a line a model and condition.

Where the model answers with the target class without a trigger as well, the condition itself is what it learned, such
as the black edges of copies that were made smaller. "Simulated camera" is a simulated print and photograph
(`sidedoor.data.print_capture`) with all ranges times the number behind it. Nothing was printed or photographed. Means
over seeds with 95 % Student intervals; a single seed has none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.pages import Lines, table
from sidedoor.apps.maps import axes_of, map_model
from sidedoor.bench.case import Case, load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.bench.store import Store
from sidedoor.data.base import Subset
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.purifiers.brightness import Brightness
from sidedoor.defenses.purifiers.flip import Flip
from sidedoor.defenses.purifiers.print_capture import PrintCapture
from sidedoor.defenses.purifiers.shrink_pad import ShrinkPad
from sidedoor.evaluation import evaluate
from sidedoor.metrics.statistics import t_interval

FOLDER = Path(__file__).parent
FILES = ("physical.toml", "physical_wider.toml", "physical_cifar.toml", "physical_long.toml")
CONDITIONS: dict[str, Purifier | None] = {
    "standard": None, "flip": Flip(), "ShrinkPad-1": ShrinkPad(1), "ShrinkPad-2": ShrinkPad(2),
    "ShrinkPad-4": ShrinkPad(4), "brightness": Brightness(), "simulated camera .25": PrintCapture(0.25),
    "simulated camera .5": PrintCapture(0.5), "simulated camera 1": PrintCapture(1.0),
}
MAPS = "shift,value,jpeg"
IMAGES, MAPPED = 500, 100
NAMES = {"badnets": "BadNets", "blended": "Blended", "label_consistent": "label-consistent", "baat": "BAAT",
         "issba": "ISSBA", "poison_ink": "Poison Ink"}
Line = dict[str, Any]


def cells() -> list[Spec]:
    return [spec for file in FILES for spec in grid(read(FOLDER / file, ()))]


def row_of(spec: Spec) -> tuple[str, str]:
    """The attack, and how it was enhanced."""
    given = spec.attack or {}
    inner = given.get("attack", given)
    name = NAMES[inner["name"]] + (f", {inner['margin']} px inside" if inner.get("margin") else "")
    name += ", CIFAR-10" if spec.data.get("path") == "cifar10-30k.npz" else ""
    name += f", {spec.recipe.epochs} epochs" if spec.recipe.epochs > 12 else ""
    if given["name"] == "physical":
        return name, "enhanced, all" + (f", camera {given['camera']:g}" if given.get("camera") else "")
    if given["name"] == "physical_copies":
        return name, f"enhanced, poison-only, {100 * inner.get('rate', 0):g} % and {given['copies']} copies"
    return name, "standard"


def measured(store: Store, machine: Machine, file: Path) -> list[Line]:
    """A line for each finished model and condition, or map."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    there = {(line["key"], line["what"]) for line in lines}
    with open(file, "a", encoding="utf-8") as kept:
        for spec in cells():
            for line in _of_cell(spec, store, machine, there):
                kept.write(f"{json.dumps(line)}\n")
                kept.flush()
                lines.append(line)
    return lines


def _of_cell(spec: Spec, store: Store, machine: Machine, there: set[tuple[str, str]]) -> Iterator[Line]:
    case = load(spec, store, machine)
    record = store.record(case.key)
    if record is None or not record.scored:
        print(f"not run: {row_of(spec)}, seed {spec.seed}", file=sys.stderr)
        return
    todo = [name for name in CONDITIONS if (case.key, name) not in there]
    if todo:
        yield from _behind(case, record, todo)
    if (case.key, "maps") not in there:
        found = map_model(store, case.key, axes_of(MAPS), MAPPED, machine)
        yield _line(case, record, "maps") | {each.name: each.robust_area for each in found.maps}


def _behind(case: Case, record: Record, names: Sequence[str]) -> Iterator[Line]:
    trained, clean = train_or_load(case), train_or_load(case.twin(case.spec.clean_models()[0]))
    test = Subset(case.test, torch.arange(0, len(case.test), max(1, len(case.test) // IMAGES)))
    for name in names:
        def means(model: nn.Module, purifier: Purifier | None = CONDITIONS[name]) -> dict[str, float | None]:
            purify = purifier.fit(model, case.clean, case.task, case.defender()) if purifier else None
            return evaluate(model, test, case.task, trained.doors, case.run, purify).means()

        attacked, sibling = means(trained.model), means(clean.model)
        yield _line(case, record, name) | {"attack": attacked["attack"], "clean": attacked["clean"],
                                           "idle": attacked["idle"],
                                           "sibling": sibling["attack"], "sibling_clean": sibling["clean"]}


def _line(case: Case, record: Record, what: str) -> Line:
    return {"key": case.key, "what": what, "row": row_of(case.spec), "seed": case.spec.seed, "status": record.status}


def tables(lines: Sequence[Line]) -> Lines:
    """All tables."""
    found: Lines = []
    for title, value in (("Attack success, %", "attack"),
                         ("Answers with the target class without a trigger, %", "idle"),
                         ("Accuracy on clean images, %", "clean")):
        found += [f"## {title}", "", *table(["attack", "training", "seeds", *CONDITIONS], [
            [*row, seeds(lines, row), *(mean(lines, row, name, value) for name in CONDITIONS)] for row in rows(lines)])]
    plain = [row for row in rows(lines) if row[1] == "standard"]  # a trigger has one sibling, however it is planted
    for title, value in (("The clean sibling's answers with the target class to the triggers, %", "sibling"),
                         ("The clean sibling's accuracy, %", "sibling_clean")):
        found += [f"## {title}", "", *table(["trigger", *CONDITIONS], [
            [row[0], *(mean(lines, row, name, value) for name in CONDITIONS)] for row in plain])]
    names = ["+".join(axes) for axes in axes_of(MAPS)]
    return [*found, "## Robust area, % of the cells of each map", "", *table(["attack", "training", "seeds", *names], [
        [*row, seeds(lines, row), *(mean(lines, row, "maps", name) for name in names)] for row in rows(lines)])]


def rows(lines: Sequence[Line]) -> list[tuple[str, str]]:
    present = {tuple(line["row"]) for line in lines}
    order = list(dict.fromkeys(map(row_of, cells())))
    first = list(dict.fromkeys(name for name, _ in order))
    return sorted((row for row in order if row in present), key=lambda row: (first.index(row[0]), order.index(row)))


def _of(lines: Sequence[Line], row: tuple[str, str], what: str) -> list[Line]:
    return [line for line in lines if tuple(line["row"]) == row and line["what"] == what]


def seeds(lines: Sequence[Line], row: tuple[str, str]) -> str:
    """On how many seeds the attack took, as the protocol has it, of how many."""
    of = _of(lines, row, "standard")
    return f"{sum(line['status'] == 'done' for line in of)} of {len(of)} took"


def mean(lines: Sequence[Line], row: tuple[str, str], what: str, value: str) -> str:
    given = [100 * line[value] for line in _of(lines, row, what) if line.get(value) is not None]
    if not given:
        return ""
    middle, low, high = t_interval(given)
    return f"{middle:z.1f}" + ("" if low is None or high is None else f" [{max(0, low):z.1f}, {min(100, high):z.1f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to `sidedoor sweep --out`")
    parser.add_argument("--data-root", type=Path, help="where the data sets lie")
    given = parser.parse_args()
    lines = measured(Store(given.out), Machine(given.data_root, device="cpu"), given.out / "physical.jsonl")
    print("\n".join(tables(lines)))


if __name__ == "__main__":
    main()
