"""Names by which the records of this study are grouped and compared."""

from __future__ import annotations

import json
from typing import Any

from experiments.pages import Study
from sidedoor.bench.record import Record


def network(reference: dict[str, Any]) -> str:
    """The name of a network, with what tells the small ones of this study apart."""
    deep = f", {reference['deep']} blocks deep" if reference.get("deep") else ""
    return f"{reference['name']}{deep}"


def trigger(record: Record) -> str:
    return str(record.spec["attack"]["trigger"]["name"])


def goal(record: Record) -> str:
    """What triggered outputs are to look like, in words."""
    given = record.spec["attack"]["goal"]
    if given["name"] == "add_pattern":
        return f"one pattern of noise, ±{given['strength']:g} levels"
    if given["name"] != "degrade":
        return str(given["name"])
    parts = [f"squares of {given['factor']} pixels"] if given["factor"] > 1 else []
    parts += [f"fresh noise, σ = {given['sigma']:g} levels"] if given["sigma"] else []
    return ", ".join(parts)


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


def total(record: Record) -> float | None:
    return record.columns.get("total")


def losses(study: Study, record: Record) -> list[float]:
    """Mean loss of the backdoor task in each epoch."""
    file = study.store.folder(record.planted) / "history.json"
    epochs = json.loads(file.read_text())["backdoor"] if file.is_file() else []
    return [epoch["loss_1"] for epoch in epochs]
