"""`sidedoor scan` as people call it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from command_line import Cli
from safetensors.torch import save_file

from sidedoor import registry
from sidedoor.defenses.audits.mm_bd import MMBD
from sidedoor.engine import Run
from sidedoor.testing.ground import ENOUGH
from sidedoor.vetting import battery
from sidedoor.vetting.battery import Step


@pytest.fixture
def images(stripes: Path) -> Path:
    return stripes / "images.npz"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(battery.PROFILES, "quick", (
        Step("mm_bd", ({"name": "mm_bd", "starts": 2, "steps": 10},), "required"),))


def test_a_scan_prints_its_verdict_writes_three_files_and_resumes(cli: Cli, images: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    call = ("scan", images.parent / "given.safetensors", "--data", images, "--profile", "quick", "--alpha", "0.5",
            "--recipe", f"epochs={ENOUGH.epochs}", "--recipe", f"batch={ENOUGH.batch}", "--device", "cpu", "--json",
            "-o", tmp_path / "out")
    said = cli(*call)
    found = json.loads(said.out)
    assert said.code == found["exit_code"] == 3, said.err  # it stands out, and MM-BD recovers no trigger
    assert found["verdict"] == "suspicious"
    assert found["label"] == 0
    assert cli(*call, "--fail-on", "suspicious").code == 1
    (folder,) = (tmp_path / "out").glob("given-*")
    assert {file.name for file in folder.iterdir()} == {"report.html", "scan.json", "scan.sarif"}
    for owner, name in ((MMBD, "inspect"), (Run, "fit")):
        monkeypatch.setattr(owner, name, None)  # neither is called again
    assert json.loads(cli(*call).out)["audits"] == found["audits"]


def test_a_file_that_asks_for_code_to_be_run_is_a_finding(cli: Cli, images: Path, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"weight": Malicious()}))
    said = cli("scan", tmp_path / "bad.pth", "--data", images, "-o", tmp_path / "out")
    assert said.code == 1
    assert "posix.system" in said.out
    assert not (tmp_path / "owned").exists()
    log = json.loads((tmp_path / "out" / "bad" / "scan.sarif").read_text())
    assert [each["ruleId"] for each in log["runs"][0]["results"]] == ["SD-FILE-001"]


def test_clean_models_that_cannot_be_trained_are_no_finding(cli: Cli, images: Path) -> None:
    said = cli("scan", images.parent / "given.safetensors", "--data", images, "--profile", "quick", "--alpha", "0.5",
               "--recipe", "lr=1e30", "--device", "cpu", "-o", images.parent / "out")
    assert said.code == 2
    assert "a clean model could not be trained" in said.err


@pytest.mark.parametrize(("given", "code", "words"), [
    (("nothing.pth",), 2, "no weights at"), (("given.safetensors", "--arch", "small_cmn"), 4, "small_cnn"),
    (("given.safetensors", "--alpha", "2"), 4, "expected a rate"),
    (("given.safetensors", "--recipe", "epoch=3"), 4, "epochs"),
    (("given.safetensors", "--references", "nowhere"), 4, "no folder"),
    (("given.safetensors", "--fail-on", "all"), 4, "expected finding or suspicious"),
    (("given.safetensors", "--profile", "all"), 4, "expected quick"), (("given.safetensors", "--alpha"), 4, "alpha")])
def test_errors_are_said_with_their_exit_codes(cli: Cli, images: Path, given: tuple[str, ...], code: int,
                                               words: str) -> None:
    said = cli("scan", images.parent / given[0], "--data", images, *given[1:], "-o", images.parent / "out")
    assert said.code == code, said.err
    assert words in said.err
    assert "Traceback" not in said.err


def test_another_number_of_classes_is_no_scan(cli: Cli, images: Path) -> None:
    model = registry.make("model", "small_cnn", classes=7, shape=(3, 16, 16))()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, images.parent / "seven.pt")
    said = cli("scan", images.parent / "seven.pt", "--arch", "small_cnn", "--data", images, "-o", images.parent / "out")
    assert said.code == 2
    assert "another number of classes" in said.err
