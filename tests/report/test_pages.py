"""Pages of results know the cells that earlier stores have run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.pages import Study, assembled, mean, sections
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.bench.store import Store

SWEEP = """
data = "digits"
model = "small_cnn"
[grid]
seed = [0, 1]
attack = ["badnets", "label_consistent"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "specifications").mkdir()
    (tmp_path / "specifications" / "headline.toml").write_text(SWEEP)
    return tmp_path


def ran(folder: Path, specs: list[Spec], clean: float = 0.9) -> Path:
    """A store with a record of each specification."""
    for spec in specs:
        Store(folder).put(Record(spec.key("data"), "planted", spec.to_json(), "done", data="data", clean=clean,
                                 attack=1.0))
    return folder


def study(folder: Path, runs: Path) -> Study:
    return Study(runs, folder / "specifications", folder / "page.jsonl")


def test_cells_of_several_stores_make_a_whole_table(folder: Path) -> None:
    specs = grid(read(folder / "specifications" / "headline.toml"))
    first = study(folder, ran(folder / "one", specs[:3]))
    assert len(first.of("headline")) == 3
    assert first.whole("headline") == []
    first.keep(folder / "page.jsonl")
    second = study(folder, ran(folder / "two", specs[3:]))
    assert [r.spec["seed"] for r in second.whole("headline")] == [0, 0, 1, 1]
    second.keep(folder / "page.jsonl")
    kept = (folder / "page.jsonl").read_text().splitlines()
    assert len(kept) == 4
    second.keep(folder / "page.jsonl")
    assert (folder / "page.jsonl").read_text().splitlines() == kept


def test_a_cell_that_was_run_again_replaces_the_kept_one(folder: Path) -> None:
    specs = grid(read(folder / "specifications" / "headline.toml"))
    study(folder, ran(folder / "one", specs)).keep(folder / "page.jsonl")
    again = study(folder, ran(folder / "two", specs[:1], clean=0.5))
    assert [r.clean for r in again.of("headline")] == [0.5, 0.9, 0.9, 0.9]


def test_what_no_specification_asks_for_is_not_kept(folder: Path) -> None:
    specs = grid(read(folder / "specifications" / "headline.toml"))
    other = study(folder, ran(folder / "one", [*specs, replace(specs[0], seed=7)]))
    other.keep(folder / "page.jsonl")
    assert len((folder / "page.jsonl").read_text().splitlines()) == 4


def test_a_method_of_another_version_has_no_cells_yet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = grid(read(folder / "specifications" / "headline.toml"))
    study(folder, ran(folder / "one", specs)).keep(folder / "page.jsonl")
    monkeypatch.setattr(BadNets, "version", 2)
    assert [r.attack_name for r in study(folder, folder / "one").of("headline")] == ["label_consistent"] * 2


def test_a_parameter_that_came_later_leaves_a_method_its_cells(folder: Path) -> None:
    specs = grid(read(folder / "specifications" / "headline.toml"))
    study(folder, ran(folder / "one", specs)).keep(folder / "page.jsonl")
    lines = [json.loads(line) for line in (folder / "page.jsonl").read_text().splitlines()]
    for line in lines:
        line["spec"]["attack"].pop("robust", None)
    (folder / "page.jsonl").write_text("\n".join(map(json.dumps, lines)))
    other = ran(folder / "two", [replace(specs[0], seed=7)])
    assert len(study(folder, other).of("headline")) == 4


def test_sections_of_partly_run_tables_stay_as_they_are_wherever_they_move(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("# Page\n\n## First\n\n| old |\n\n## Last\n\nWords.\n")
    specs = grid(read(folder / "specifications" / "headline.toml"))
    (folder / "specifications" / "notes.md").write_text("# First\nNew words.\n")
    body = ["| new |", "| --- |", "| 1 |", ""]
    parts = [(title, "headline", title, body) for title in ("Last", "First")]
    some, specifications = ran(folder / "one", specs[:3]), folder / "specifications"
    lines = assembled(Study(some, specifications), parts, sections(page), {})
    assert "\n".join(lines) == "## Last\n\nWords.\n\n## First\n\n| old |\n"
    for renewed in (study(folder, some), Study(ran(folder / "two", specs), specifications)):
        drawn = "\n".join(assembled(renewed, parts, sections(page), {}))
        assert "| old |" not in drawn
        assert "New words." in drawn


def test_means_have_an_interval_from_three_seeds_on() -> None:
    records = [Record(str(n), "p", {}, "done", clean=clean) for n, clean in enumerate((0.5, 0.6, 0.7))]
    written = [mean(records[:count], lambda record: record.clean, 2) for count in (0, 1, 2, 3)]
    # Of 0.5, 0.6 and 0.7: the standard error is 0.057735, and t(0.975, 2) = 4.302653.
    assert written == ["", "0.50", "0.55 [0.50, 0.60]", "0.60 ± 0.25"]
