"""Runs that differ in one number are the points of a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fabricated import make_record

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.report.html import build
from sidedoor.report.series import charts
from sidedoor.report.tables import summary_rows


def purified(quality: int, seed: int, attack: float, **values: Any) -> Record:
    record = make_record(f"jpeg{quality}-{seed}", seed, "jpeg", attack=attack, **values)
    record.spec["defense"]["quality"] = quality
    return record


def jpegs() -> list[Record]:
    by_seed = {30: (0.2, 0.4), 60: (0.5, 0.7), 90: (0.8, 0.8)}
    return [purified(quality, seed, attack) for quality, attacks in by_seed.items()
            for seed, attack in enumerate(attacks)]


def test_seeds_are_averaged_and_the_strengths_ascend() -> None:
    (chart,) = charts(summary_rows([make_record("none"), *jpegs()]))
    assert chart.title == "jpeg: quality"
    (line,) = chart.lines
    assert line.label == "badnets"
    assert line.values == (30, 60, 90)
    assert [tuple(round(v, 6) for v in point) for point in line.points["attack"]] == [
        (0.3, 0.2, 0.4), (0.6, 0.5, 0.7), (0.8, 0.8, 0.8)]


def test_two_strengths_or_two_things_that_differ_are_no_line() -> None:
    assert charts(summary_rows([r for r in jpegs() if r.spec["defense"]["quality"] > 30])) == []
    mixed = jpegs()
    for record in mixed:
        record.spec["recipe"] = record.spec["recipe"] | {"epochs": record.spec["defense"]["quality"]}
    assert charts(summary_rows(mixed)) == []


def test_failed_attacks_are_points_and_broken_cells_are_not() -> None:
    records = [purified(30, 0, 0.1, status="failed"), purified(60, 0, 0.5), purified(90, 0, 0.9)]
    assert charts(summary_rows(records))[0].lines[0].values == (30, 60, 90)
    broken = purified(30, 0, 0.1, status="error", clean=None, recovered=None, idle=None)
    assert charts(summary_rows([broken, *records[1:]])) == []


def test_weights_that_sum_to_one_are_drawn_by_the_last_and_other_parameters_tell_lines_apart() -> None:
    records = []
    for trigger in ("uap", "patch"):
        for weight in (0.1, 0.3, 0.5):
            record = make_record(f"{trigger}{weight}", attack=weight)
            record.spec["attack"] = {"name": "i2i", "trigger": {"name": trigger},
                                     "weighting": {"name": "static", "weights": [1 - weight, weight]}}
            records.append(record)
    (chart,) = charts(summary_rows(records))
    assert chart.title == "i2i: weighting.weights"
    assert {line.label: line.values for line in chart.lines} == {
        "i2i (trigger.name=uap)": (0.1, 0.3, 0.5), "i2i (trigger.name=patch)": (0.1, 0.3, 0.5)}


def test_the_page_draws_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in [make_record("none"), *jpegs()]:
        store.put(record)
    page = build(store)
    assert "By strength" in page
    assert "jpeg: quality" in page
    drawn = page.partition('<section id="strengths">')[2].partition("</section>")[0]
    # In per cent, as everywhere.
    assert {"C-Acc %", "ASR %", "100"} <= set(re.findall(r">([^<>]+)</text>", drawn))
    alone = Store(tmp_path / "alone")
    alone.put(make_record("none"))
    assert "By strength" not in build(alone)
