"""Scans of small models, and what is made of what audits told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_scans import HOSTILE, audited, demonstration, scanned
from safetensors.torch import save_file
from sarif_pydantic import Sarif
from torch import nn

import sidedoor as sd
from sidedoor import registry, zoo
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.audits.k_arm import KArm
from sidedoor.defenses.audits.mm_bd import MMBD
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse
from sidedoor.defenses.audits.pixel_inversion import PixelInversion
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.evidence import Finding
from sidedoor.testing.ground import ENOUGH, Ground, ground
from sidedoor.vetting import battery, sarif
from sidedoor.vetting.battery import Step, Told
from sidedoor.vetting.confirm import trigger
from sidedoor.vetting.page import page
from sidedoor.vetting.result import EXIT, LIMITS
from sidedoor.vetting.scan import ScanSettings, scan
from sidedoor.vetting.write import as_sarif, write

FEW = (Step("mm_bd", ({"name": "mm_bd", "starts": 2, "steps": 10},), "required"),
       Step("neural_cleanse", ({"name": "neural_cleanse", "epochs": 25, "samples": 32, "batch": 16},), "required"))
ALPHA = 0.5
"""One clean model is enough."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(battery.PROFILES, "quick", FEW)


@pytest.fixture(scope="module")
def here() -> Ground:
    return ground()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that references are trained once."""
    return tmp_path_factory.mktemp("scans")


def saved(model: nn.Module, file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


def settings(**changes: Any) -> ScanSettings:
    return ScanSettings(**{"alpha": ALPHA, "profile": "quick", "recipe": ENOUGH, "minutes": 60.0} | changes)


def data_of(here: Ground) -> sd.Splits:
    _, test = zoo.load({"name": "toy", "classes": 4, "train": 4, "test": 240})
    return sd.Splits(here.train, test)


def test_a_backdoored_model_is_found_and_a_clean_one_is_not(here: Ground, out: Path) -> None:
    found = scan(here.victim(), data_of(here), settings=settings(), out=out, device="cpu")
    assert found.verdict == "finding", str(found)
    assert found.exit_code == 1
    assert found.p == ALPHA
    assert found.label == 0
    assert "class" in found.sentence
    best = next(shown for shown in found.demonstrations if shown.confirmed)
    assert best.pixels is not None
    assert best.smallest is not None
    assert best.pixels < best.smallest / 1.5
    twin = Run.local(ENOUGH, seed=77, device="cpu")
    clean = twin.fit(twin.build(here.build), here.train, sd.Supervised(here.task), name="victim")
    passed = scan(clean, data_of(here), settings=settings(), out=out, device="cpu")
    assert passed.verdict in ("no finding", "suspicious")
    assert not any(shown.confirmed for shown in passed.demonstrations)


def test_what_was_measured_is_kept(here: Ground, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scan(here.victim(), data_of(here), settings=settings(), out=out, device="cpu")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    for audit in (MMBD, NeuralCleanse):
        monkeypatch.setattr(audit, "inspect", never)
    monkeypatch.setattr(Run, "fit", never)
    again = scan(here.victim(), data_of(here), settings=settings(), out=out, device="cpu")
    assert json.dumps(again.to_json()) == json.dumps(first.to_json())


def test_without_clean_models_there_is_no_verdict(here: Ground, out: Path) -> None:
    found = scan(here.victim(), data_of(here), settings=settings(references=0), out=out, device="cpu")
    assert (found.verdict, found.p, found.exit_code) == ("inconclusive", None, 3)
    assert all(audit.told is not None for audit in found.audits)  # what was measured is shown
    assert "no clean models" in found.sentence


def test_too_few_clean_models_are_no_pass(here: Ground, out: Path) -> None:
    few = scan(here.victim(), data_of(here), settings=settings(references=1, alpha=0.25), out=out, device="cpu")
    assert few.verdict == "inconclusive"
    assert "needs 3" in few.sentence


def test_profiles_are_of_audits_each_once_and_the_deep_one_has_all_of_the_standard_one() -> None:
    for steps in battery.PROFILES.values():
        assert all(isinstance(registry.make("defense", audit), ModelAudit) for step in steps for audit in step.audits)
        assert len({step.name for step in steps}) == len(steps)
    deep, standard = battery.PROFILES["deep"], battery.PROFILES["standard"]
    assert deep[: len(standard)] == standard
    costs = [sum(step.passes * len(step.audits) for step in steps) for steps in (standard, deep)]
    assert 4 < costs[1] / costs[0] < 6, "--help says five times"
    assert {"k_arm", "umd", "bti_dbf"} <= {step.name for step in deep if step.role == "required"}


def test_a_deep_scan_demonstrates_what_its_own_audits_recover(here: Ground, out: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(battery.PROFILES, "deep", (
        Step("k_arm", ({"name": "k_arm", **KArm.quick},), "required"),
        Step("pixel_inversion", ({"name": "pixel_inversion", **PixelInversion.quick},)),
        Step("umd", ({"name": "umd", "most": 2},))))
    found = scan(here.victim(), data_of(here), settings=settings(profile="deep"), out=out, device="cpu")
    assert [audit.name for audit in found.audits] == ["k_arm", "pixel_inversion", "umd"]
    assert [audit.compared for audit in found.audits] == [True, True, False]
    assert found.p == ALPHA, str(found)
    assert {each.label for each in found.demonstrations if each.audit == "k_arm"} == {0}


def test_a_change_of_pixels_is_added_and_a_pattern_replaces() -> None:
    mask, covered = torch.ones(1, 1), torch.full((1, 1, 1), 0.75)
    told = Told(Finding(2.0, per_class=(0.0, 2.0)), {"mask": mask, "trigger": covered}, 0.0)
    x = torch.full((1, 1, 1, 1), 0.25)
    for name, expected in (("pixel_inversion", 0.75), ("neural_cleanse", 0.75), ("k_arm", 0.75)):
        label, stamp, pixels = trigger({"name": name}, told) or (None, None, None)
        assert (label, pixels) == (1, 1.0)
        assert stamp is not None
        assert stamp(x).item() == expected
        assert stamp(x + 0.25).item() == (1.0 if name == "pixel_inversion" else 0.75)


def test_a_budget_that_does_not_suffice_is_said(here: Ground, tmp_path: Path) -> None:
    found = scan(here.victim(), data_of(here), settings=settings(minutes=1e-4), out=tmp_path, device="cpu")
    assert found.verdict == "inconclusive"
    assert "budget" in found.sentence


def test_an_audit_that_would_take_too_long_is_not_begun(here: Ground, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Step("neural_cleanse", ({"name": "neural_cleanse", "epochs": 10**6},), "required", passes=10**9)
    monkeypatch.setitem(battery.PROFILES, "quick", (FEW[0], endless))
    found = scan(here.victim(), data_of(here), settings=settings(references=0), out=tmp_path, device="cpu")
    assert [audit.ran for audit in found.audits] == [True, False]
    assert "beyond the budget" in found.audits[1].reason
    assert found.verdict == "inconclusive"


def test_a_model_that_knows_nothing_is_inconclusive(here: Ground, out: Path) -> None:
    found = scan(here.run.build(here.build), data_of(here), settings=settings(), out=out, device="cpu")
    assert found.verdict == "inconclusive"
    assert "put together rightly" in found.sentence
    assert not any(audit.ran for audit in found.audits)  # they would mean nothing


def test_without_images_only_audits_without_images_are_made(here: Ground, tmp_path: Path) -> None:
    file = saved(here.victim(), tmp_path / "model.safetensors")
    bare = settings(image=here.train.shape, classes=4)
    found = scan(file, architecture={"name": "small_cnn", "width": 16}, settings=bare, out=tmp_path, device="cpu")
    assert found.verdict == "inconclusive"
    assert [audit.told is not None for audit in found.audits] == [True, False]
    with pytest.raises(ConfigError, match="--classes"):
        scan(file, architecture="small_cnn", settings=settings(), out=tmp_path, device="cpu")


def test_trusted_models_of_a_folder_are_references(here: Ground, tmp_path: Path) -> None:
    clean = here.planting.fit(here.run.build(here.build), here.train, sd.Supervised(here.task), name="clean")
    saved(clean, tmp_path / "trusted" / "0.safetensors")
    found = scan(here.victim(), data_of(here), settings=settings(references=tmp_path / "trusted"), device="cpu")
    assert found.verdict == "finding", str(found)
    assert "trusted" in found.calibration


@pytest.mark.parametrize("given", [{"alpha": 0.0}, {"alpha": 1.0}, {"profile": "all"}, {"normalization": "odd"},
                                   {"minutes": 0.0}, {"references": Path("nowhere")}])
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        settings(**given)


@pytest.mark.parametrize(("changes", "confirmed"), [
    ({}, True), ({"pixels": 12.0}, False), ({"low": 0.89}, False), ({"transfer": 0.49}, False),
    ({"references": ()}, False), ({"pixels": None, "smallest": None}, False),
    ({"pixels": None, "smallest": None, "references": (0.9, 0.94)}, True)])
def test_a_demonstration_works_is_small_and_does_not_transfer(changes: dict[str, Any], confirmed: bool) -> None:
    assert demonstration(**changes).confirmed is confirmed


@pytest.mark.parametrize(("verdict", "code"), [("no finding", 0), ("finding", 1), ("suspicious", 3),
                                               ("inconclusive", 3)])
def test_exit_codes(verdict: Any, code: int) -> None:
    assert EXIT[verdict] == scanned(verdict).exit_code == scanned(verdict).to_json()["exit_code"] == code


@pytest.mark.parametrize("verdict", list(EXIT))
def test_no_verdict_says_safe_and_all_name_their_limits(verdict: Any) -> None:
    found = scanned(verdict)
    for text in (str(found), page(found, "again")):
        assert "Nothing here says that the model is safe" in text.replace("&#39;", "'")
        assert not {"certified", "backdoor-free", "clean model:"} & set(text.lower().split())
    assert found.to_json()["limits"] == list(LIMITS)


def test_names_of_unknown_origin_are_escaped() -> None:
    found = page(scanned(), f"sidedoor scan '{HOSTILE}'")
    assert "<script>" not in found
    assert "&lt;script&gt;" in found
    assert found.count("data:image/png") >= 6 + 2
    assert len(found) < 2**20


@pytest.mark.parametrize(("verdict", "rule", "level"), [
    ("finding", "SD-MODEL-001", "error"), ("suspicious", "SD-MODEL-002", "warning"),
    ("inconclusive", "SD-MODEL-003", "note"), ("no finding", None, None)])
def test_sarif_is_valid_and_never_silent_about_an_inconclusive_scan(verdict: Any, rule: str | None,
                                                                    level: str | None) -> None:
    log = as_sarif(scanned(verdict, audits=(audited(), audited("mm_bd", None, reason="left out"))), "a b/<m>.pt")
    Sarif.model_validate(log)
    (run,) = log["runs"]  # type: ignore[misc]
    assert [(each["ruleId"], each["level"]) for each in run["results"]] == ([(rule, level)] if rule else [])
    invocation = run["invocations"][0]
    assert invocation["executionSuccessful"] is (verdict != "inconclusive")
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == "mm_bd: left out"
    for each in run["results"]:
        assert each["ruleId"] == run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"]
        assert each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b/%3Cm%3E.pt"


def test_fingerprints_of_results_tell_classes_apart() -> None:
    results = [sarif.Result("SD-MODEL-001", "error", "m", label, {}) for label in ("a", "b", "a")]
    found = sarif.log(results, "m.pt", "1", True)["runs"][0]["results"]
    marks = [each["partialFingerprints"]["primaryLocationLineHash"] for each in found]
    assert marks[0] == marks[2] != marks[1]


def test_a_scan_is_written_as_page_json_and_sarif(tmp_path: Path) -> None:
    path = write(scanned(), tmp_path / "one", "model.pt", "sidedoor scan model.pt")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "one" / "scan.json").read_text())["verdict"] == "finding"
    assert json.loads((tmp_path / "one" / "scan.sarif").read_text())["version"] == "2.1.0"
