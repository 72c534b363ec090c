"""The command line. Results go to stdout, everything else to stderr; torch is imported only where it is needed.

Exit codes: 0 done, 1 a run failed, 2 could not complete, 4 usage or configuration error, 130 interrupted (resumable).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sidedoor import registry
from sidedoor.errors import CannotComplete, ConfigError, SidedoorError, unknown

if TYPE_CHECKING:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.record import Record
    from sidedoor.bench.store import Store

app = typer.Typer(
    help="Plant backdoors in vision models under a declared threat model, defend against them, and measure both.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)

# Newer typer carries its own click, so its exceptions are reached through what typer exports.
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. attack.rate=0.05.")]
Root = Annotated[Path | None, typer.Option("--data-root", envvar="SIDEDOOR_DATA", help="Where data sets lie.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download missing data sets.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of results; a run resumes there.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
SpecFile = Annotated[Path, typer.Argument(help="A specification in TOML.", metavar="SPEC.toml")]


@app.command("list")
def list_(kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(registry.KINDS)}.")] = None,
          as_json: AsJson = False) -> None:
    """List what is registered: attacks, defences, goals, tasks, models, data sets, triggers, plug-ins."""
    # Plural forms are what people type.
    wanted = kind.removesuffix("s") if kind and kind.removesuffix("s") in registry.KINDS else kind
    if wanted is not None and wanted not in registry.KINDS:
        raise unknown("kind", wanted, registry.KINDS)
    entries = [e for e in registry.entries() if wanted in (None, e.kind)]
    if as_json:
        _emit([vars(e) for e in entries])
        return
    width = max((len(e.name) for e in entries), default=0)
    for entry in entries:
        typer.echo(f"{entry.kind:<8} {entry.name:<{width}}  {entry.summary}")


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Describe one name: what it is, its parameters with defaults, its paper, its threat model."""
    from sidedoor.cli.describe import describe

    description = describe(name)
    if as_json:
        _emit(vars(description))
    else:
        typer.echo(description.text())


@app.command()
def run(spec: SpecFile, settings: Settings = [], out: Out = Path("runs"), as_json: AsJson = False,  # noqa: B006
        root: Root = None, download: Download = False, device: Device = "auto",
        devices: Annotated[int, typer.Option(min=1, help="Processes to train on together.")] = 1) -> None:
    """Run a specification: the attack undefended, then each of its defences; a table and an HTML report."""
    from sidedoor.bench.run import attempt
    from sidedoor.bench.spec import cells, read
    from sidedoor.bench.sweep import keys_of

    # Of several processes, which fabric starts or torchrun has started, the first one speaks.
    first = devices == 1 or int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
    machine, store = _machine(root, download, device, devices, silent=not first), _store(out)
    specs = cells(read(spec, tuple(settings)))
    with machine.progress.task("runs", len(specs)) as advance:
        records = []
        for cell, key in zip(specs, keys_of(specs, machine), strict=True):
            records.append(attempt(cell, store, machine, key))
            advance(1, f"{cell.attack_name} / {cell.defense_name}")
    if first:
        _finish(records, store, as_json)


