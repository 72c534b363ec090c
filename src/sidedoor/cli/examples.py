"""`sidedoor examples`: small models for a first scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import note, say


def examples(folder: Annotated[Path, typer.Argument(help="Where they are written.", metavar="DIR")] = Path("examples")
             ) -> None:
    """Write models of handwritten digits, two with a backdoor and one without, and clean ones to compare them with."""
    from sidedoor.apps.examples import write_examples

    for path in write_examples(folder):
        if path.parent == folder:
            say(path)
    note(f"next: sidedoor scan {folder / 'patch.safetensors'} --data digits --references {folder / 'references'}")
