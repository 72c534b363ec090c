"""Entries of a leaderboard: what is in them, what is refused, the page, and the check that runs cells again."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sidedoor.apps import leaderboard_check
from sidedoor.apps.leaderboard import Adaptive, Entry, block_id, entry_of, from_json, kept, read, write
from sidedoor.apps.leaderboard_check import check, chosen
from sidedoor.apps.leaderboard_page import boards, collected, page, to_json
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store
from sidedoor.errors import CannotComplete, ConfigError, SidedoorError
from sidedoor.evidence import Separation
from sidedoor.metrics import comparison

sys.path.append(str(Path(__file__).parents[1] / "report"))
from benchmark import benchmark, cell

SCHEMA = Draft202012Validator(json.loads((files("sidedoor.apps") / "leaderboard.schema.json").read_text()))
RECORDS = benchmark({"fine_tuning": lambda a, s: 0.5 + 0.01 * s, "anp": lambda a, s: 0.1 + 0.1 * a}, attacks=3)
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> Iterator[None]:
    """Intervals have tests of their own."""
    before, comparison.DRAWS = comparison.DRAWS, 100
    yield
    comparison.DRAWS = before


@pytest.fixture(scope="module")
def entry() -> Entry:
    return entry_of(RECORDS, "anp", "small")


def test_an_entry_has_means_of_blocks_and_its_worst(entry: Entry) -> None:
    assert entry.board == ("digits", "small_cnn", "small")
    assert (entry.stage, entry.seeds) == ("repair", 3)
    assert entry.means.net[0] == pytest.approx(0.8)
    assert entry.means.recovered is not None
    assert entry.means.recovered[0] == pytest.approx(0.8)
    assert entry.worst_block.name == "badnets (size=4)"
    assert entry.worst_block.asr == pytest.approx((0.3, 0.3, 0.3))
    assert entry.rank is not None
    assert (entry.rank.mean, entry.rank.methods, entry.rank.blocks) == (1.0, 2, 3)
    assert "labelled clean images" in entry.access
    assert "Wu, Wang" in entry.paper
    assert len(entry.specs) == len(entry.cells) == 9
    other = cell(0, 0, "fine_tuning", attack=0.3)
    other.spec["model"] = {"name": "resnet18"}  # tells the store's blocks apart, but none of this method
    assert entry_of([*RECORDS, other], "anp").worst_block.name == "badnets (size=4)"
    assert entry.cells[0].before["asr"] == 1


def test_it_survives_writing_and_fits_the_schema(entry: Entry, tmp_path: Path) -> None:
    full = replace(entry, adaptive=(Adaptive("moved", 0.7, "somebody", "https://example.org"),), unreliable="gradients")
    write(full, tmp_path / "anp.json")
    assert read(tmp_path / "anp.json") == full
    SCHEMA.validate(full.to_json())


@pytest.mark.parametrize(("place", "value"), [
    (["schema"], 2), (["method"], 3), (["cost", "seconds"], "long"), (["means", "net"], [0.1, 0.2]), (["rank"], 4),
    (["cells", 0, "asr"], 1.5), (["cells", 0, "test"], -1), (["verified_by"], "nobody"), (["blocks", 0, "seeds"], None),
    (["reference"], "anp"), (["adaptive"], [{"attack": "x", "asr": 2, "who": "y"}]), (["cells", 0, "spec"], []),
    (["adaptive"], [{"attack": "x", "asr": 1, "who": "y", "link": "javascript:alert(1)"}]),
])
def test_what_is_no_entry_is_refused_by_us_and_by_the_schema(entry: Entry, place: list[Any], value: Any) -> None:
    broken = copy.deepcopy(entry.to_json())
    at = broken
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    with pytest.raises(ConfigError):
        from_json(broken)
    assert not SCHEMA.is_valid(broken)


def test_what_lacks_a_part_is_refused(entry: Entry) -> None:
    for name, value in entry.to_json().items():
        without = {key: item for key, item in entry.to_json().items() if key != name}
        optional = name in ("verified_by", "unreliable", "adaptive", "external")
        assert SCHEMA.is_valid(without) == optional, name
        if optional:
            assert getattr(from_json(without), name) == getattr(entry, name), value
        else:
            with pytest.raises(SidedoorError):
                from_json(without)
    with pytest.raises(ConfigError, match="names a block"):
        from_json(entry.to_json() | {"worst": "elsewhere"})


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(CannotComplete, match=r"odd\.json is no entry"):
        collected(tmp_path)
    with pytest.raises(CannotComplete, match="no entries in"):
        collected(tmp_path / "none")


def test_unknown_or_unfinished_methods_are_refused(entry: Entry) -> None:
    with pytest.raises(ConfigError, match="unknown method 'amp'; did you mean anp"):
        entry_of(RECORDS, "amp")
    broken = [replace(r, status="failed") if r.defense_name == "anp" else r for r in RECORDS]
    with pytest.raises(CannotComplete, match="no cell that came to its end"):
        entry_of(broken, "anp")
    other = cell(0, 0, "anp", attack=0.2)
    other.spec["data"] = {"name": "fashion_mnist"}
    with pytest.raises(ConfigError, match="several data sets: digits, fashion_mnist"):
        entry_of([*RECORDS, other], "anp")


def test_a_block_is_the_same_wherever_its_data_lie() -> None:
    first, second = cell(0, 0, "anp"), cell(0, 3, "fine_tuning")
    second.spec["data"] = first.spec["data"] | {"path": "/elsewhere"}
    assert block_id(first) == block_id(second) != block_id(cell(1, 0, "anp"))


def test_what_people_wrote_into_an_entry_is_kept(entry: Entry) -> None:
    before = replace(entry, authors="A. Uthor", verified_by="us", adaptive=(Adaptive("x", 1.0, "y"),), cells=())
    after = kept(replace(entry, tier=""), before)
    assert (after.authors, after.verified_by, after.tier) == ("A. Uthor", "us", "small")
    assert after.adaptive == before.adaptive
    assert after.cells == entry.cells
    assert kept(replace(entry, authors="B. Uthor"), before).authors == "B. Uthor"


class Rows(HTMLParser):
    """The rows of the tables of boards: their attributes and the first link's text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[dict[str, str | None]] = []
        self.scripts = 0
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.scripts += tag == "script"
        self.fetched += [str(given[name]) for name in ("src", "href") if given.get(name)]
        if tag == "tr" and "data-stage" in given:
            self.rows.append(given)
        elif self.rows:
            self.rows[-1] |= {name: value for name, value in given.items() if name.startswith("data-")}


