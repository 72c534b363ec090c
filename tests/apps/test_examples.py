"""The models that ship with the package are what their manifest says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sidedoor import zoo
from sidedoor.apps.examples import MANIFEST, manifest, write_examples
from sidedoor.cli.main import app
from sidedoor.data.base import Splits
from sidedoor.errors import ConfigError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


@pytest.fixture(scope="module")
def digits() -> Splits:
    return zoo.load("digits")


@pytest.mark.parametrize("name", manifest()["models"])
def test_each_is_the_file_and_has_the_accuracy_that_the_manifest_gives(name: str, written: Path,
                                                                       digits: Splits) -> None:
    said = manifest()["models"][name]
    assert hashlib.sha256((written / name).read_bytes()).hexdigest() == said["sha256"]
    model = zoo.network({**manifest()["model"], "weights": str(written / name)}, digits.train)().eval()
    x, y, _ = digits.test.fetch(torch.arange(len(digits.test)), torch.device("cpu"))
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(said["accuracy"], abs=0.01)


def test_two_are_backdoored_and_all_references_are_clean() -> None:
    models = manifest()["models"]
    assert {name: said["attack"]["name"] for name, said in models.items() if said["attack"]} == {
        "patch.safetensors": "badnets", "blend.safetensors": "blended"}
    assert all(said["attack_success"] > 0.9 for said in models.values() if said["attack"])
    assert sum(name.startswith("references/") for name in models) == 19


def test_files_in_the_way_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("mine")
    with pytest.raises(ConfigError, match="give another folder"):
        write_examples(tmp_path)
    assert (tmp_path / MANIFEST).read_text() == "mine"


def test_the_command_writes_them_twice_without_harm(tmp_path: Path) -> None:
    for _ in range(2):
        done = CliRunner().invoke(app, ["examples", str(tmp_path / "bag")])
        assert done.exit_code == 0, done.output
        assert str(tmp_path / "bag" / "clean.safetensors") in done.stdout
    assert len(list((tmp_path / "bag" / "references").iterdir())) == 19


@pytest.mark.slow
def test_a_scan_says_of_them_what_readme_says(written: Path, tmp_path: Path) -> None:
    files = {name: written / f"{name}.safetensors" for name in ("patch", "clean", "blend")}
    files["repaired"] = tmp_path / "repaired.safetensors"
    repaired = ["repair", str(files["patch"]), "--with", "super_fine_tuning", "--data", "digits"]
    assert CliRunner().invoke(app, [*repaired, "-o", str(files["repaired"])]).exit_code == 0
    said = {}
    for name, file in files.items():  # in one folder, where what is found of the references is kept
        scanned = ["scan", str(file), "--data", "digits", "-o", str(tmp_path)]
        said[name] = CliRunner().invoke(app, [*scanned, "--references", str(written / "references")]).exit_code
    assert said == {"patch": 1, "clean": 0, "blend": 0, "repaired": 0}
