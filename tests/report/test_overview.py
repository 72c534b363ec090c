"""The head of a page, attacks against defences, and accuracy against success, at numbers worked out by hand."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import SPEC, make_record

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.report.html import build
from sidedoor.report.overview import dots, head, matrix
from sidedoor.report.spreadsheet import of_matrix, uri
from sidedoor.report.tables import aggregate, summary_rows

BEFORE = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02}


def cell(name: str, defense: str | None, seed: int = 0, **values: Any) -> Record:
    found = make_record(f"{name}-{defense}-{seed}", seed, defense, undefended=BEFORE if defense else None, **values)
    return replace(found, spec=found.spec | {"attack": {"name": name, "goal": SPEC["attack"]["goal"]}})


def cells() -> list[Record]:
    return [
        *(cell(name, None, seed) for name in ("badnets", "wanet") for seed in (0, 1)),
        cell("badnets", "abl", 0, attack=0.1), cell("badnets", "abl", 1, attack=0.3, clean=0.7),
        cell("badnets", "strip"), cell("wanet", "strip"),
        cell("wanet", "abl", status="not applicable", error="no data", clean=None, attack=None),
        cell("wanet", "fine_pruning", attack=0.4),
    ]


def target(attack: dict[str, Any] | None, classes: tuple[str, ...] = ()) -> str:
    record = replace(make_record("a"), spec=SPEC | {"attack": attack})
    return dict(head([record], classes, ["2026-03-01"]).facts).get("Target", "")


def test_the_target_is_named_by_its_class_or_its_goal() -> None:
    one = {"name": "all_to_one", "target_class": 1}
    assert target({"name": "badnets", "goal": one}) == "class 1"
    assert target({"name": "badnets", "goal": one}, ("cat", "dog")) == "dog (class 1)"
    assert target({"name": "badnets", "goal": one}, ("0", "1")) == "class 1"
    assert target({"name": "physical", "attack": {"name": "badnets", "goal": one}}, ("cat", "dog")) == "dog (class 1)"
    assert target({"name": "badnets", "goal": {"name": "all_to_all"}}) == "all-to-all"
    assert target({"name": "x", "goal": {"name": "multi_target", "target_classes": [0, 1]}}) == "class 0 and class 1"
    assert target({"name": "x", "goal": {"name": "foreign", "target_classes": 5}}) == "class 5"
    assert target(None) == target({"name": "blo"}) == ""


def test_classes_of_several_data_sets_have_no_common_names() -> None:
    records = [replace(make_record("a"), data="one"), replace(make_record("b"), data="two")]
    assert head(records, ("cat", "dog"), []).title == "small_cnn on digits, target class 0"


def test_a_head_of_records_that_say_little() -> None:
    assert head([replace(make_record("a"), spec={"attack": None})], (), []).title == ""
    assert head([replace(make_record("a"), spec={"attack": SPEC["attack"]})], (), []).title == "target class 0"


def test_images_that_were_resized_are_said() -> None:
    one = make_record("a")
    assert "Images" not in dict(head([one], (), []).facts)
    other = replace(one, resized="8×8")
    assert dict(head([one, other], (), []).facts)["Images"] == "resized from 8×8"
    assert Record.from_json(other.to_json()).resized == "8×8"


def test_a_head_names_a_few_and_counts_many() -> None:
    folders = [{"seed": n, "data": {"name": "folder", "path": f"/x/set{n}"}} for n in range(4)]
    records = [replace(make_record(f"{n}"), spec=SPEC | folder) for n, folder in enumerate(folders)]
    assert head(records[:2], (), []).title == "small_cnn on folder: set0, folder: set1, target class 0"
    assert dict(head([records[2], records[0]], (), []).facts)["Seeds"] == "0, 2"
    facts = dict(head(records, (), ["2026-03-02", "2026-03-01", "2026-03-02"]).facts)
    assert (facts["Data"], facts["Seeds"], facts["Dates"]) == ("4 data sets", "4 seeds", "2026-03-01 to 2026-03-02")


def test_attacks_stand_against_the_defences_that_change_the_system() -> None:
    found = matrix(aggregate(cells()))
    assert found is not None
    assert found.defenses == ("none", "abl", "fine_pruning")
    assert [group.label.attack for group, _ in found.rows] == ["badnets", "wanet"]
    (bare, abl, missing), (_, unsuited, pruned) = (row for _, row in found.rows)
    assert bare is not None
    assert abl is not None
    assert unsuited is not None
    assert pruned is not None
    assert missing is None
    assert bare.figures["attack"][0] == pytest.approx(0.8)
    assert abl.figures["attack"] == pytest.approx((0.2, 0.1, 0.3))
    assert [record.status for record in unsuited.left_out] == ["not applicable"]
    assert pruned.figures["attack"][0] == 0.4


def test_one_attack_is_no_matrix() -> None:
    assert matrix(aggregate([record for record in cells() if record.attack_name == "badnets"])) is None


def test_the_page_colours_the_matrix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in cells():
        store.put(record)
    page = build(store)
    section = page.partition('<section id="matrix">')[2].partition("</section>")[0]
    assert '<td class="n heat" style="--v: 20.0">20.0<small>[10.0, 30.0]</small></td>' in section
    assert ">not applicable</td>" in section
    assert 'href="#matrix"' in page


def test_dots_are_runs_of_systems_that_differ() -> None:
    found = dots(summary_rows(cells()))
    assert list(found) == ["no defence", "abl", "fine_pruning"]
    assert found["abl"] == [(0.1, 0.9), (0.3, 0.7)]
    assert found["no defence"] == [(0.8, 0.9)] * 4
    assert dots(summary_rows([cell("badnets", None), cell("badnets", "strip")])) == {}
    failed = [cell("badnets", None), cell("badnets", "abl", attack=0.1, status="failed")]
    assert dots(summary_rows(failed)) == {}


def test_text_in_a_csv_file_is_no_formula() -> None:
    assert decoded(uri(["name", "x"], [["=1+1", -1 / 3], ["+a", None], ["a,b\udcdf", 2]])) == (
        "name,x\r\n'=1+1,-0.333333\r\n'+a,\r\n\"a,b\\udcdf\",2\r\n")


def test_the_matrix_as_a_csv_file() -> None:
    found = matrix(aggregate(cells()))
    assert found is not None
    first, badnets, wanet = decoded(of_matrix(found)).splitlines()
    assert first == "setting,attack_name,none,abl,fine_pruning"
    assert badnets.split(",")[:3] + badnets.split(",")[4:] == ["", "badnets", "0.8", ""]
    assert float(badnets.split(",")[3]) == pytest.approx(0.2)
    assert wanet == ",wanet,0.8,not applicable,0.4"


def decoded(link: str) -> str:
    return base64.b64decode(link.removeprefix("data:text/csv;base64,")).decode()