def test_the_page_sorts_by_the_worst_case_and_greys_what_is_doubtful(entry: Entry) -> None:
    tuned = replace(entry_of(RECORDS, "fine_tuning", "small"), unreliable="why")
    shown = page(boards([tuned, entry]))
    rows = Rows(shown).rows
    assert [float(row["data-worst"] or 0) for row in rows] == pytest.approx([70.0, 49.0])
    assert [row.get("class") for row in rows] == [None, "grey"]
    assert "unreliable: why" in shown
    assert [float(row["data-rank"] or 0) for row in rows] == [1.0, 2.0]
    slow = [replace(r, status="timeout", undefended=None) if r.key == "anp-2-1" else r for r in RECORDS]
    assert "cells in no mean: 1 timeout" in page(boards([entry_of(slow, "anp")]))
    assert "cells in no mean" not in shown
    few = entry_of([r for r in RECORDS if r.spec["seed"] == 0], "anp", "small")
    assert Rows(page(boards([few]))).rows[0]["class"] == "grey"
    assert "1 seed<" in page(boards([few]))


def test_the_page_is_whole_and_no_text_is_code(entry: Entry) -> None:
    odd = replace(entry, method=HOSTILE, authors=HOSTILE, stage='"><img src=x>', adaptive=(
        Adaptive(HOSTILE, 0.7, HOSTILE, "https://example.org/?a=\"'"),))
    found = Rows(page(boards([odd, entry])))
    assert found.scripts == 1
    assert [link for link in found.fetched if not link.startswith(("#b", "https://example.org"))] == []
    assert max(float(row["data-adaptive"] or 0) for row in found.rows) == 70.0


