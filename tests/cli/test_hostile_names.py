"""Classes and folders of every name, from the run to its reports: nothing breaks, and no name is more than a name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Cli, Said
from PIL import Image

from sidedoor.bench.store import Store

NAMES = (os.fsdecode("日本".encode("shift-jis")), "two\nlines", "\x1b[31m[red]red", "a\u202egnp.exe",
         "<script>alert(1)<", "a|b`c` & \"d'")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A folder with such classes, in one with such a name; the second class is the target, by its name."""
    top = tmp_path / "[red]|\x1b[31m\n\u202e<b>"
    rng = np.random.default_rng(0)
    for k, name in enumerate(NAMES):
        (top / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(40 * k, 40 * k + 40, (16, 16, 3), np.uint8)).save(top / name / f"{i}.png")
    path = tmp_path / "spec.toml"
    path.write_text(f'''model = {{ name = "small_cnn", width = 4 }}
data = {json.dumps(f"folder:{top}", ensure_ascii=False)}
attack = {{ name = "badnets", rate = 0.2, goal = {{ name = "all_to_one", target_class = "two\\nlines" }} }}
recipe = {{ epochs = 1, batch = 16 }}
''', encoding="utf-8")
    return path


def harmless(said: Said) -> Said:
    for line in (said.out + said.err).splitlines():
        assert line.isprintable(), line
        assert line.encode()
    return said


def test_from_a_run_to_its_reports(cli: Cli, spec: Path, tmp_path: Path) -> None:
    before, out = torch.get_num_threads(), tmp_path / "out"
    torch.set_num_threads(1)
    said = harmless(cli("run", spec, "--out", out, "--device", "cpu"))
    torch.set_num_threads(before)
    assert said.code == 0, said.err
    assert f"AllToOne.target_class: {sorted(NAMES).index(NAMES[1])} (two\\nlines)" in said.err
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    (record,) = Store(out).records()
    assert set(NAMES[1:]) < set(Store(out).arrays(record.key)["class_names"].tolist())
    assert harmless(cli("report", out, "-o", tmp_path / "table.md")).code == 0
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 3
    harmless(cli("run", spec, "--out", out, "--device", "cpu", "--dry-run"))


def test_what_is_refused_is_quoted_in_one_line(cli: Cli, spec: Path, tmp_path: Path) -> None:
    for setting in ("data=folder:\x1b[31m\n\u202e", "attack.goal.target_class=\x1b[31m", "model=\u202e[red]",
                    "attack.\n=3"):
        said = harmless(cli("-q", "run", spec, "--set", setting, "--out", tmp_path / "out"))
        assert said.code in (2, 4)
        assert said.err.count("\n") == 1


def test_the_poisoned_data_can_be_written_and_read(cli: Cli, spec: Path, tmp_path: Path) -> None:
    said = harmless(cli("-q", "poison", spec, "-o", tmp_path / "handed-out"))
    assert said.code == 0, said.err
    manifest = json.loads((tmp_path / "handed-out" / "manifest.json").read_text(encoding="utf-8"))
    assert {each["name"] for each in manifest["classes"]} == {*NAMES[1:], "\\udc93\\udcfa\\udc96{"}
