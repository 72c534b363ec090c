"""The code in README.md, in CONTRIBUTING.md and on the pages of docs/ runs as it stands."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
from pages import ROOT, Block, blocks, environment, matches, run
from safetensors.numpy import save_file

QUICK = {"defenders_split", "four_numbers", "threat_model"}
"""Pages whose blocks take a second; the others start commands or train."""
PAGES = [pytest.param(file, id=file.stem, marks=() if file.stem in QUICK else pytest.mark.slow)
         for file in pages.pages() if any(b.language in ("sh", "python") for b in blocks(file.read_text()))]


@pytest.mark.parametrize("file", PAGES)
def test_the_blocks_of_a_page_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        run(file.read_text(), tmp_path)
    finally:  # two pages may write a module of one name
        for module in tmp_path.glob("*.py"):
            sys.modules.pop(module.stem, None)


@pytest.mark.parametrize("file", pages.pages(), ids=lambda f: f.stem)
def test_every_block_of_a_page_is_one_that_runs(file: Path) -> None:
    """A block in another language would be code that nobody has tried."""
    found = list(blocks(file.read_text()))
    assert 2 * len(found) == len(re.findall("^```", file.read_text(), re.MULTILINE))
    for n, block in enumerate(found):
        assert block.title or block.language in ("sh", "python", "text"), block
        assert block.language != "text" or (n and found[n - 1].language in ("sh", "python")), block


def test_a_page_whose_output_or_exit_code_is_another_is_found(tmp_path: Path) -> None:
    run("```python\nprint(1, 2.5)\n```\n\n```text\n1 ...\n```\n<!-- exit code 3 -->\n```sh\nexit 3\n```\n", tmp_path)
    for wrong in ("```python\nprint(1)\n```\n```text\n2\n```\n", "```sh\nexit 3\n```\n", "```sh\nfalse\ntrue\n```\n",
                  "```sh\npip install '.[nothing]'\n```\n", "```sh\nmake nothing\n```\n"):
        with pytest.raises(AssertionError):
            run(wrong, tmp_path)


def test_dots_stand_for_anything_and_other_text_for_itself() -> None:
    assert matches("a ... c\n", "a b\nb c")
    assert not matches("a ... c", "a b")
    assert not matches("a.c", "abc")


def test_a_block_has_its_language_title_and_exit_code() -> None:
    page = '<!-- exit code 1 -->\n```sh\na\n```\n\n```toml title="b.toml"\nc = 1\n```\n'
    assert list(blocks(page)) == [Block("sh", "a\n", "", 1), Block("toml", "c = 1\n", "b.toml", 0)]


def test_the_commands_of_readme_have_the_options_that_it_names() -> None:
    """The list of commands, and each command in a block before it."""
    found = [b.text for b in blocks((ROOT / "README.md").read_text()) if b.language in ("sh", "text")]
    lines = [line for text in found for line in text.splitlines() if re.match(r"(\S*/)?sidedoor ", line)]
    assert len(lines) >= 25
    for line in lines:
        command, options = re.findall(r"sidedoor (\S+)", line)[0], re.findall(r" (--[a-z-]+)", line)
        assert set(options) <= options_of(command), line


def options_of(command: str) -> set[str]:
    """Of a command, or of all that a group has."""
    from typer.main import get_command

    from sidedoor.cli.main import app

    found: Any = get_command(app)
    found = found.commands[command]
    return {name for each in (found, *getattr(found, "commands", {}).values()) for parameter in each.params
            for name in parameter.opts}


def block(document: str, language: str) -> str:
    """The first code block of a language."""
    return next(b.text for b in blocks((ROOT / document).read_text()) if b.language == language)


def test_readme_python_example_repairs_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("README.md", "python"), "README.md", "exec"), {})
    before, after = re.findall(r"ASR ([\d.]+)% -> ([\d.]+)%", capsys.readouterr().out)[0]
    assert float(before) > 90
    assert float(after) < float(before) / 2


@pytest.mark.slow
def test_the_commands_of_readme_run_on_files_of_their_names(tmp_path: Path) -> None:
    """With one clean model instead of nineteen, and the commitment that was printed."""
    given(tmp_path)
    shown = [b.text for b in blocks((ROOT / "README.md").read_text()) if b.language == "sh" and "demo" not in b.text]
    ended = []
    for line in "".join(shown).splitlines():
        command = line.partition("   #")[0].strip()
        if command.startswith("sidedoor scan"):
            command += " --alpha 0.5 --profile quick"
        if "--secret secret.json --commitment HEX" in command:
            command = command.replace("HEX", hashlib.sha256((tmp_path / "secret.json").read_bytes()).hexdigest())
        ended.append((command, subprocess.run(command.split(), cwd=tmp_path, env=environment(tmp_path), check=False,
                                              capture_output=True, text=True)))
    assert len(ended) >= 7
    for command, done in ended:
        passed = {0, 1, 3} if "scan" in command or "filter" in command else {0}
        assert done.returncode in passed, f"{command}\n{done.stderr}"


def given(folder: Path) -> None:
    """The files that README speaks of: a model of four classes, and images of these."""
    import torch
    from PIL import Image

    import sidedoor as sd

    data = sd.load({"name": "toy", "train": 200, "test": 80}).train
    run = sd.Run.local(sd.Recipe(epochs=4, batch=32), seed=0)
    model = run.fit(run.build(sd.network("small_cnn", data)), data, sd.Supervised(sd.Classification(classes=4)),
                    name="given")
    for name in ("given.pth", "model.pth", "suspect.pth"):
        torch.save(model.state_dict(), folder / name)
    for name in ("images", "given", "clean_images"):
        for row, label in enumerate(data.targets.tolist()):
            file = folder / name / f"class {label}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.rows(torch.tensor([row]))[0].permute(1, 2, 0).numpy()).save(file)


def test_readme_specification_of_a_given_model_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidedoor.bench.spec import cells, read

    monkeypatch.chdir(tmp_path)
    save_file({"weight": np.zeros(1)}, "given.pth")
    file = tmp_path / "spec.toml"
    file.write_text([b.text for b in blocks((ROOT / "README.md").read_text()) if b.language == "toml"][1])
    assert [spec.defense_name for spec in cells(read(file))] == ["none", "neural_cleanse", "fine_pruning"]


def test_readme_specification_is_valid(tmp_path: Path) -> None:
    from sidedoor.bench.spec import cells, read

    file = tmp_path / "spec.toml"
    file.write_text(block("README.md", "toml"))
    assert [spec.defense_name for spec in cells(read(file))] == [
        "none", "fine_pruning", "strip", "spectral_signatures+fine_pruning+strip"]


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").rglob("*.toml")), ids=lambda f: f.stem)
def test_experiments_are_valid_specifications(file: Path) -> None:
    from sidedoor.bench.spec import cells, grid, read

    table = read(file)
    axes = table.get("grid", {})
    for each in axes if isinstance(axes, list) else [axes]:
        each |= {"seed": each["seed"][:1]} if "seed" in each else {}  # of thousands of cells one seed each
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