def test_a_detector_recovers_nothing_and_different_tiers_do_not_compare(entry: Entry) -> None:
    seen = Separation(tpr_at_5=0.9, fpr_at_5=0.05)
    records = [cell(a, 0, "strip", evidence=(seen,), columns={"accepted": 0.1}) for a in range(3)]
    strip = entry_of(records, "strip", "ci")
    assert strip.means.recovered is None
    assert strip.means.clean[0] == pytest.approx(0.9 * 0.95)
    assert [board.tier for board in boards([strip, entry])] == ["ci", "small"]
    assert json.dumps(to_json(boards([strip])), allow_nan=False)


def test_a_method_twice_on_a_board_is_refused(entry: Entry, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(entry, tmp_path / name / "anp.json")
    with pytest.raises(ConfigError, match="both of anp"):
        collected(tmp_path)


def test_a_seeded_share_of_the_cells_that_count_is_chosen(entry: Entry) -> None:
    failed = replace(entry, cells=(*entry.cells[:8], replace(entry.cells[8], status="timeout")))
    assert len(chosen(failed, 0.05, 0)) == 1
    assert len(chosen(failed, 0.5, 0)) == 4
    assert {c.key for c in chosen(failed, 1, 0)} == set(failed.specs)
    assert chosen(failed, 0.5, 3) == chosen(failed, 0.5, 3)
    assert len({c.key for seed in range(40) for c in chosen(failed, 0.05, seed)}) == 8
    with pytest.raises(CannotComplete, match="nothing to run again"):
        chosen(replace(entry, cells=()), 0.05, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Entry]:
    """An entry of a cell that was really run, and where."""
    store = Store(tmp_path_factory.mktemp("trained"))
    spec = {"data": {"name": "toy", "train": 600, "test": 80}, "model": {"name": "small_cnn", "width": 8},
            "attack": {"name": "badnets", "rate": 0.2}, "defense": "shrink_pad", "recipe": {"epochs": 3, "batch": 32}}
    (record,) = leaderboard_check.sweep([cells(spec)[0]], store, Machine(device="cpu"), workers=0)
    assert record.status == "done"
    return store, entry_of([record], "shrink_pad")


def test_an_honest_entry_passes_and_a_better_one_does_not(trained: tuple[Store, Entry], tmp_path: Path) -> None:
    _, entry = trained
    (same,) = check(entry, Store(tmp_path / "again"), Machine(device="cpu"), workers=0)
    assert same.agrees
    assert same.key == entry.cells[0].key
    assert [each.claimed for each in same.comparisons] == [each.found for each in same.comparisons]
    assert [each.name for each in same.comparisons] == ["clean", "asr", "recovered"]
    left = same.comparisons[1].found[0]
    claimed = replace(entry, cells=(replace(entry.cells[0], asr=left - 0.5 if left > 0.5 else left + 0.5),))
    (other,) = check(claimed, Store(tmp_path / "again"), Machine(device="cpu"), workers=0)
    assert [each.agrees for each in other.comparisons] == [True, False, True]
    assert not other.agrees


def test_a_cell_that_breaks_does_not_agree(trained: tuple[Store, Entry], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    store, entry = trained
    (record,) = store.records()

    def broken(*_: Any, **__: Any) -> list[Record]:
        return [replace(record, status="error", error="no room", undefended=None)]

    monkeypatch.setattr(leaderboard_check, "sweep", broken)
    (found,) = check(entry, Store(tmp_path), Machine(device="cpu"))
    assert (found.agrees, found.status, found.comparisons) == (False, "error", ())
    assert re.fullmatch("[0-9a-f]{16}", found.to_json()["key_now"])
