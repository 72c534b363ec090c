"""`sidedoor study`: whether people can tell stamped images from their originals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import (
    AsJson,
    Device,
    Download,
    Out,
    Results,
    Root,
    Settings,
    SpecFile,
    emit,
    machine,
    note,
    open_store,
    read_specs,
    say,
    with_habits,
)
from sidedoor.errors import CannotComplete, ConfigError

app = typer.Typer(help="Ask people which of two images is the original, and compute the fooling rate.",
                  no_args_is_help=True)
PairFolder = Annotated[Path, typer.Argument(help="A folder of pairs: original/NAME and METHOD/NAME.", metavar="PAIRS")]
Answers = Annotated[Path, typer.Option("--answers", help="Where answers are kept, as JSON lines.")]


@app.command()
@with_habits
def pairs(spec: SpecFile, folder: Annotated[Path, typer.Option("--pairs", "-p", help="The folder to write to.")],
          count: Annotated[int, typer.Option(min=1, help="Pairs of each attack.")] = 50, out: Out = Path("runs"),
          settings: Settings = [], root: Root = None, download: Download = False,  # noqa: B006
          device: Device = "auto") -> None:
    """Write test images and what the attacks of a specification make of them, its first seed's."""
    note(f"reading {spec}")
    from sidedoor.apps.pairs import write_pairs

    here = machine(root, download, device)
    found = read_specs(spec, settings, here)
    first = [s for s in found if s.defense is None and s.seed == found[0].seed]
    for made in write_pairs(first, open_store(out), folder, count, here):
        say(made)


@app.command()
@with_habits
def serve(folder: PairFolder, answers: Answers = Path("answers.jsonl"),
          host: Annotated[str, typer.Option(help="0.0.0.0 lets others on the network take part.")] = "127.0.0.1",
          port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
          seed: Annotated[int, typer.Option(help="Of orders and sides.")] = 0) -> None:
    """Serve the questions as a web page until interrupted; answers are kept at once."""
    from sidedoor.apps.study import Study, questions
    from sidedoor.apps.study_server import server

    with server(Study(questions(folder), answers, seed), host, port) as running:
        say(f"http://{running.server_address[0]!s}:{running.server_address[1]}/")
        running.serve_forever()


@app.command()
@with_habits
def proxy(directory: Results,
          keys: Annotated[list[str], typer.Option("--key", metavar="KEY", help="Of a result with an attack.")],
          images: Annotated[int, typer.Option(min=20, help="Test images that are taken, at most.")] = 2000,
          as_json: AsJson = False, root: Root = None, download: Download = False, device: Device = "auto") -> None:
    """Ask a small network instead of people: a proxy of the fooling rate, and no substitute.

    It learns to tell stamped from original images on half of the test images and is judged on the other half.
    """
    from sidedoor.apps.fooling_proxy import fooling_proxy

    if not directory.is_dir():
        raise ConfigError(f"no folder {directory}; expected one of results")
    store, here = open_store(directory), machine(root, download, device)
    found = [fooling_proxy(store, key, images, here) for key in dict.fromkeys(keys)]
    if as_json:
        emit([each.to_json() for each in found])
        return
    for each in found:
        rate, low, high, error = (f"{100 * share:.1f}" for share in (
            each.fooling_proxy, each.low, each.high, each.balanced_error))
        say(f"{each.attack}: proxy of the fooling rate {rate} % (95 % interval {low} to {high}), balanced error "
            f"{error} %, {each.judged} pairs judged by a network, not by people")


@app.command()
@with_habits
def rates(answers: Annotated[Path, typer.Argument(help="A file of answers.", metavar="ANSWERS.jsonl")],
          as_json: AsJson = False) -> None:
    """Print each method's fooling rate with its 95 % interval; 50 % is guessing."""
    from sidedoor.apps.study import rates as computed
    from sidedoor.apps.study import read

    if not answers.is_file():
        raise CannotComplete(f"{answers} is no file; `sidedoor study serve` writes one")
    found = computed(read(answers))
    if as_json:
        emit(found)
        return
    for line in found:
        rate, low, high = (f"{100 * line[key]:.1f}" for key in ("fooling_rate", "low", "high"))
        say(f"{line['method']}: fooling rate {rate} % (95 % interval {low} to {high}), "
                   f"{line['answers']} answers by {line['participants']} participants")
