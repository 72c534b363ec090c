"""A report of many runs: tables on one page, the details of each model on pages beside it that are made once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import make_record
from test_html import Page

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.report import html, pages

DEFENSES = (None, "fine_pruning", "strip")


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Four models with three runs each, which is more than fit on one page here."""
    monkeypatch.setattr(pages, "ONE_PAGE", 11)
    store = Store(tmp_path)
    for n in range(12):
        store.put(make_record(f"run{n}", n // 3, DEFENSES[n % 3]))
    return store


def written(store: Store) -> dict[str, tuple[int, str]]:
    """Write the report; of the pages beside it, by name, the file's number and what it says."""
    pages.write(store, store.root / "report.html")
    return {page.name: (page.stat().st_ino, page.read_text(encoding="utf-8"))
            for page in sorted((store.root / "report_files").glob("*"))}


def renewed(before: dict[str, tuple[int, str]], after: dict[str, tuple[int, str]]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_each_model_of_many_runs_has_its_own_page(many: Store) -> None:
    beside = written(many)
    main = Page((many.root / "report.html").read_text(encoding="utf-8"))
    places = [f"report_files/planted{n}.html" for n in range(4)]
    assert list(beside) == [Path(place).name for place in places]
    assert set(places) == {link for link in main.links if not link.startswith(("#", "data:"))}
    assert sum(row[1:2] == ["strip"] for row in main.rows) == 5  # over seeds, and of each seed
    assert "Reproduce this run" not in main.texts.get("summary", [])
    page = Page(beside["planted2.html"][1])
    assert page.texts["summary"].count("Reproduce this run") == 3
    assert "../report.html" in page.links
    assert page.row("", "fine_pruning")[2:4] == ["90.0[85.0, 93.0]", "80.0[75.0, 85.0]"]


def test_few_runs_are_one_page_that_needs_no_other(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written(many)
    monkeypatch.setattr(pages, "ONE_PAGE", 12)
    assert written(many) == {}
    assert (many.root / "report.html").read_text(encoding="utf-8") == html.build(many)


def test_a_page_is_kept_until_what_it_shows_changes(many: Store) -> None:
    first = written(many)
    assert written(many) == first
    many.put(make_record("run4", 1, "fine_pruning", clean=0.7))
    second = written(many)
    assert renewed(first, second) == {"planted1.html"}
    assert "70.0" in second["planted1.html"][1]
    many.put_arrays("run8", {"suspicious": np.arange(9.0), "innocent": np.arange(9.0)})
    assert renewed(second, written(many)) == {"planted2.html"}


def test_the_page_of_tables_is_kept_while_nothing_has_changed(many: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, main = written(many), many.root / "report.html"
    first = main.stat().st_ino
    with monkeypatch.context() as context:
        context.delattr(Store, "records")  # nothing is read
        assert written(many) == beside
    assert main.stat().st_ino == first
    (many.root / "report_files" / "planted1.html").unlink()
    assert written(many).keys() == beside.keys()  # a system may give the new file the number of the old one
    many.put_arrays("run8", {"suspicious": np.arange(9.0), "innocent": np.arange(9.0)})
    second = main.stat().st_ino
    written(many)
    assert main.stat().st_ino != second
    main.unlink()
    written(many)
    assert main.exists()


def test_a_new_run_renews_its_model_s_page_and_those_whose_labels_it_changes(many: Store) -> None:
    first = written(many)
    many.put(make_record("more", 3, "abl"))
    second = written(many)
    assert renewed(first, second) == {"planted3.html"}
    wider = make_record("wider", 0)
    wider.spec["data"] = {"name": "digits", "size": 32}
    many.put(replace(wider, planted="planted9"))
    assert len(renewed(second, written(many))) == 5


def test_pages_of_models_that_are_gone_go_and_other_files_stay(many: Store) -> None:
    own = many.root / "report_files" / "notes.html"
    own.parent.mkdir()
    own.write_text("mine")
    many.put(make_record("extra", 9))
    assert "planted9.html" in written(many)
    (many.root / "results" / "extra.json").unlink()
    assert list(written(many)) == ["notes.html", *(f"planted{n}.html" for n in range(4))]


def test_damaged_figures_are_named_each_time(many: Store) -> None:
    many.folder("planted0").mkdir(parents=True)
    (many.folder("planted0") / "history.json").write_text("{")
    for _ in range(2):
        written(many)
        main = (many.root / "report.html").read_text(encoding="utf-8")
        assert "planted0/history.json is damaged" in main


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_page_is_replaced(many: Store) -> None:
    written(many)
    page = many.root / "report_files" / "planted0.html"
    page.unlink()
    os.mkfifo(page)
    assert "Reproduce" in written(many)["planted0.html"][1]


def test_a_large_report_looks_at_each_run_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing the names of 2,000 cells with each other would read four million."""
    from sidedoor.bench import labels

    looked = 0
    name = labels._name

    def counted(reference: object) -> str:
        nonlocal looked
        looked += 1
        return name(reference)

    monkeypatch.setattr(labels, "_name", counted)
    specs = [make_record(str(n), n, DEFENSES[n % 3]).spec for n in range(2000)]
    assert len({label.defense for label in labels.labels(specs)}) == 3
    assert looked < 4 * 2000


def test_charts_over_many_runs_are_those_over_few() -> None:
    from sidedoor.report.series import charts
    from sidedoor.report.tables import summary_rows

    def run(n: int) -> Record:
        record = make_record(f"r{n}", n // 4, clean=0.5 + n % 4 / 10)
        record.spec["attack"] = record.spec["attack"] | {"rate": 0.1 * (1 + n % 4)}
        return record

    (few,), (many,) = (charts(summary_rows([run(n) for n in range(count)])) for count in (8, 400))
    assert few.title == many.title == "badnets: rate"
    assert [line.values for line in few.lines] == [line.values for line in many.lines]
    assert many.lines[0].points["clean"][2] == pytest.approx((0.7, 0.7, 0.7))
