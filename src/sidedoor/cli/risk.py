"""`sidedoor risk`: how likely and how harmful every attack of a folder of results is, from its records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Results, emit, note, say
from sidedoor.errors import ConfigError

WeightsFile = Annotated[Path | None, typer.Option("--weights", metavar="FILE.toml",
                                                  help="Weights of the formula; what it leaves out stays.")]
Missing = Annotated[bool, typer.Option("--missing", help="Print a sweep file of the runs that would say more; with -o, "
                                       "write all of them into a folder.")]
Page = Annotated[Path | None, typer.Option("--output", "-o", help="A page, or with --missing a folder.")]


def risk(directory: Results, weights: WeightsFile = None, missing: Missing = False, as_json: AsJson = False,
         output: Page = None) -> None:
    """Give every attack of a folder a likelihood, an impact and a band of risk, with intervals.

    No attack has a score of its own: all ingredients are measured, or declared by the attack's code.
    """
    from sidedoor.apps.risk import matrix, weights_of
    from sidedoor.apps.risk_missing import files_of
    from sidedoor.apps.risk_page import page
    from sidedoor.apps.risk_text import lines
    from sidedoor.bench.store import Store
    from sidedoor.core.files import write_text

    found = matrix(Store(directory).lenient().records(), weights_of(weights) if weights else None)
    if missing:
        if as_json:
            raise ConfigError("--missing and --json given; expected one of them")
        _print_missing(files_of([need for row in found.rows for need in row.missing]), output)
        return
    if output is not None:
        write_text(output, page(found, directory, output))
    if as_json:
        emit(found.to_json())
    else:
        for line in lines(found):
            say(line)
    if output is not None:
        note(f"written: {output}")


def _print_missing(files: dict[str, str], folder: Path | None) -> None:
    from sidedoor.core.files import write_text

    if not files:
        note("nothing is missing")
    elif folder is not None:
        for name, text in files.items():
            write_text(folder / name, text)
            say(folder / name)
    else:
        typer.echo(next(iter(files.values())), nl=False)
        if len(files) > 1:
            note(f"further files: {len(files) - 1}; -o FOLDER writes all of them")
