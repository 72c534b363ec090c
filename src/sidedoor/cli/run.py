"""Commands that run specifications, and that read or tidy what runs have left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sidedoor.cli import _executors as executors
from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    DryRun,
    Out,
    Results,
    Root,
    Settings,
    SpecFile,
    StoreLocks,
    emit,
    machine,
    note,
    open_store,
    read_specs,
    say,
)
from sidedoor.cli.plan import show
from sidedoor.core.printable import visible
from sidedoor.errors import CannotComplete, ConfigError

if TYPE_CHECKING:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.record import Record
    from sidedoor.bench.spec import Spec
    from sidedoor.bench.store import Store


def run(spec: SpecFile, settings: Settings = [], out: Out = Path("runs"), as_json: AsJson = False,  # noqa: B006
        dry_run: DryRun = False, root: Root = None, download: Download = False, device: Device = "auto",
        locks: StoreLocks = "flock",
        devices: Annotated[int | None, typer.Option(min=1, help="Short for --set devices=N.")] = None) -> None:
    """Run a specification: the attack undefended, then each of its defences; a table and an HTML report."""
    # Of several processes, which fabric starts or torchrun has started, the first one speaks.
    first = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    if first:
        note(f"reading {spec}")  # what is imported below takes seconds
    here, store = machine(root, download, device, silent=not first), open_store(out, locks)
    specs = read_specs(spec, settings + ([f"devices={devices}"] if devices else []), here, swept=False)
    if dry_run:
        show(specs, store, here, as_json)
        return
    records = _run(specs, store, here, first)
    if first:
        _finish(records, store, as_json)


def _run(specs: list[Spec], store: Store, here: Machine, first: bool) -> list[Record]:
    """The records of cells, one after another."""
    from sidedoor.bench.plan import check_networks, planned
    from sidedoor.bench.run import attempt, finished

    cells = planned(specs, here)
    check_networks([cell for cell in cells if finished(store, cell.key) is None], here)
    if first:
        _introduce(cells[0].spec, here)
    records = []
    with here.progress.task("runs", len(cells)) as advance:
        for cell in cells:
            records.append(attempt(cell.spec, store, here, cell.key))
            advance(1, str(cell))
    return records


def _introduce(spec: Spec, here: Machine) -> None:
    """Say on what is run, and which classes by name an attack is given."""
    from sidedoor.bench.case import load_data
    from sidedoor.bench.class_names import said

    (splits, _), attack = load_data(spec, here), spec.make_attack()
    note(f"{spec.data['name']}: {len(splits.train)} + {len(splits.test)} images of "
         f"{'×'.join(map(str, splits.train.shape))}, {len(splits.train.classes)} classes")
    for line in said(attack, splits.train.classes) if attack else ():
        note(line)


def sweep(grid: Annotated[Path, typer.Argument(help="A specification with a table [grid].", metavar="GRID.toml")],
          workers: Annotated[int | None, typer.Option(
              min=0, show_default=False, help="Cells at a time; 0: one after another in this process. Without it 1, or "
                                              "with ray and slurm as many as there is room for.")] = None,
          timeout: Annotated[float | None, typer.Option(help="Seconds after which a cell is given up.")] = None,
          shard: Annotated[str | None, typer.Option(
              metavar="I/N", help="Run the I-th of N parts; all cells of a model are in one.")] = None,
          executor: Annotated[str, typer.Option(help="Where: processes of this machine, ray or slurm.")] = "processes",
          address: Annotated[str | None, typer.Option(
              help="Of the Ray cluster: HOST:PORT, or ray://HOST:PORT from elsewhere.")] = None,
          gpus: Annotated[float, typer.Option(min=0, help="Of a GPU, what Ray gives each cell, such as 0.25.")] = 0,
          slurm: Annotated[list[str], typer.Option(
              metavar="KEY=VALUE", help="A parameter of submitit, such as partition=gpu.")] = [],  # noqa: B006
          locks: StoreLocks = "flock",
          settings: Settings = [], out: Out = Path("runs"), as_json: AsJson = False,  # noqa: B006
          dry_run: DryRun = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Run every cell of a grid that the folder does not have yet, one process per cell."""
    note(f"reading {grid}")
    from sidedoor.bench.sweep import sweep as run_all

    here, store = machine(root, download, device), open_store(out, locks)
    specs = read_specs(grid, settings, here, swept=True)
    if shard is not None:
        specs = _part(specs, shard, here)
    if dry_run:
        show(specs, store, here, as_json)
        return
    if not specs:
        note(f"no cell is in part {shard}")
        return
    chosen = executors.executor(executor, store, here, workers=workers, timeout=timeout, address=address, gpus=gpus,
                                slurm=slurm)
    records = run_all(specs, store, here, workers=1 if workers is None else workers, timeout=timeout, executor=chosen)
    try:
        note(f"table: {store.compile()}")
    except CannotComplete as error:
        note(f"no table: {error}")
    _finish(records, store, as_json)


