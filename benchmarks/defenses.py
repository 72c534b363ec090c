"""Seconds that every defence takes with its defaults, beside training the model that it defends.

    python benchmarks/defenses.py [--stage repair] [--only NAME ...] [--json]

A BadNets model of scikit-learn's digits is trained once, and each registered defence of classifiers is applied to it,
or to its training data, as a benchmark cell does: what a cell evaluates is counted, too, so that a filter's time has
the training on what it leaves, an audit's two clean models beside the suspect, and an input detector's all test images
with and without the trigger. `ratio` is against training the victim, by the same clock in the same run; models that
several cells share are trained before. One thread; half an hour on an idle core for all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from sidedoor import registry
from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import attempt, run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.engine import Recipe
from sidedoor.tasks.classification import Classification

CPU = Machine(device="cpu")
SETUP: dict[str, Any] = {"data": "digits", "model": "small_cnn", "attack": {"name": "badnets", "rate": 0.1},
                         "defender_share": 0.15, "references": 2, "recipe": Recipe(epochs=15)}


def names(stage: str | None, only: list[str]) -> list[tuple[str, str]]:
    """(stage, name) of the registered defences of classifiers, by stage."""
    found = []
    for entry in registry.entries():
        if entry.kind == "defense" and (not only or entry.name in only):
            method = registry.load("defense", entry.name)
            if issubclass(Classification, method.tasks) and stage in (None, str(method.stage)):
                found.append((str(method.stage), entry.name))
    return sorted(found)


def timed(name: str, store: Store) -> tuple[float | None, Record]:
    """Seconds of one defence; None where it does not apply or fails."""
    spec = Spec(**SETUP, defense=name)
    record = attempt(spec, store, CPU, load(spec, store, CPU).key)
    return record.timing.get("defense"), record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage")
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="sidedoor-") as folder:
        store = Store(Path(folder))
        training = run(Spec(**SETUP), store, CPU).timing["attack"]
        for spec in Spec(**SETUP, defense="head_norms").clean_models():
            train_or_load(load(spec, store, CPU))
        rows = []
        for stage, name in names(given.stage, given.only):
            seconds, record = timed(name, store)
            rows.append({"stage": stage, "name": name, "seconds": seconds, "status": record.error or record.status,
                         "ratio": None if seconds is None else seconds / training})
            if not given.json:
                taken = record.error if seconds is None else f"{seconds:7.1f} s {seconds / training:7.2f}"
                print(f"{stage:<15} {name:<32}{taken}", flush=True)
    if given.json:
        print(json.dumps({"training": training, "defenses": rows}, indent=1))
    else:
        print(f"training the model: {training:.1f} s")


if __name__ == "__main__":
    main()
