"""What reports, grids and keys cost as a folder of results grows, and what stealth costs beside evaluating.

`python benchmarks/growth.py [--records N] [--cells N] [--json]` fabricates a folder of N finished runs, some of them
with scores to draw or a training curve, and writes its report three times: from nothing, with one run more, and again
without any. Then a grid of cells is expanded, keyed and planned, and a sweep is run of which every cell is there.
Seconds are those of a processor, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "report"))
from fabricated import SPEC, make_record

from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep
from sidedoor.core.system import processor
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.evaluation import evaluate, stealth
from sidedoor.evidence import Separation
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.models.small_cnn import small_cnn
from sidedoor.report import pages
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.patch import Patch, checkerboard

DEFENSES = (None, "fine_pruning", "strip", "spectral_signatures", "neural_cleanse")
EPOCHS = [{"epoch": n, "loss": 1.0 / n, "lr": 0.1, "seconds": 1.0} for n in range(1, 21)]
BEFORE = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02}


def fabricated(n: int) -> Record:
    """Run n of a sweep of rates, seeds and defences."""
    defense, model = DEFENSES[n % len(DEFENSES)], n // len(DEFENSES)
    attack = SPEC["attack"] | {"rate": round(0.001 * (1 + model // 3), 3)}
    found = (Separation(auroc=0.9, tpr_at_1=0.2, fpr_at_1=0.02, tpr_at_5=0.5, fpr_at_5=0.04, n_positive=400,
                        n_negative=400, n_calibration=50),) if defense == "strip" else ()
    record = make_record(f"{n:016x}", model % 3, defense, planted=f"{model:015x}f", evidence=found,
                         undefended=BEFORE if defense else None, attack=0.1 + 0.8 * (n * 37 % 101) / 101)
    record.spec["attack"] = attack
    return record


def put(store: Store, n: int, rng: np.random.Generator) -> None:
    """Keep run n with what its figures are drawn from."""
    record = fabricated(n)
    store.put(record)
    if record.defense_name == "strip":
        store.put_arrays(record.key, {"suspicious": rng.normal(2, 1, 400), "innocent": rng.normal(0, 1, 400),
                                      "calibration": rng.normal(0, 1, 50)})
    if record.defense_name in ("fine_pruning", "none"):
        folder = store.folder(record.planted if record.defense_name == "none" else record.key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history.json").write_text(json.dumps({"training": EPOCHS}))


def seconds(work: Callable[[], Any]) -> float:
    """Of a processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def reports(count: int, folder: Path) -> dict[str, float]:
    """Seconds and sizes of the report of so many runs."""
    store, rng = Store(folder), np.random.default_rng(0)
    for n in range(count):
        put(store, n, rng)
    page = folder / "report.html"
    found = {"report, from nothing": seconds(lambda: pages.write(store, page))}
    put(store, count, rng)
    found |= {"report, one run more": seconds(lambda: pages.write(store, page)),
              "report, nothing new": seconds(lambda: pages.write(store, page))}
    text = page.read_text(encoding="utf-8")
    beside = sum(file.stat().st_size for file in (folder / "report_files").iterdir())
    return found | {"MB of the page": len(text) / 2**20, "elements of the page": text.count("</"),
                    "MB of the pages beside it": beside / 2**20}


def cells(count: int) -> dict[str, float]:
    """Milliseconds a cell of expanding a grid and of making keys."""
    table = {"data": {"name": "digits"}, "model": "small_cnn", "defenses": list(DEFENSES[1:]),
             "grid": {"seed": list(range(10)), "attack": ["badnets", "blended"],
                      "attack.rate": [round(0.1 * (k + 1) / count, 9) for k in range(count // 100)]}}
    specs: list[Spec] = []
    found = {"expanding": 1e3 * seconds(lambda: specs.extend(grid(table))) / count}
    keys: list[str] = []
    found["keys"] = 1e3 * seconds(lambda: keys.extend(spec.key("data") for spec in specs)) / len(specs)
    found["planning"] = 1e3 * seconds(lambda: planned(specs, Machine())) / len(specs)
    assert len(set(keys)) == len(specs) == count // 100 * 100
    return found


def finished_sweep(count: int, folder: Path) -> float:
    """Milliseconds a cell of a sweep of which every cell is there."""
    table = {"data": {"name": "digits"}, "model": "small_cnn", "grid": {"seed": list(range(count))}}
    specs, store, machine = grid(table), Store(folder), Machine()
    for cell in planned(specs, machine):
        store.put(Record(cell.key, cell.key, cell.spec.to_json(), "done", data="x", clean=0.9))
    return 1e3 * seconds(lambda: sweep(specs, store, machine)) / count


def stamping(images: int, size: int, doors: int = 3) -> dict[str, float]:
    """Seconds of evaluating a small network through doors, and of saying how visible their triggers are."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=rng, dtype=torch.uint8)
    test, task, run = ArrayDataset(pixels, torch.arange(images) % 10, 10), Classification(10), Run.local(device="cpu")
    model = run.placed(small_cnn(10, test.shape))
    made = tuple(Door(Patch(checkerboard(3)), AllToOne(n)) for n in range(doors))
    return {f"{what}, {doors} doors, {images} images of {size}": seconds(work) for what, work in (
        ("evaluating", lambda: evaluate(model, test, task, made, run)), ("stealth", lambda: stealth(test, made, run)))}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other count as busy
    with tempfile.TemporaryDirectory() as folder:
        found = {f"{name}, {given.records} runs": value
                 for name, value in reports(given.records, Path(folder) / "report").items()}
        found |= {f"{name}, ms a cell of {given.cells}": value for name, value in cells(given.cells).items()}
        found[f"finished sweep, ms a cell of {given.records}"] = finished_sweep(given.records, Path(folder) / "sweep")
    found |= stamping(1000, 32)
    print(json.dumps(found, indent=1) if given.json else "\n".join(
        [f"{processor()}, {os.cpu_count()} cores", *(f"{name:48} {value:10.3f}" for name, value in found.items())]))


if __name__ == "__main__":
    main()
