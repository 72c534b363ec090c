"""The code in README.md and CONTRIBUTING.md runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def block(document: str, language: str) -> str:
    """The first code block of a language."""
    match = re.search(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    assert match is not None, f"{document} has no {language} block"
    return match[1]


def test_readme_python_example_repairs_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("README.md", "python"), "README.md", "exec"), {})
    before, after = re.findall(r"ASR ([\d.]+)% -> ([\d.]+)%", capsys.readouterr().out)[0]
    assert float(before) > 90
    assert float(after) < float(before) / 2


def test_readme_specification_is_valid(tmp_path: Path) -> None:
    from sidedoor.bench.spec import cells, read

    file = tmp_path / "spec.toml"
    file.write_text(block("README.md", "toml"))
    assert [spec.defense_name for spec in cells(read(file))] == [
        "none", "fine_pruning", "strip", "spectral_signatures+fine_pruning+strip"]


def test_the_model_that_readme_scans_is_the_demos() -> None:
    from sidedoor.bench.case import classes_of
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.plan import planned
    from sidedoor.bench.spec import cells, read

    here = Machine(device="cpu")
    (model,) = {cell.model for cell in planned(cells(read(ROOT / "experiments" / "demo.toml"), classes_of(here)), here)}
    assert f"runs/demo/artefacts/{model}/model.safetensors" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").rglob("*.toml")), ids=lambda f: f.stem)
def test_experiments_are_valid_specifications(file: Path) -> None:
    from sidedoor.bench.spec import cells, grid, read

    table = read(file)
    assert grid(table) if "grid" in table else cells(table)


def test_contributing_example_is_a_registered_attack_that_passes_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidedoor import registry
    from sidedoor.cli.describe import describe
    from sidedoor.testing import check

    (tmp_path / "stripe_plugin.py").write_text(block("CONTRIBUTING.md", "python"))
    information = tmp_path / "stripe_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stripe-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[sidedoor.attack]\nstripe = stripe_plugin:Stripe\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    known = (registry.entries, registry._by_name)
    for remembered in known:
        remembered.cache_clear()
    try:
        check("stripe")
        assert describe("stripe").parameters["rate"]["default"] == 0.1
    finally:
        sys.modules.pop("stripe_plugin", None)
        for remembered in known:
            remembered.cache_clear()
