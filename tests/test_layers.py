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
    ("errors",),
    ("method", "core", "evidence"),
    ("types",),
    ("registry",),  # knows the members of every kind by file name and loads them when asked
    ("metrics", "image", "forward_operators"),
    ("data",),
    ("triggers", "models"),
    ("goals",),
    ("object_detectors", "zoo"),
    ("multitask",),
    ("engine",),
    ("tasks.task",),  # the seam alone: algorithms and attacks know what a task is, not which there are
    ("algorithms",),
    ("tasks",),
    ("trigger_designs",),
    ("backdoor",),
    ("attacks", "defenses"),
    ("ownership", "explain"),  # declare needs as defences do
    ("evaluation",),
    ("bench",),
    ("report", "testing"),
    ("apps",),  # their pages show pictures as reports do
    ("vetting",),  # its page shows pictures as reports do
    ("claims",),
    ("cli",),
    ("__init__", "__main__"),
)
"""A room imports rooms above it in this list, and itself; never a neighbour or a later one."""

LEVEL = {room: level for level, layer in enumerate(LAYERS) for room in layer}
STORE_ONLY = {"bench.record", "bench.store", "bench.labels"}
"""What reports may know of the bench: they read the store, and name its cells."""


def room_of(module: str) -> str:
    return module if module in LEVEL else module.split(".")[0]


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of the package, without its name, that a file imports: inside functions and for type checkers, too."""
    for node in ast.walk(tree):
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
        room = room_of(module)
        if room not in LEVEL:
            found.append(f"{module} is in no layer; add `{room}` to LAYERS")
            continue
        for target in sorted(set(imported(parse(file)))):
            other = room_of(target)
            if target.startswith("."):
                found.append(f"{module} imports {target}; imports are absolute")
            elif other not in LEVEL:
                found.append(f"{module} imports {target}, which is in no layer")
            elif other != room and LEVEL[other] >= LEVEL[room]:
                found.append(f"{module} imports {target}, which is not below it")
            elif room == "report" and other == "bench" and target not in STORE_ONLY:
                found.append(f"{module} imports {target}; a report reads the store only")
    return found


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import each other in a loop."""
    known = {module.removesuffix(".__init__") for module, _ in modules(root)}
    edges: dict[str, set[str]] = {}
    for module, file in modules(root):
        if not module.endswith("__init__"):  # the public face is lazy
            edges[module] = {name for name in named(parse(file)) if name in known and name != module}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            fresh = edges.get(todo.pop(), set()) - seen
            seen |= fresh
            todo += fresh
        return seen

    reached = {module: reach(module) for module in edges}
    looped = [module for module in edges if module in reached[module]]
    return sorted(sorted(other for other in looped if other in reached[module] and module in reached[other])
                  for module in looped)


def named(tree: ast.Module) -> set[str]:
    """What may be a module among the names that a file imports."""
    found = set(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sidedoor."):
            package = str(node.module).removeprefix("sidedoor.")
            found |= {f"{package}.{alias.name}" for alias in node.names}
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(ROOT) == []


def test_a_circle_is_found_even_where_only_type_checkers_see_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
                                          "    from sidedoor.data import two\n")
    (tmp_path / "data/two.py").write_text("def late():\n    from sidedoor.data.three import x\n")
    (tmp_path / "data/three.py").write_text("import sidedoor.data.one\n")
    (tmp_path / "data/four.py").write_text("from sidedoor.data.one import y\n")
    assert circles(tmp_path) == [["data.one", "data.three", "data.two"]] * 3


def test_the_root_has_at_most_ten_modules() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 10


def test_nothing_imports_upwards() -> None:
    assert violations(ROOT) == []


def test_every_layer_still_exists() -> None:
    assert set(LEVEL) == {room_of(module) for module, _ in modules(ROOT)}


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    """Each of these lines breaks the order; those that look down do not."""
    lines = {
        "types.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sidedoor.data.base import Dataset\n",
        "engine.py": "def late():\n    import sidedoor.bench.run\n",
        "evaluation.py": "from sidedoor import cli\n",
        "attacks/one.py": "from sidedoor.defenses.base import Defense\n",
        "algorithms/two.py": "from sidedoor.tasks.task import Task\nfrom sidedoor.tasks.classification import x\n",
        "report/page.py": "from sidedoor.bench.run import run\n",
        "models/near.py": "from .base import head\n",
        "novel.py": "x = 1\n",
        "data/fine.py": "from sidedoor.data.base import split\nfrom sidedoor.core import random\n",
        "report/fine.py": "from sidedoor.bench.store import Store\n",
    }
    for name, text in lines.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == [
        "algorithms.two imports tasks.classification, which is not below it",
        "attacks.one imports defenses.base, which is not below it",
        "engine imports bench.run, which is not below it",
        "evaluation imports cli, which is not below it",
        "models.near imports .base; imports are absolute",
        "novel is in no layer; add `novel` to LAYERS",
        "report.page imports bench.run; a report reads the store only",
        "types imports data.base, which is not below it",
    ]


@pytest.mark.parametrize("member", ["report", "cli.main", "registry", "evidence"])
def test_what_people_wait_for_does_not_import_torch(member: str) -> None:
    names = [module.removesuffix(".__init__") for module, _ in modules(ROOT) if f"{module}.".startswith(f"{member}.")]
    assert names
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
    assert {module for module in found if room_of(module) not in ("multitask", "testing")} == {"engine"}


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
    """70 lines that are not blank, documentation and private helpers included: the house does the rest."""
    files = {module: file.read_text(encoding="utf-8") for module, file in modules(ROOT / "attacks/poisoning")}
    lines = {module: sum(bool(line.strip()) for line in text.splitlines()) for module, text in files.items()
             if not module.startswith("_")}
    assert lines["badnets"] > 20
    assert {module: count for module, count in lines.items() if count > 80} == {}
