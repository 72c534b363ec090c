"""The import order of the package, its one training loop, and the size of what is in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidedoor

ROOT = Path(sidedoor.__file__).parent

LAYERS = (
    ("errors", "keyed", "progress", "statistics", "bilevel"),
    ("method", "files", "templates"),
    ("types", "state"),
    ("registry",),  # knows the members of every kind by file name and loads them when asked
    ("metrics", "geometry", "edges", "injection", "stegastamp"),
    ("perceptual", "boxes", "operators", "imaging"),
    ("data",),
    ("pictures",),
    ("goals", "triggers", "models"),
    ("names", "weightings", "detectors"),
    ("engine",),
    ("designs", "perturb", "fabricate", "hiding", "writing", "receptive", "subnet"),
    ("matching",),
    ("tasks",),
    ("attacks", "defenses"),
    ("evaluate",),
    ("bench",),
    ("apps", "report", "describe", "doctor", "testing"),
    ("cli",),
    ("__init__",),
)
"""A member imports members of the layers above it in this list, and itself; never a neighbour or a later one."""

LEVEL = {member: level for level, layer in enumerate(LAYERS) for member in layer}
STORE_ONLY = {"bench.record", "bench.store"}
"""What reports may know of the bench: they read the store."""


def member_of(module: str) -> str:
    return module.split(".")[0]


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        yield node
        yield from running(node)


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the package, without its name, that a file imports, also inside functions."""
    for node in running(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (name.removeprefix("sidedoor.") for name in names if name.startswith("sidedoor."))
        elif isinstance(node, ast.ImportFrom) and node.module == "sidedoor":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sidedoor."):
            yield str(node.module).removeprefix("sidedoor.")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "." * node.level + (node.module or "")


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(root.rglob("*.py")):
        yield ".".join(file.relative_to(root).with_suffix("").parts), file


def violations(root: Path) -> list[str]:
    found = []
    for module, file in modules(root):
        member = member_of(module)
        if member not in LEVEL:
            found.append(f"{module} is in no layer; add `{member}` to LAYERS")
            continue
        for target in imported(parse(file)):
            other = member_of(target)
            if target.startswith("."):
                found.append(f"{module} imports {target}; imports are absolute")
            elif other not in LEVEL:
                found.append(f"{module} imports {target}, which is in no layer")
            elif other != member and LEVEL[other] >= LEVEL[member]:
                found.append(f"{module} imports {target}, which is not below it")
            elif member == "report" and other == "bench" and target not in STORE_ONLY:
                found.append(f"{module} imports {target}; a report reads the store only")
    return found


def test_nothing_imports_upwards() -> None:
    assert violations(ROOT) == []


def test_every_layer_still_exists() -> None:
    members = {member_of(module) for module, _ in modules(ROOT)}
    assert set(LEVEL) == members


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    """Each of these lines breaks the order; those that type checkers alone see, or that look down, do not."""
    lines = {
        "types.py": "from sidedoor.data.base import Dataset\n",
        "engine.py": "def late():\n    import sidedoor.bench.run\n",
        "evaluate.py": "from sidedoor import cli\n",
        "attacks/one.py": "from sidedoor.defenses.base import Defense\n",
        "report/page.py": "from sidedoor.bench.run import run\n",
        "models/near.py": "from .base import head\n",
        "novel.py": "x = 1\n",
        "data/fine.py": "from typing import TYPE_CHECKING\nfrom sidedoor.data.base import split\n"
                        "from sidedoor import keyed\n"
                        "if TYPE_CHECKING:\n    from sidedoor.cli import app\n",
        "report/fine.py": "from sidedoor.bench.store import Store\n",
    }
    for name, text in lines.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [
        "attacks.one imports defenses.base, which is not below it",
        "engine imports bench.run, which is not below it",
        "evaluate imports cli, which is not below it",
        "models.near imports .base; imports are absolute",
        "novel is in no layer; add `novel` to LAYERS",
        "report.page imports bench.run; a report reads the store only",
        "types imports data.base, which is not below it",
    ]


@pytest.mark.parametrize("member", ["report", "cli", "registry"])
def test_what_people_wait_for_does_not_import_torch(member: str) -> None:
    names = [module.removesuffix(".__init__") for module, _ in modules(ROOT) if member_of(module) == member]
    wanted = [f"sidedoor.{name}" for name in names]
    code = f"import sys, {', '.join(wanted)}\nassert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def loops(root: Path) -> list[str]:
    """Where gradients are reset or propagated, or Fabric is used."""
    found = []
    for module, file in modules(root):
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) \
                    and node.func.attr in ("zero_grad", "backward"):
                found.append(f"{module} calls {node.func.attr}")
            elif isinstance(node, ast.ImportFrom | ast.Import) and "lightning_fabric" in ast.unparse(node):
                found.append(f"{module} imports lightning_fabric")
    return found


def test_only_the_engine_trains() -> None:
    found = {line.split()[0] for line in loops(ROOT)}
    # Weightings turn losses into gradients at the engine's bidding, and a contract asks them to.
    assert {module for module in found if member_of(module) not in ("weightings", "testing")} == {"engine"}


def test_a_second_training_loop_is_found(tmp_path: Path) -> None:
    text = "from lightning_fabric import Fabric\ndef f(o, l):\n    o.zero_grad()\n    l.backward()\n"
    (tmp_path / "own.py").write_text(text)
    assert loops(tmp_path) == ["own imports lightning_fabric", "own calls zero_grad", "own calls backward"]


def lengths(root: Path) -> dict[str, int]:
    """Lines of every function."""
    return {
        f"{module}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, file in modules(root) for node in ast.walk(parse(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_fit_in_the_eye() -> None:
    assert {name: lines for name, lines in lengths(ROOT).items() if lines > 60} == {}


def test_a_long_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("def f():\n" + "    x = 1\n" * 60)
    assert lengths(tmp_path) == {"long:f": 61}


def test_an_attack_on_data_is_a_page() -> None:
    """70 lines that are not blank, its documentation included: a method is short where the house does the rest."""
    files = {module: file.read_text(encoding="utf-8") for module, file in modules(ROOT / "attacks")}
    poisoners = {module: text for module, text in files.items() if "access: ClassVar[Access] = Access.DATA" in text}
    assert "badnets" in poisoners
    lines = {module: sum(bool(line.strip()) for line in text.splitlines()) for module, text in poisoners.items()}
    assert {module: count for module, count in lines.items() if count > 70} == {}