@app.command()
def sweep(grid: Annotated[Path, typer.Argument(help="A specification with a table [grid].", metavar="GRID.toml")],
          workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one after another in this one.")] = 1,
          timeout: Annotated[float | None, typer.Option(help="Seconds after which a cell is given up.")] = None,
          settings: Settings = [], out: Out = Path("runs"), as_json: AsJson = False,  # noqa: B006
          root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Run every cell of a grid that the folder does not have yet, one process a cell."""
    from sidedoor.bench.spec import grid as cells_of
    from sidedoor.bench.spec import read
    from sidedoor.bench.sweep import sweep as run_all

    machine, store = _machine(root, download, device), _store(out)
    records = run_all(cells_of(read(grid, tuple(settings))), store, machine, workers=workers, timeout=timeout)
    try:
        typer.echo(f"table: {store.compile()}", err=True)
    except CannotComplete as error:
        typer.echo(f"no table: {error}", err=True)
    _finish(records, store, as_json)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A folder of results.", metavar="DIR")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the page.")] = None,
) -> None:
    """Write one self-contained HTML page from a folder of results, or its table as Markdown (`-o NAME.md`)."""
    from sidedoor.bench.store import Store

    typer.echo(_report(Store(directory), output))


@app.command()
def poison(spec: SpecFile, out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
           form: Annotated[str, typer.Option("--format", help="folder (PNG class folders) or npz.")] = "folder",
           settings: Settings = [], root: Root = None, download: Download = False) -> None:  # noqa: B006
    """Export the poisoned training data of a specification, with a manifest that says what was changed."""
    from sidedoor.apps.export_poisoned import export_poisoned
    from sidedoor.bench.spec import cells, read

    if form not in ("folder", "npz"):
        raise ConfigError(f"--format {form} given; expected folder or npz")
    chosen: Literal["folder", "npz"] = "npz" if form == "npz" else "folder"
    spec_ = cells(read(spec, tuple(settings)))[0]
    typer.echo(export_poisoned(spec_, out, chosen, _machine(root, download, "cpu")))


stego = typer.Typer(help="Hide a picture in photographs by a backdoored restoration network, and reveal it.",
                    no_args_is_help=True)
app.add_typer(stego, name="stego")
Images = Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")]
Pairs = Annotated[Path, typer.Option("--run", help="A folder of results that has a run of attack i2i.")]
Key = Annotated[str | None, typer.Option(help="The run's key, if there are several.")]
Folder = Annotated[Path, typer.Option("-o", "--out", help="Where to write the PNG files.")]


@stego.command("hide")
def hide(images: Images, run: Pairs, out: Folder, key: Key = None) -> None:
    """Write photographs that carry the pattern, as NAME.hidden.png."""
    from sidedoor.apps.stego import pair, read
    from sidedoor.data.pictures import save_png

    shared = pair(_store(run), key)
    for image in images:
        path = out / f"{image.stem}.hidden.png"
        save_png(shared.hide(read(image, shared.tile[0])), path)
        typer.echo(path)


@stego.command("reveal")
def reveal(images: Images, run: Pairs, out: Folder, key: Key = None) -> None:
    """Write what the network makes of photographs, as NAME.revealed.png: the secret if they carry the pattern."""
    from sidedoor.apps.stego import pair, read
    from sidedoor.data.pictures import save_png

    shared = pair(_store(run), key)
    for image in images:
        path = out / f"{image.stem.removesuffix('.hidden')}.revealed.png"
        save_png(shared.reveal(read(image, shared.tile[0])), path)
        typer.echo(path)


study = typer.Typer(help="Ask people which of two images is the original, and compute the fooling rate.",
                    no_args_is_help=True)
app.add_typer(study, name="study")
PairFolder = Annotated[Path, typer.Argument(help="A folder of pairs: original/NAME and METHOD/NAME.", metavar="PAIRS")]
Answers = Annotated[Path, typer.Option("--answers", help="Where answers are kept, as JSON lines.")]


@study.command("pairs")
def pairs(spec: SpecFile, folder: Annotated[Path, typer.Option("--pairs", "-p", help="The folder to write to.")],
          count: Annotated[int, typer.Option(min=1, help="Pairs of each attack.")] = 50, out: Out = Path("runs"),
          settings: Settings = [], root: Root = None, download: Download = False,  # noqa: B006
          device: Device = "auto") -> None:
    """Write test images and what the attacks of a specification make of them, its first seed's."""
    from sidedoor.apps.pairs import write_pairs
    from sidedoor.bench.spec import cells, grid, read

    table = read(spec, tuple(settings))
    found = grid(table) if "grid" in table else cells(table)
    first = [s for s in found if s.defense is None and s.seed == found[0].seed]
    for made in write_pairs(first, _store(out), folder, count, _machine(root, download, device)):
        typer.echo(made)


@study.command("serve")
def serve(folder: PairFolder, answers: Answers = Path("answers.jsonl"),
          host: Annotated[str, typer.Option(help="0.0.0.0 lets others on the network take part.")] = "127.0.0.1",
          port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
          seed: Annotated[int, typer.Option(help="Of orders and sides.")] = 0) -> None:
    """Serve the questions as a web page until interrupted; answers are kept at once."""
    from sidedoor.apps.study import Study, questions, server

    with server(Study(questions(folder), answers, seed), host, port) as running:
        typer.echo(f"http://{running.server_address[0]!s}:{running.server_address[1]}/")
        running.serve_forever()


@study.command("rates")
def rates(answers: Annotated[Path, typer.Argument(help="A file of answers.", metavar="ANSWERS.jsonl")],
          as_json: AsJson = False) -> None:
    """Print each method's fooling rate with its 95 % interval; 50 % is guessing."""
    from sidedoor.apps.study import rates as computed
    from sidedoor.apps.study import read

    if not answers.is_file():
        raise CannotComplete(f"{answers} is no file; `sidedoor study serve` writes one")
    found = computed(read(answers))
    if as_json:
        _emit(found)
        return
    for line in found:
        rate, low, high = (f"{100 * line[key]:.1f}" for key in ("fooling_rate", "low", "high"))
        typer.echo(f"{line['method']}: fooling rate {rate} % (95 % interval {low} to {high}), "
                   f"{line['answers']} answers by {line['participants']} participants")


@app.command()
def doctor(as_json: AsJson = False, root: Root = None) -> None:
    """Say what this machine has: versions, devices, data sets found, optional packages."""
    from sidedoor.cli.doctor import examine

    examination = examine(root)
    if as_json:
        _emit(examination)
        return
    for topic, findings in examination.items():
        typer.echo(f"{topic}:")
        for name, finding in findings.items():
            typer.echo(f"  {name:<18} {finding}")


@app.command()
def clean(directory: Annotated[Path, typer.Argument(help="A folder of results.", metavar="DIR")] = Path("runs"),
          remove: Annotated[bool, typer.Option("--remove", help="Delete them, not only list them.")] = False) -> None:
    """List artefacts that no result needs, or remove them."""
    from sidedoor.bench.store import Store, size_of

    store = Store(directory)
    if not directory.is_dir():
        raise CannotComplete(f"no folder {directory}")
    unused = store.unused()
    for path in unused:
        typer.echo(f"{size_of(path) / 2**20:9.1f} MB  {path}")
    if remove:
        typer.echo(f"removed {store.remove(unused) / 2**20:.1f} MB", err=True)
    elif unused:
        typer.echo("nothing was removed; add --remove to do so", err=True)


def _machine(root: Path | None, download: bool, device: str, devices: int = 1, silent: bool = False) -> Machine:
    from sidedoor.bench.machine import Machine
    from sidedoor.core.progress import Silent, reporter

    return Machine(root, download, device, devices, Silent() if silent else reporter())


def _store(out: Path) -> Store:
    from sidedoor.bench.store import Store

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder")
    return Store(out)


def _finish(records: list[Record], store: Store, as_json: bool) -> None:
    """Print the records, write the report, and say by the exit code whether all runs came to their end."""
    from rich.console import Console

    from sidedoor.report.text import print_table

    if as_json:
        _emit([record.to_json() for record in records])
    else:
        print_table(records, Console())
    typer.echo(f"results: {store.root / 'results'}\nreport:  {_report(store, None)}", err=as_json)
    broken = [record for record in records if not record.finished]
    for record in broken if as_json else ():  # the table has said it
        typer.echo(f"{record.attack_name} / {record.defense_name}: {record.status}: {record.error}", err=True)
    if broken:
        raise typer.Exit(1)


def _report(store: Store, output: Path | None) -> Path:
    from sidedoor.core.files import write_text
    from sidedoor.report import html, markdown

    path = output or store.root / "report.html"
    write_text(path, markdown.table(store.records()) if path.suffix == ".md" else html.build(store))
    return path


def _emit(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    code = _code(arguments)
    if code == _INTERRUPTED:
        typer.echo("interrupted; the same command resumes where it stopped", err=True)
    sys.exit(code)


def _code(arguments: list[str] | None) -> int:
    try:
        outcome = app(arguments, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # newer typer returns the code itself
        return _INTERRUPTED
    except _UsageError as error:
        error.show()
        return 4
    except SidedoorError as error:
        typer.echo(f"sidedoor: {error}", err=True)
        return error.exit_code
    except OSError as error:
        typer.echo(f"sidedoor: {error}", err=True)
        return 2


if __name__ == "__main__":
    main()
