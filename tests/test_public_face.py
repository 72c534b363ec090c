"""What `import sidedoor` offers: everything in it is there, and costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sidedoor


def test_every_public_name_is_there_and_is_documented() -> None:
    assert {"Attack", "Backdoor", "Door", "Goal", "Needs", "Poison", "Run", "Share", "Task", "Trigger", "evaluate"} \
        <= set(sidedoor.__all__)
    aliases = {"Build", "Count", "Images", "Index", "Label", "NonNegative", "Positive", "Share", "Whole"}
    for name in sidedoor.__all__:
        assert getattr(sidedoor, name).__doc__ or name in aliases, name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(sidedoor.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: (node.module, alias.name) for node in ast.walk(block) if isinstance(node, ast.ImportFrom)
            for alias in node.names}
    homes = {name: f"sidedoor.{module}" for module, names in sidedoor._HOMES.items() for name in names}
    assert {name: module for name, (module, _) in seen.items()} == homes


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys, sidedoor; sys.exit(sorted(m for m in sys.modules if m.startswith('sidedoor.')) != [])"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert sidedoor.__version__


def test_no_module_hides_a_public_name() -> None:
    """A module that was imported is an attribute of its package, whatever the lazy face says."""
    here = Path(sidedoor.__file__).parent
    modules = {path.stem for path in here.glob("*.py")} | {path.name for path in here.iterdir() if path.is_dir()}
    assert "engine" in modules
    assert not modules & set(sidedoor.__all__)
