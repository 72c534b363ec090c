"""`sidedoor leaderboard`: entries from folders of results, a page of them, and a check of one by running it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    Results,
    Root,
    emit,
    machine,
    note,
    open_store,
    say,
    with_habits,
)
from sidedoor.errors import ConfigError

app = typer.Typer(help="Write entries of a leaderboard, build its page, and check entries by running them again.",
                  no_args_is_help=True)
Method = Annotated[str, typer.Option("--method", metavar="NAME", help="As `sidedoor rank` names it.")]
Entry = Annotated[Path, typer.Argument(help="An entry.", metavar="FILE.json")]


@app.command()
@with_habits
def add(directory: Results, method: Method,
        output: Annotated[Path, typer.Option("--output", "-o", help="The entry, such as leaderboard/BOARD/NAME.json.")],
        data: Annotated[str, typer.Option(help="Of several data sets, this one.")] = "",
        model: Annotated[str, typer.Option(help="Of several networks, this one.")] = "",
        tier: Annotated[str, typer.Option(help="Of the grid: entries of different tiers do not compare.")] = "",
        authors: Annotated[str, typer.Option(help="Of the entry.")] = "",
        commit: Annotated[str, typer.Option(help="Of the code, if it was no release.")] = "") -> None:
    """Write what a method did as an entry; what people have written into the file before is kept."""
    from dataclasses import replace

    from sidedoor.apps.leaderboard import entry_of, kept, read, write
    from sidedoor.bench.store import Store
    from sidedoor.report.overview import data_name

    records = [record for record in Store(directory).lenient().records()
               if data in ("", record.spec["data"]["name"], data_name(record.spec["data"]))
               and model in ("", record.spec["model"]["name"])]
    entry = replace(entry_of(records, method), tier=tier, authors=authors, commit=commit)
    if output.exists():
        entry = kept(entry, read(output))
    write(entry, output)
    say(f"{output}: {entry.method} against {len(entry.blocks)} attacks, {len(entry.specs)} cells")


@app.command()
@with_habits
def build(folder: Annotated[Path, typer.Argument(help="A folder of entries.", metavar="FOLDER")],
          output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("leaderboard.html")) -> None:
    """Write the page of all entries below a folder, and leaderboard.json beside it."""
    from sidedoor.apps.leaderboard_page import MACHINE, boards, collected, page, to_json
    from sidedoor.core.files import write_json, write_text

    found = boards(collected(folder))
    write_text(output, page(found))
    write_json(output.with_name(MACHINE), to_json(found))
    say(output)
    note(f"written, too: {output.with_name(MACHINE)}")


@app.command()
@with_habits
def check(entry: Entry, out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
          share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of the cells that count; at least one is run.")]
          = 0.05,
          seed: Annotated[int, typer.Option(help="Of the choice of cells.")] = 0,
          workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one after another in this one.")] = 1,
          as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Run a random share of an entry's cells again; exit with 1 unless every number lies where it should.

    Numbers agree if their 95 % intervals overlap. An entry is data of somebody else: its cells train models of the
    methods that they name.
    """
    from sidedoor.apps.leaderboard import read
    from sidedoor.apps.leaderboard_check import check as run_again

    claimed = read(entry)
    if out.resolve() == entry.parent.resolve():
        raise ConfigError(f"--out {out} is the folder of the entry; choose another for the results")
    found = run_again(claimed, open_store(out), machine(root, download, device), share, seed, workers=workers)
    if as_json:
        emit([each.to_json() for each in found])
    for each in () if as_json else found:
        numbers = ", ".join(f"{n.name} {100 * n.claimed[0]:.1f} -> {100 * n.found[0]:.1f}"
                            f"{'' if n.agrees else ' DIFFERS'}" for n in each.comparisons)
        moved = "" if each.key == each.cell.key else f" (today {each.key}: code, data or parameters have changed)"
        say(f"{each.cell.key}{moved}: {each.status}: {numbers or 'no numbers to compare'}")
    if not all(each.agrees for each in found):
        raise typer.Exit(1)
