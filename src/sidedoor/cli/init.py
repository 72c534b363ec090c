"""`sidedoor init`: a specification to begin with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import note, say
from sidedoor.errors import ConfigError


def init(file: Annotated[Path, typer.Argument(help="The file to write.", metavar="SPEC.toml")] = Path("spec.toml")
         ) -> None:
    """Write a commented specification to begin with; a file that is there is left alone."""
    try:
        with open(file, "x", encoding="utf-8") as made:
            made.write((files("sidedoor.cli") / "init.toml").read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise ConfigError(f"{file} exists and is left alone; give another name, such as `sidedoor init mine.toml`") \
            from error
    say(file)
    note(f"next: sidedoor run {file} --dry-run")
