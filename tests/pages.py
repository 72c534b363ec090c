"""Pages of the documentation as tests run them: block after block, in a folder of the page's own.

Shell blocks run as they stand, and so do blocks of Python, in one namespace; a block with a title is a file. A block
of text behind one that ran is what that must have printed, with "..." for anything. A comment `<!-- exit code N -->`
says how the shell block after it ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(?:<!-- exit code (\d+) -->\n)?^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INSTALLER = Path(__file__).parent / "installer.py"


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    text: str
    title: str = ""
    code: int = 0


def blocks(text: str) -> Iterator[Block]:
    """The code blocks of a page."""
    for code, info, body in FENCE.findall(text):
        title = re.search(r'title="([^"]+)"', info)
        yield Block(info.split(" ")[0], body, title[1] if title else "", int(code or 0))


def pages() -> list[Path]:
    """All but results, whose commands are those of studies."""
    return sorted(f for f in (ROOT / "docs").rglob("*.md") if f.parent.name != "results")


def run(text: str, folder: Path) -> None:
    """Run the blocks of a page in a folder.

    Raises:
        AssertionError: one ends otherwise, or prints something else, than the page says.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    printed = ""
    for block in blocks(text):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "sh":
            printed = _shell(block, folder)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.text, "page", "exec"), names)
            printed = out.getvalue()
        elif block.language == "text":
            assert matches(block.text, printed), f"the page says\n{block.text}\nand what ran printed\n{printed}"


def matches(said: str, printed: str) -> bool:
    """Whether a text is what was printed, "..." standing for anything."""
    pattern = ".*".join(re.escape(part) for part in said.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def _shell(block: Block, folder: Path) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], cwd=folder, text=True, capture_output=True,
                          check=False, env=environment(folder))
    assert done.returncode == block.code, f"{block.text}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Of commands that run in a page's folder: packages in it are found, and nothing is fetched."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("pip", "make"):
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{INSTALLER}" {name} "$@"\n')
        tool.chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
