"""Options and habits that commands share."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidedoor.core.printable import visible
from sidedoor.errors import ConfigError

if TYPE_CHECKING:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.spec import Spec
    from sidedoor.bench.store import Store

log = logging.getLogger("sidedoor")


def _sets(level: int) -> Callable[[bool], bool]:
    """What an option does that sets how much is said; of several, the one that says most counts."""
    def chosen(given: bool) -> bool:
        if given:
            log.setLevel(level if log.level == logging.WARNING else min(level, log.level))
        return given

    return chosen


def quiet() -> bool:
    """Whether only errors are said on stderr."""
    return not log.isEnabledFor(logging.WARNING)


def verbose() -> bool:
    """Whether details are asked for."""
    return log.isEnabledFor(logging.INFO)


def debugging() -> bool:
    """Whether an error is to come with its traceback."""
    return log.isEnabledFor(logging.DEBUG)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. attack.rate=0.05.")]
Root = Annotated[Path | None, typer.Option("--data-root", envvar="SIDEDOOR_DATA", help="Where data sets lie.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download missing data sets.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of results; a run resumes there.")]
FailOn = Annotated[str, typer.Option(help="finding or suspicious: what exits with 1.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (the second GPU alone) or mps.")]
SpecFile = Annotated[Path, typer.Argument(help="A specification in TOML.", metavar="SPEC.toml")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be run; train nothing.")]
StoreLocks = Annotated[str, typer.Option(
    "--store-locks", help="flock, within one machine, or lease, among all machines that share the folder.")]
Results = Annotated[Path, typer.Argument(help="A folder of results.", metavar="DIR")]
_HABITS = {
    "verbose": Annotated[bool, typer.Option("-v", "--verbose", callback=_sets(logging.INFO), is_eager=True,
                                            help="Say more.")],
    "quiet": Annotated[bool, typer.Option("-q", "--quiet", callback=_sets(logging.ERROR), is_eager=True,
                                          help="Say errors only on stderr, and show no progress.")],
    "debug": Annotated[bool, typer.Option("--debug", callback=_sets(logging.DEBUG), is_eager=True,
                                          help="Say all there is to say, with the traceback of an error.")],
}


def check_fail_on(given: str) -> None:
    """Refuse a verdict that a command cannot fail on, before it works for long."""
    if given not in ("finding", "suspicious"):
        raise ConfigError(f"--fail-on {given} given; expected finding or suspicious")


def exit_by(verdict: str, code: int, fail_on: str) -> None:
    """End with a verdict's exit code, which is 1 for the one that a command is to fail on."""
    if code := 1 if verdict == fail_on else code:
        raise typer.Exit(code)


def with_habits(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options that every one has: -v, -q and --debug, which set how much is said."""
    @functools.wraps(function)
    def command(**given: Any) -> None:
        function(**{name: value for name, value in given.items() if name not in _HABITS})

    own = inspect.signature(function, eval_str=True)
    shared = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hint)
              for name, hint in _HABITS.items()]
    vars(command)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *shared])
    return command


def machine(root: Path | None, download: bool, device: str, silent: bool = False) -> Machine:
    """What a run computes on, and how it shows itself."""
    from sidedoor.bench.machine import Machine
    from sidedoor.core.progress import Silent, reporter

    return Machine(root, download, device, Silent() if silent or quiet() else reporter())


def read_specs(path: Path, settings: list[str], here: Machine, swept: bool | None = None) -> list[Spec]:
    """The cells of a file.

    Args:
        swept: whether it is a sweep file; None: if it has a grid.
    """
    from sidedoor.bench.case import classes_of
    from sidedoor.bench.spec import cells, grid, read

    table = read(path, tuple(settings))
    several = "grid" in table if swept is None else swept
    return grid(table, classes_of(here)) if several else cells(table, classes_of(here))


def open_store(out: Path, locks: str = "flock") -> Store:
    """The store of a folder of results, without what crashes have left half written there.

    Raises:
        ConfigError: it is a file, or there are no such locks.
    """
    from sidedoor.bench.store import Store

    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; expected a folder of results")
    if locks not in ("flock", "lease"):
        raise ConfigError(f"--store-locks {locks} given; expected flock or lease")
    store = Store(out, locks="lease" if locks == "lease" else "flock")
    store.tidy()
    return store


def emit(value: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def say(line: object) -> None:
    """Print a line on stdout."""
    typer.echo(visible(str(line)))


def note(line: object) -> None:
    """Say a line on stderr, unless asked to be quiet."""
    if not quiet():
        typer.echo(visible(str(line)), err=True)
