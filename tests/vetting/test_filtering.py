"""Data sets with and without poison, and what is written of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_filtered import FILES, HOSTILE, filtered, stripes, suspected
from PIL import Image
from sarif_pydantic import Sarif

import sidedoor as sd
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.testing.ground import ENOUGH, QUICK
from sidedoor.vetting.filter.page import page
from sidedoor.vetting.filter.reading import clean_images, read
from sidedoor.vetting.filter.result import LIMITS
from sidedoor.vetting.filter.suspicion import scored
from sidedoor.vetting.filter.write import as_sarif, ranking, write

SETTINGS = sd.FilterSettings(ENOUGH)
NETWORK = {"name": "small_cnn", "width": 16}


def found(data: sd.Dataset, out: Path | None = None, **given: Any) -> sd.Filtered:
    return sd.filter_data(data, architecture=NETWORK, settings=SETTINGS, out=out, device="cpu", **given)


def test_poisoned_rows_are_found_and_shown_and_a_second_run_resumes(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    data = stripes(poisoned=20)
    first = found(data, tmp_path)
    assert first.verdict == "finding", str(first)
    assert first.exit_code == 1
    best = first.suspected[0]
    assert best.label == 0
    assert best.confirmed
    assert best.after < 0.2
    assert best.recognised < 0.5  # their own classes are others
    poison = set(torch.nonzero(data.targets != stripes().targets)[:, 0].tolist())
    assert len(poison) == 20
    assert len(poison - set(first.keep)) >= 16
    assert len(set(range(240)) - poison - set(first.keep)) <= 10
    assert set(first.rows.ranked[: len(best.rows)].tolist()) == set(best.rows)
    monkeypatch.setattr(Run, "fit", None)  # is not called again
    again = found(data, tmp_path)
    assert again.suspected == first.suspected


def test_clean_data_have_no_finding() -> None:
    passed = found(stripes())
    assert passed.verdict in ("no finding", "suspicious")
    assert not any(each.confirmed for each in passed.suspected)
    if passed.verdict == "no finding":
        assert len(passed.keep) == 240


def test_clean_images_bring_two_more_filters() -> None:
    data, held, task, run = stripes(poisoned=20), stripes(rows=80), sd.Classification(4), Run.local(QUICK, device="cpu")
    build = sd.network(NETWORK, data)
    beside = scored(data, held, task, build, run)
    assert {each.name for each in beside if each.scores is not None} >= {"scan_filter", "mahalanobis_filter"}
    other = ArrayDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [0, 1, 2, 3], 4)
    with pytest.raises(ConfigError, match="expected the same shape"):
        clean_images(other, read(held, None, None, False), None, False)


def test_too_few_images_are_no_pass() -> None:
    few = found(stripes(rows=40))
    assert (few.verdict, few.exit_code) == ("inconclusive", 3)
    assert "images" in few.sentence
    data = stripes(rows=100)
    kept = torch.nonzero((data.targets != 3) | (torch.arange(100) < 30))[:, 0]
    one_small = found(ArrayDataset(data.rows(kept), data.targets[kept], 4))
    assert one_small.verdict == "inconclusive"
    assert "1 classes: 3" in one_small.sentence


def test_a_network_that_learned_nothing_says_nothing() -> None:
    data = stripes()
    noise = torch.randint(0, 4, (240,), generator=torch.Generator().manual_seed(0))
    found_ = sd.filter_data(ArrayDataset(data.rows(torch.arange(240)), noise, 4), device="cpu", architecture=NETWORK,
                            settings=sd.FilterSettings(sd.Recipe(epochs=1)))
    assert found_.verdict == "inconclusive"
    assert "has not learned" in found_.sentence


@pytest.mark.parametrize(("changes", "confirmed"), [
    ({}, True), ({"low": 0.49}, False), ({"others": 0.92}, False), ({"chance": 0.92}, False), ({"after": 0.5}, False),
    ({"recognised": 0.5}, False), ({"recognised": 0.49}, True),
    ({"kind": "blend", "chance": 1.0}, True), ({"kind": "blend", "low": 0.89}, False),
    ({"kind": "blend", "others": 0.92}, False)])
def test_a_finding_works_stands_out_and_needs_the_rows(changes: dict[str, Any], confirmed: bool) -> None:
    assert suspected(**changes).confirmed is confirmed


@pytest.mark.parametrize(("verdict", "code", "rules"), [
    ("no finding", 0, []), ("finding", 1, [("SD-DATA-001", "error")]), ("suspicious", 3, [("SD-DATA-001", "warning")]),
    ("inconclusive", 3, [("SD-DATA-003", "note")])])
def test_exit_codes_and_logs(verdict: Any, code: int, rules: list[tuple[str, str]]) -> None:
    one = filtered(verdict)
    assert one.exit_code == one.to_json()["exit_code"] == code
    log = as_sarif(one, "a b/<m>")
    Sarif.model_validate(log)
    (run,) = log["runs"]  # type: ignore[misc]
    own = [(each["ruleId"], each["level"]) for each in run["results"] if each["ruleId"] != "SD-DATA-002"]
    assert own == rules
    assert [each["level"] for each in run["results"] if each["ruleId"] == "SD-DATA-002"] == ["warning"] * 3
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] is (verdict != "inconclusive")
    assert len(invocation["toolExecutionNotifications"]) == 3  # a filter, a class, a file


@pytest.mark.parametrize("verdict", ["no finding", "finding", "suspicious", "inconclusive"])
def test_names_are_escaped_and_limits_are_named(verdict: Any) -> None:
    one = filtered(verdict)
    shown = page(one, f"sidedoor filter '{HOSTILE}'")
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert len(shown) < 2**20
    assert shown.count("data:image/png") == (9 if one.pictures else 0)
    for text in (str(one), shown):
        assert "Nothing here says that the data are safe" in text
    assert one.to_json()["limits"] == list(LIMITS)


def test_files_name_each_row_on_a_line_and_run_no_formula(tmp_path: Path) -> None:
    one = filtered()
    write(one, tmp_path, "given", "again")
    assert {file.name for file in tmp_path.iterdir()} == \
        {"report.html", "filter.json", "filter.sarif", "ranking.csv", "keep.txt"}
    assert (tmp_path / "keep.txt").read_text().splitlines() == [FILES[0], *FILES[3:]]
    rows = list(csv.DictReader(io.StringIO(ranking(one))))
    assert [row["row"] for row in rows] == ["1", "2", "5", "4", "0", "3"]
    assert [row["suspected"] for row in rows] == ["1", "1", "0", "0", "0", "0"]
    assert rows[0]["file"] == f"{HOSTILE}\\n\\x1b[31m.png"
    assert rows[1]["file"] == "'=1+1.png"
    assert float(rows[0]["spectre"]) == pytest.approx(0.9)
    assert json.loads((tmp_path / "filter.json").read_text())["suspected"][0]["files"] == list(FILES[1:3])


def folder(top: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    for label, name in enumerate(names):
        for row in range(3):
            (top / name).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 100 * label + row).save(top / name / f"{row}.png")
    return top


def test_a_folder_is_read_as_a_whole_and_damaged_files_are_named(tmp_path: Path) -> None:
    top = folder(tmp_path / "data")
    (top / "a" / "1.png").write_bytes(b"no image")
    given = read(top, None, None, False)
    assert given.files == ("a/0.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png")
    assert [file for file, _ in given.quarantined] == ["a/1.png"]
    assert given.data.targets.tolist() == [0, 0, 1, 1, 1]
    assert given.data.rows(torch.arange(5))[:, 0, 0, 0].tolist() == [0, 2, 100, 101, 102]


def test_of_a_folder_with_parts_the_training_part_is_read(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "train")
    folder(tmp_path / "data" / "clean")
    given = read(tmp_path / "data", None, None, False)
    assert given.files[0] == "train/a/0.png"
    assert len(given.data) == 6
    assert given.notes == ("only train/ was looked at, not clean",)


def test_an_archive_is_read_in_the_order_of_its_rows(tmp_path: Path) -> None:
    data = stripes()
    file = tmp_path / "data.npz"
    pixels = data.rows(torch.arange(240)).permute(0, 2, 3, 1).numpy()
    np.savez(file, train_images=pixels, train_labels=data.targets.numpy())
    given = read(file, None, None, False)
    assert torch.equal(given.data.rows(torch.arange(240)), data.rows(torch.arange(240)))
    assert torch.equal(given.data.targets, data.targets)
    assert given.files[7] == "7"


def test_what_was_not_shown_keeps_all_rows() -> None:
    assert filtered("no finding").keep == tuple(range(6))
    assert filtered("suspicious").keep == (0, 3, 4, 5)
    assert "was not shown" in filtered("suspicious").sentence
    assert "demonstrated" in filtered(suspected=(suspected(), replace(suspected(), label=2))).sentence
