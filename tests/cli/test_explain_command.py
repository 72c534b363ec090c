"""`sidedoor explain`."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Cli

SPEC = """
data = { name = "toy", train = 400, test = 60 }
model = { name = "small_cnn", width = 8 }
attack = { name = "ATTACK", rate = 0.2 }
recipe = { epochs = 4, batch = 32 }
"""


def ran(cli: Cli, folder: Path, attack: str) -> tuple[Path, str]:
    """A folder of results, and the key of the one in it."""
    file, out = folder / f"{attack}.toml", folder / attack
    file.write_text(SPEC.replace("ATTACK", attack))
    assert cli("run", file, "--out", out, "--device", "cpu", "-q").code == 0
    (result,) = (out / "results").glob("*.json")
    return out, result.stem


def test_a_stored_model_is_explained(cli: Cli, tmp_path: Path) -> None:
    runs, key = ran(cli, tmp_path, "badnets")
    common = "explain", runs, "--key", key, "--out", tmp_path / "out", "--device", "cpu"
    said = cli(*common, "--methods", "gradient, grad_cam", "--images", 5, "--gallery", 2)
    assert said.code == 0, said.err
    assert "| gradient | model |" in said.out
    assert "| gradient | clean sibling |" in said.out
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"explain.html", "explain.md", "explain.json"}
    kept = json.loads((tmp_path / "out/explain.json").read_text())
    assert kept["key"] == key
    assert kept["images"] == 5
    again = cli(*common, "--methods", "gradient,grad_cam", "--images", 5, "--json", "-q")
    figures = [row["found"]["iou"] for row in json.loads(again.out)["rows"]]
    assert figures == [row["found"]["iou"] for row in kept["rows"]]
    refused = cli(*common, "--methods", "gradcam")
    assert refused.code == 4
    assert "did you mean grad_cam" in refused.err
    refused = cli(*common, "--trigger", 1)
    assert refused.code == 4
    assert "triggers 0 to 0" in refused.err
    unknown = cli("explain", runs, "--key", "0" * 16, "--device", "cpu")
    assert unknown.code == 4
    assert "no finished result" in unknown.err
    assert cli("explain", tmp_path / "nowhere", "--key", key).code == 4


def test_triggers_without_a_place_are_refused(cli: Cli, tmp_path: Path) -> None:
    runs, key = ran(cli, tmp_path, "blended")
    said = cli("explain", runs, "--key", key, "--methods", "gradient", "--device", "cpu", "--out", tmp_path / "out")
    assert said.code == 4
    assert "changes" in said.err
    assert "no place that could be pointed at" in said.err
    assert not (tmp_path / "out").exists()
