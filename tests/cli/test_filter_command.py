"""`sidedoor filter` as people call it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from PIL import Image

SPEC = '''data = "digits"
model = "small_cnn"
attack = { name = "badnets", rate = 0.05, goal = { name = "all_to_one", target_class = 3 } }
'''


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two classes of too few images, in a folder with a hostile name."""
    top = tmp_path / "<b>\x1b[31m"
    for label, name in enumerate(("a\nb", "<script>alert(1)<")):
        (top / name).mkdir(parents=True)
        for row in range(4):
            Image.new("L", (8, 8), 100 * label + row).save(top / name / f"{row}.png")
    (top / "a\nb" / "bad.png").write_bytes(b"no image")
    return top


def test_too_few_images_are_inconclusive_and_files_are_written_elsewhere(cli: Cli, few: Path, tmp_path: Path) -> None:
    before = content(few)
    said = cli("filter", few, "-o", tmp_path / "out", "--device", "cpu")
    assert said.code == 3, said.err
    assert all(line.isprintable() for line in (said.out + said.err).splitlines())
    assert "INCONCLUSIVE" in said.out
    assert content(few) == before
    out = tmp_path / "out"
    assert {"report.html", "filter.json", "filter.sarif", "ranking.csv", "keep.txt"} <= {f.name for f in out.iterdir()}
    assert (out / "keep.txt").read_text().splitlines()[4] == "a\\nb/0.png"
    assert "<script>alert" not in (out / "report.html").read_text()
    quarantined = json.loads((out / "filter.json").read_text())["coverage"]["quarantined"]
    assert [each["file"] for each in quarantined] == ["a\nb/bad.png"]
    assert json.loads(cli("filter", few, "-o", out, "--device", "cpu", "--json").out)["verdict"] == "inconclusive"


@pytest.mark.parametrize(("given", "code", "words"), [
    (("nothing",), 4, "nothing"), (("DATA", "--arch", "small_cmn"), 4, "small_cnn"),
    (("DATA", "--recipe", "epoch=3"), 4, "epochs"), (("DATA", "--fail-on", "all"), 4, "expected finding or suspicious"),
    (("DATA", "-o", "DATA/out"), 4, "lies in the data"), (("broken.npz",), 2, "cannot be read")])
def test_errors_are_said_with_their_exit_codes(cli: Cli, few: Path, tmp_path: Path, given: tuple[str, ...], code: int,
                                               words: str) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    places = [each.replace("DATA", str(few)).replace("broken", str(tmp_path / "broken")) for each in given]
    said = cli("filter", *places, *(() if "-o" in given else ("-o", tmp_path / "out")))
    assert said.code == code, said.err
    assert words in said.err
    assert "Traceback" not in said.err


def test_data_that_cannot_be_trained_on_are_no_finding(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", train_images=rng.integers(0, 255, (60, 16, 16), np.uint8),
             train_labels=np.arange(60) % 2)
    said = cli("filter", tmp_path / "data.npz", "--recipe", "lr=1e30", "--device", "cpu", "-o", tmp_path / "out")
    assert said.code == 2
    assert "could not be trained" in said.err


@pytest.mark.slow
def test_what_poison_writes_is_found_and_clean_data_are_not(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    assert cli("poison", tmp_path / "spec.toml", "-o", tmp_path / "given").code == 0
    said = cli("filter", tmp_path / "given", "-o", tmp_path / "out", "--device", "cpu", "--json")
    found = json.loads(said.out)
    assert said.code == 1, said.err
    assert [each["class"] for each in found["suspected"] if each["confirmed"]] == ["3_3"]
    manifest = json.loads((tmp_path / "given" / "manifest.json").read_text())
    files = {int(Path(name).stem): name for name in manifest["files"] if name.startswith("train/")}
    poisoned = {files[row] for row in manifest["changed"]}
    kept = set((tmp_path / "out" / "keep.txt").read_text().splitlines())
    assert kept < set(files.values())
    assert len(poisoned - kept) >= 0.8 * len(poisoned)
    assert len(set(files.values()) - kept - poisoned) <= 0.02 * len(files)
    passed = cli("filter", "digits", "-o", tmp_path / "clean", "--device", "cpu")
    assert passed.code == 0, passed.out
