"""The records of the specifications in this folder, and what they are grouped and compared by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells, grid, read
from sidedoor.bench.store import Store

HERE = Path(__file__).parent
Value = Callable[[Record], float | None]


class Study:
    """Records of a store, by the specification that asked for them."""

    def __init__(self, runs: Path):
        self.store = Store(runs)
        self.records = [record for record in self.store.records() if record.finished]

    def of(self, name: str) -> list[Record]:
        """Finished cells of NAME.toml, in its order."""
        found = {written(record.spec): record for record in self.records}
        return [found[text] for spec in self.wanted(name) if (text := written(spec)) in found]

    def wanted(self, name: str) -> list[dict[str, Any]]:
        """The cells of NAME.toml."""
        table = read(HERE / f"{name}.toml")
        return [spec.to_json() for spec in (grid(table) if "grid" in table else cells(table))]

    def losses(self, record: Record) -> list[float]:
        """Mean loss of the backdoor task in each epoch."""
        file = self.store.folder(record.planted) / "history.json"
        epochs = json.loads(file.read_text())["backdoor"] if file.is_file() else []
        return [epoch["loss_1"] for epoch in epochs]


def written(spec: dict[str, Any]) -> str:
    """As text that is equal where the specifications are."""
    return json.dumps(json.loads(json.dumps(spec)), sort_keys=True)


def network(reference: dict[str, Any]) -> str:
    """The name of a network, with what tells the small ones of this study apart."""
    deep = f", {reference['deep']} blocks deep" if reference.get("deep") else ""
    return f"{reference['name']}{deep}"


def trigger(record: Record) -> str:
    return str(record.spec["attack"]["trigger"]["name"])


def weighting(record: Record) -> str:
    """The name, with the weights where they are fixed."""
    given = record.spec["attack"]["weighting"]
    if given["name"] != "static":
        return str(given["name"])
    return f"static {', '.join(f'{weight:g}' for weight in given['weights'])}"


def defense(record: Record) -> str:
    """The name and its strength."""
    given = record.spec["defense"]
    if given is None:
        return "none"
    strength = {"jpeg": "quality", "bit_depth": "bits", "fine_tuning": "epochs"}.get(given["name"])
    if given["name"] == "strip_i2i":
        return f"strip_i2i {given['input_weight']:g} + {given['overlay_weight']:g}"
    return f"{given['name']} {given[strength]}" if strength else str(given["name"])


def drop(record: Record) -> float | None:
    """What the backdoor costs on clean inputs, beside the clean sibling."""
    clean = (record.sibling or {}).get("clean")
    return None if clean is None or record.clean is None else clean - record.clean


def total(record: Record) -> float | None:
    return record.columns.get("total")


def grouped(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