def _part(specs: list[Spec], given: str, here: Machine) -> list[Spec]:
    """The cells of one part of a sweep."""
    from sidedoor.bench.plan import planned
    from sidedoor.bench.shards import shard

    part = shard(given)
    return [cell.spec for cell in part.of(planned(specs, here))]


def report(
    directory: Results,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the page.")] = None,
) -> None:
    """Write an HTML page from a folder of results, or its table as Markdown (`-o NAME.md`).

    Up to 60 runs are one self-contained page; of more, the details of each model are pages in a folder beside it.
    """
    from sidedoor.bench.store import Store

    say(_report(Store(directory), output))


def poison(spec: SpecFile, out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
           form: Annotated[str, typer.Option("--format", help="folder (PNG class folders) or npz.")] = "folder",
           settings: Settings = [], root: Root = None, download: Download = False) -> None:  # noqa: B006
    """Export the poisoned training data of a specification, with a manifest that says what was changed."""
    from sidedoor.apps.export_poisoned import export_poisoned

    if form not in ("folder", "npz"):
        raise ConfigError(f"--format {form} given; expected folder or npz")
    chosen: Literal["folder", "npz"] = "npz" if form == "npz" else "folder"
    note(f"reading {spec}")
    here = machine(root, download, "cpu")
    say(export_poisoned(read_specs(spec, settings, here, swept=False)[0], out, chosen, here))


def clean(directory: Results = Path("runs"),
          remove: Annotated[bool, typer.Option("--remove", help="Delete them, not only list them.")] = False) -> None:
    """List artefacts that no result needs, or remove them."""
    from sidedoor.bench.store import Store, size_of

    store = Store(directory)
    if not directory.is_dir():
        raise CannotComplete(f"no folder {directory}")
    unused = store.unused()
    for path in unused:
        say(f"{size_of(path) / 2**20:9.1f} MB  {path}")
    if remove:
        note(f"removed {store.remove_unused()[1] / 2**20:.1f} MB")
    elif unused:
        note("nothing was removed; add --remove to do so")


def _finish(records: list[Record], store: Store, as_json: bool) -> None:
    """Print the records, write the report, and say by the exit code whether all runs came to their end."""
    from rich.console import Console

    from sidedoor.report.text import print_table

    if as_json:
        emit([record.to_json() for record in records])
    else:
        print_table(records, Console())
    for line in (f"results: {store.root / 'results'}", f"report:  {_report(store, None)}"):
        note(line) if as_json else say(line)
    broken = [record for record in records if not record.finished]
    for record in broken if as_json else ():  # the table has said it
        typer.echo(visible(f"{record.attack_name} / {record.defense_name}: {record.status}: {record.error}"), err=True)
    if broken:
        raise typer.Exit(1)


def _report(store: Store, output: Path | None) -> Path:
    from sidedoor.core.files import write_text
    from sidedoor.report import markdown, pages

    path = output or store.root / "report.html"
    if path.suffix == ".md":
        write_text(path, markdown.table(store.lenient().records()))
    else:
        pages.write(store, path)
    return path
