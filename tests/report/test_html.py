"""The page of a store: what it shows, that nothing in it can run or fetch, and that a browser renders it."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fabricated import HOSTILE, SPEC, make_record
from PIL import Image

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.core.files import write_json
from sidedoor.core.terms import Terms
from sidedoor.errors import CannotComplete
from sidedoor.evidence import Calibrated, Finding, Localisation, Rule, Separation, Verdict
from sidedoor.report.html import build

VOID = {"meta", "img", "br", "hr", "link", "input", "col"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Every element must close in order; keeps attributes, the text of each element, and rows of cells."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._keep(attrs)
        if tag in VOID:
            return
        self.open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._keep(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def _keep(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.links.append(value or "")

    def row(self, *start: str) -> list[str]:
        return next(row for row in self.rows if row[: len(start)] == list(start))


def tables_of(page: Page) -> list[list[dict[str, str]]]:
    """The CSV files that a page carries."""
    files = [base64.b64decode(link.removeprefix("data:text/csv;base64,")).decode() for link in page.links
             if link.startswith("data:text/csv")]
    return [list(csv.DictReader(io.StringIO(file, newline=""))) for file in files]


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_every_section_is_there(html: str) -> None:
    page = Page(html)
    headings = page.texts["h2"] + [text.strip() for text in page.texts["h3"]]
    for heading in ("Over seeds", "Models", "Left out of averages", "What the numbers mean", "By class",
                    "What the trigger does to an image", "Training and detection", "Without a defence",
                    "Defence: strip", "Defence: neural_cleanse", "Defence: abl error"):
        assert heading in headings
    # Accuracy against success, training and ROC of the model, training and strengths of the repair, histograms of
    # detector and filter, indices and a curve of the audit.
    assert len(page.texts["svg"]) == 9
    path = next(text for text in page.texts["svg"] if "oracle's choice" in text)
    assert "C-Acc on the defender's samples" in path
    assert any("once finished it has C-Acc % 81.2 and ASR % 3.4, which is no result" in text
               for text in page.texts["figcaption"])
    roc = next(text for text in page.texts["svg"] if "true positive rate" in text)
    assert "strip" in roc
    assert "spectral_signatures" in roc
    audit = next(text for text in page.texts["svg"] if "suspicion" in text)
    assert "threshold (2)" in audit
    # Neither mathematics nor letters that the measuring font lacks are lost.
    assert "$dog" in audit
    assert "猫" in audit


def test_numbers_in_the_tables(html: str) -> None:
    page = Page(html)
    assert page.row("badnets", "none", "21 left out")[3:8] == [
        "85.0[80.0, 90.0]", "90.0[80.0, 100.0]", "10.0[10.0, 10.0]", "2.0[2.0, 2.0]", "91.0[91.0, 91.0]"]
    assert "In brackets: the range of 2 seeds" in page.texts["caption"][0]
    # In the table over seeds, then among all runs.
    assert page.row("", "fine_pruning", "1")[3:5] == ["90.0 → 88.0", "80.0 → 5.0"]
    assert page.row("", "fine_pruning", "0")[3:5] == ["90.0 → 88.0[85.0, 93.0]", "80.0 → 5.0[75.0, 85.0]"]
    assert page.row("", "strip", "1")[3:5] == ["90.0", "80.0"]
    assert page.row("", "clean sibling")[3:7] == ["91.0", "3.0", "90.0", "3.0"]
    assert page.row("", "strip", "0")[7:13] == ["69.5", "38.9", "", "0.875", "25.0", "50.0"]
    assert page.row("where the attack worked")[1:] == ["0.913", "31.0", "", "62.0", ""]
    assert "flagged, class 0; above all 2 clean" in page.row("", "neural_cleanse", "0")
    told = " ".join(page.texts["p"])
    assert "3.250 against a threshold of 2.000: flagged. Suspected target class: 0." in told
    assert "target class: 0. Against 2 clean models" in told
    assert "more suspicious than all of them, p = 0.333" in told


def test_the_head_names_data_network_target_and_dates(html: str, bare: Store) -> None:
    page = Page(html)
    title = "Backdoor report: small_cnn on digits, target cat (class 0)"
    assert (page.texts["title"], page.texts["h1"]) == ([f"{title}, 2026-03-01 to 2026-03-02"], [title])
    # Without arrays classes have no names.
    assert Page(build(bare, ["seed0"])).texts["h1"] == ["Backdoor report: small_cnn on digits, target class 0"]


def test_the_contents_lead_to_every_section(html: str) -> None:
    page = Page(html)
    anchors = [link.removeprefix("#") for link in page.links if link.startswith("#")]
    assert {"seeds", "runs", "tradeoff", "models", "left-out", "notes"} <= set(anchors)
    assert set(anchors) <= set(page.ids)


def test_csv_files_hold_what_the_tables_are_made_of(html: str) -> None:
    seeds, runs, classes = tables_of(Page(html))
    alone = next(row for row in seeds if row["defence_name"] == "none")
    assert (alone["seeds"], alone["left_out"], alone["attack_name"]) == ("2", "1", "badnets")
    assert [float(alone[f"clean{end}"]) for end in ("", "_low", "_high")] == pytest.approx([0.85, 0.8, 0.9])
    repaired = next(row for row in runs if row["key"] == "repair")
    assert [repaired[name] for name in ("attack_before", "attack_low", "attack_high")] == ["0.8", "0.75", "0.85"]
    assert next(row["reason"] for row in runs if row["key"] == "seed2") == "ASR is 12 %, below 50 %"
    assert [row["class"] for row in classes] == ["cat", HOSTILE, "$dog", "猫"]
    assert float(classes[0]["no defence: clean"]) == 1


def test_training_within_a_defence_is_folded(html: str) -> None:
    folded = html.partition("<details><summary>Training within the defence</summary>")[2].partition("</details>")[0]
    assert "learning rate" in folded
    assert html.count("Training within the defence.</figcaption>") == 1


def test_removals_by_class_stand_beside_the_poison_s_share(html: str) -> None:
    page = Page(html)
    assert "Removed by class" in page.texts["summary"]
    rows = [row for row in page.rows if len(row) == 3]
    assert rows == [["Label", "Poisoned rows", "Clean rows"], ["cat", "75.0", "20.0"], [HOSTILE, "–", "10.0"],
                    ["$dog", "–", "10.0"], ["猫", "–", "10.0"]]
    told = "12.5 % of the clean rows were removed. The poison makes up 26.5 % of the target class."
    assert sum(told in text for text in page.texts["caption"]) == 1


def test_many_classes_show_first_where_a_filter_met_poison(bare: Store, records: list[Record]) -> None:
    shares = tuple(0.5 if n == 57 else None for n in range(60))
    found = Separation(auroc=0.9, removed_poisoned=0.5, removed_clean=0.1, removed_poisoned_by_class=shares,
                       removed_clean_by_class=(0.1,) * 60)
    bare.put(replace(records[0], evidence=(found, Separation(auroc=0.8, removed_poisoned=0.0))))
    page = Page(build(bare, ["seed0"]))
    rows = [row for row in page.rows if len(row) == 3][1:]
    assert rows[:2] == [["57", "50.0", "10.0"], ["0", "–", "10.0"]]
    assert len(rows) == 50
    assert any("50 of 60 classes" in text for text in page.texts["caption"])


def test_figures_say_what_they_show_to_those_who_do_not_see_them(html: str) -> None:
    assert html.count("<svg ") == html.count('<svg role="img" aria-label="') == 9


def test_names_of_any_bytes_do_not_break_the_page(store: Store, records: list[Record]) -> None:
    odd = "\u202e\x1b\n"
    store.put_arrays("odd", store.arrays("seed0") | {"class_names": np.array([f"\udcdf{odd}", "b", "c", "d"])})
    spec = SPEC | {"data": {"name": "folder", "path": f"/data/{odd}"}}
    store.put(replace(records[0], key="odd", planted="odd", spec=spec, error=odd, status="failed"))
    page = Page(build(store).encode("utf-8").decode())
    assert any(r"\udcdf\u202e\x1b\n" in text for text in page.texts["td"])


def test_per_class_figures_are_means_over_the_class(html: str) -> None:
    page = Page(html)
    # Of class 1, samples 1, 5, 9, ...: half are right; nothing of class 0 is eligible.
    wrong = np.arange(40) % 8 == 1
    success = np.arange(40) % 3 != 0
    member = np.arange(40) % 4 == 1
    expected = [f"{100 * (1 - wrong[member].mean()):.1f}", f"{100 * success[member].mean():.1f}"]
    assert page.row(HOSTILE)[1:4] == ["10", *expected]
    assert page.row("cat")[2:4] == ["100.0", "–"]


def test_images_are_pngs_and_the_residual_is_amplified(html: str) -> None:
    page = Page(html)
    images = [decoded(link) for link in page.links if link.startswith("data:image/png;base64,")]
    # Three columns of three, and two of the audit's exhibits: one is a curve, of one the array is gone.
    assert [image.size for image in images] == [(16, 16)] * 11
    assert {"recovered pattern", "the mask", "gains by step"} <= {text.strip() for text in page.texts["figcaption"]}
    clean, stamped, residual = (np.asarray(images[n]).astype(int) for n in (0, 3, 6))
    assert stamped[-1, -1] == 255
    assert (residual == np.clip(128 + 10 * (stamped - clean), 0, 255)).all()


def test_nothing_can_run_or_fetch(html: str) -> None:
    page = Page(html)
    assert "<script" not in html.lower()
    assert HOSTILE in "".join(page.texts["table"])
    assert "alert('error')" in "".join(page.texts["pre"])
    assert "://" not in re.sub(r"base64,[^\"]*", "", html)
    assert all(link.startswith(("#", "data:image/png;base64,", "data:text/csv;base64,")) for link in page.links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert len(page.ids) == len(set(page.ids))


def test_reproduction_parses_back(store: Store) -> None:
    page = Page(build(store, ["seed0"]))
    assert "sidedoor run spec.toml" in page.texts["pre"]
    spec = tomllib.loads(next(text for text in page.texts["pre"] if "[recipe]" in text))
    assert spec == {k: v for k, v in SPEC.items() if v is not None}
    assert {"512 MB", "cpu, 1 thread", "12.0 s", "2.9.0", "Abacus 8", "contiguous"} <= set(page.texts["dd"])
    assert page.texts["dd"][page.texts["dt"].index("Share of the target class that is poisoned")] == "26.5 %"


def test_cells_left_out_are_listed_with_the_reason(html: str) -> None:
    rows = Page(html).rows
    assert ["badnets", "none", "2", "attack failed", "ASR is 12 %, below 50 %"] in rows
    assert ["badnets", "abl", "0", "error", "no loss"] in rows
    assert ["badnets", "gate_pruning", "0", "not applicable", "small_cnn has no batch norm"] in rows


def test_records_alone_make_a_page(bare: Store) -> None:
    page = Page(build(bare))
    assert page.row("", "strip", "0")[10] == "0.875"
    assert len(page.texts["svg"]) == 2
    assert "clean models (n = 2)" in page.texts["svg"][1]
    assert not any(link.startswith("data:image") for link in page.links)
    assert "By class" not in page.texts["h3"]


def test_a_page_of_one_record_has_no_empty_sections(bare: Store) -> None:
    page = Page(build(bare, ["seed0"]))
    assert page.texts["h2"] == ["Results", "The model", "What the numbers mean"]
    assert not {"AUROC", "Audit", "Seed", "Setting"} & set(page.texts["th"])


def test_unknown_keys_and_empty_stores_are_refused(bare: Store, tmp_path: Path) -> None:
    with pytest.raises(CannotComplete, match="no record nokey"):
        build(bare, ["seed0", "nokey"])
    with pytest.raises(CannotComplete, match="no results"):
        build(Store(tmp_path / "nothing"))
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(CannotComplete, match="no results"):
        build(Store(tmp_path / "empty"))


def test_scores_that_are_not_finite_do_not_break_the_page(store: Store) -> None:
    arrays = store.arrays("detector")
    scores = arrays["suspicious"].copy()
    scores[:3] = np.nan, np.inf, -np.inf
    store.put_arrays("detector", arrays | {"suspicious": scores})
    filtered = store.arrays("filter")
    store.put_arrays("filter", filtered | {"filter_score": np.full(100, np.nan)})
    page = Page(build(store))
    # The filter has neither a curve nor a histogram left.
    assert len(page.texts["svg"]) == 8
    assert "spectral_signatures" not in next(text for text in page.texts["svg"] if "true positive rate" in text)


def test_damaged_files_are_left_out_and_named(store: Store) -> None:
    (store.folder("planted0") / "history.json").write_text("{")
    (store.root / "results" / "seed1.json").write_text("{<b>")
    page = Page(build(store))
    first, second = page.texts["li"][-2:]
    assert "seed1.json" in first
    assert "planted0/history.json is damaged" in second
    assert " Files that cannot be read: 2." in " ".join(page.texts["p"])
    assert page.row("badnets", "none", "11 left out")[3] == "90.0"
    assert "#damaged" in page.links


def test_other_tasks_are_not_called_accuracy(bare: Store, records: list[Record]) -> None:
    bare.put(replace(records[0], spec=records[0].spec | {"task": {"name": "restoration"}}))
    headings = Page(build(bare, ["seed0"])).texts["th"]
    assert "Recovered" in headings
    assert "C-Acc" not in headings


def test_a_plug_in_task_brings_its_own_words(bare: Store, records: list[Record]) -> None:
    terms = Terms("Depth error", "Lost", "Kept", "Lost anyway", False, "Depths are metres.")
    bare.put(replace(records[0], spec=records[0].spec | {"task": {"name": "depth"}}, terms=terms))
    page = Page(build(bare, ["seed0"]))
    assert "Depth error" in page.texts["th"]
    assert "Depths are metres." in page.texts["dd"]


def test_verdicts_and_localisations_are_told(bare: Store, records: list[Record]) -> None:
    found = (Verdict(4.2, 0.004, 0.31, 0.9, 1200, 0.05, "the model was not trained on the set"),
             Localisation(0.8, 0.0352, 50))
    bare.put(replace(records[0], evidence=found))
    told = " ".join(Page(build(bare, ["seed0"])).texts["p"])
    assert ("The null hypothesis that the model was not trained on the set is rejected at the level 0.05: p = 0.004, "
            "statistic 4.200, effect 0.310, n = 1,200, power 90.0 %.") in told
    assert "lies on the trigger in 80.0 % of 50 inputs; a random pixel would in 3.5 %." in told


def test_an_audit_of_schema_1_is_shown_with_its_arrays(store: Store) -> None:
    old = store.records()[0].to_json() | {
        "schema": 1, "key": "old", "sibling": None, "reference": None, "detectors": {},
        "audit": {"score": 3.25, "threshold": 2.0, "flagged": True, "suspected": 0, "references": [0.5, 1.25],
                  "calibrated": True, "rank": 0.0, "models": ["clean0", "clean1"]}}
    write_json(store.root / "results" / "old.json", old)
    store.put_arrays("old", {"audit_per_class": np.array([3.25, 0.1]), "audit_mask": np.ones((8, 8)),
                             "audit_trigger": np.ones((3, 8, 8))})
    page = Page(build(store, ["old"]))
    assert {"recovered mask", "recovered mask × pattern"} <= {text.strip() for text in page.texts["figcaption"]}
    assert any("threshold (2)" in text for text in page.texts["svg"])


def test_many_classes_show_the_least_accurate(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(make_record("wide"))
    y = np.repeat(np.arange(60), 2)
    store.put_arrays("wide", {"y": y, "clean": (y >= 20).astype(np.float32), "attack": np.ones((1, 120))})
    page = Page(build(store))
    classes = [row[0] for row in page.rows if len(row) == 4 and row[0].isdigit()]
    assert len(classes) == 50
    assert classes[:20] == [str(n) for n in range(20)]
    assert "50 of 60 classes" in page.texts["caption"][-1]


def test_the_report_is_the_same_every_time(store: Store, html: str) -> None:
    assert build(store) == html


def test_reading_does_not_need_torch() -> None:
    code = "import sys, sidedoor.report.html, sidedoor.report.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def browse(page: Path, *arguments: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={page.parent / 'profile'}", "--window-size=1280,3000"]
    assert CHROMIUM is not None
    done = subprocess.run([CHROMIUM, *flags, *arguments, page.as_uri()], capture_output=True, text=True, timeout=120,
                          check=True)
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to render the page with")
def test_a_browser_renders_it(store: Store, tmp_path: Path) -> None:
    keys = [record.key for record in store.records() if record.spec["seed"] == 0]
    page = tmp_path / "report.html"
    page.write_text(build(store, keys), encoding="utf-8")
    dom = Page(browse(page, "--dump-dom").strip())
    # The browser's own tree, after its repairs, holds the same table.
    assert dom.row("", "fine_pruning")[2:4] == ["90.0 → 88.0[85.0, 93.0]", "80.0 → 5.0[75.0, 85.0]"]
    assert len(dom.texts["svg"]) == 9
    browse(page, f"--screenshot={tmp_path / 'shot.png'}")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("L")).astype(float)
    assert shot.shape == (3000, 1280)
    # Ink in every part of the window, so neither the figures nor the end of the page are missing.
    assert all(part.std() > 5 for part in np.array_split(shot, 5))


def test_a_threshold_is_drawn_among_scores_of_its_own_scale_only(bare: Store, records: list[Record]) -> None:
    for score, drawn in ((3.25, True), (5.5, False)):
        finding = Finding(score, Rule(3.25, 2.0), (), (score, 0.1))
        bare.put(replace(records[0], evidence=(Calibrated(finding, (0.5, 1.25), method="neural_cleanse"),)))
        page = Page(build(bare, ["seed0"]))
        shown = next(text for text in page.texts["svg"] if "suspicion" in text)
        assert ("threshold (2)" in shown) == drawn
        assert "3.250 against a threshold of 2.000: flagged" in " ".join(page.texts["p"])
