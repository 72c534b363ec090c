"""`sidedoor rank`: the defences of a folder of results, ranked over attacks with their uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Results, emit, note, say
from sidedoor.errors import ConfigError

By = Annotated[str, typer.Option(help="net, der or asr.")]
Baseline = Annotated[str, typer.Option(metavar="NAME", help="The defence that all others are tested against.")]
Svg = Annotated[Path | None, typer.Option("--svg", help="Where to write the critical-difference diagram.")]


def rank(directory: Results, baseline: Baseline = "fine_tuning", by: By = "net", svg: Svg = None,
         as_json: AsJson = False) -> None:
    """Rank the defences of a folder over its attacks, data sets and networks, from its records alone.

    Mean ranks with intervals, the tests that the number of blocks allows, and what the ranking cannot say.
    """
    from sidedoor.bench.store import Store
    from sidedoor.core.files import write_text
    from sidedoor.report.critical import MOST, diagram, file_of
    from sidedoor.report.ranking import rank as ranked
    from sidedoor.report.ranking_text import lines

    found = ranked(Store(directory).lenient().records(), by, baseline)
    if as_json:
        emit(found.to_json())
    else:
        for line in lines(found):
            say(line)
    if svg is not None:
        if found.difference is None or len(found.ranked) > MOST:
            raise ConfigError(f"--svg given for {len(found.ranked)} methods over {len(found.field.blocks)} blocks; "
                              f"a diagram takes two to {MOST} methods, and at least six blocks, as its test does")
        write_text(svg, file_of(diagram(found.ranked, found.difference)))
        note(f"written: {svg}")
