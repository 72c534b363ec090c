"""Stands for pip and make where a page of the documentation is run: nothing is fetched.

What they are asked for must be there. `pip install .` and its extras are looked up in the project's file; `pip install
-e .` in a page's folder leaves what pip would, the metadata of the package in it, so that its entry points are found.
`make NAME` must be a target.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    wanted = [a for a in arguments[1:] if not a.startswith("-") and not a.startswith("https://download.pytorch.org/")]
    assert wanted, arguments
    for name in wanted:
        project, _, extra = name.rstrip("]").partition("[")
        assert project in {".", "torch", "torchvision"}, name
        assert not extra or extra in read(ROOT)["optional-dependencies"], name
    if "-e" in arguments:
        install(read(Path()), Path())


def read(folder: Path) -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


def install(project: dict[str, object], folder: Path) -> None:
    """What pip leaves of an editable package beside its code."""
    information = folder / f"{project['name']}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\n"
                                          f"Version: {project['version']}\n")
    points = project["entry-points"]
    assert isinstance(points, dict)
    (information / "entry_points.txt").write_text("".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in members.items())
        for group, members in points.items()))


def make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert arguments, "make what?"
    assert set(arguments) <= set(targets), arguments


if __name__ == "__main__":
    {"pip": pip, "make": make}[sys.argv[1]](sys.argv[2:])
