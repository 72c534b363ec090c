"""Options and habits that commands share."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidedoor.errors import ConfigError

if TYPE_CHECKING:
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.store import Store

log = logging.getLogger("sidedoor")


def _louder(given: bool) -> bool:
    if given:
        log.setLevel(logging.DEBUG)
    return given


def _quieter(given: bool) -> bool:
    if given:
        log.setLevel(logging.ERROR)
    return given


def quiet() -> bool:
    """Whether only errors are said on stderr."""
    return not log.isEnabledFor(logging.WARNING)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. attack.rate=0.05.")]
Root = Annotated[Path | None, typer.Option("--data-root", envvar="SIDEDOOR_DATA", help="Where data sets lie.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download missing data sets.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of results; a run resumes there.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (the second GPU alone) or mps.")]
SpecFile = Annotated[Path, typer.Argument(help="A specification in TOML.", metavar="SPEC.toml")]
Results = Annotated[Path, typer.Argument(help="A folder of results.", metavar="DIR")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", callback=_louder, is_eager=True,
                                       help="Say on stderr where an error came from.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", callback=_quieter, is_eager=True,
                                     help="Say errors only on stderr, and show no progress.")]


def machine(root: Path | None, download: bool, device: str, devices: int = 1, silent: bool = False) -> Machine:
    """What a run computes on, and how it shows itself."""
    from sidedoor.bench.machine import Machine
    from sidedoor.core.progress import Silent, reporter

    return Machine(root, download, device, devices, Silent() if silent or quiet() else reporter())


def open_store(out: Path) -> Store:
    """The store of a folder of results.

    Raises:
        ConfigError: it is a file.
    """
    from sidedoor.bench.store import Store

    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; expected a folder")
    return Store(out)


def emit(value: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    """Say something on stderr, unless asked to be quiet."""
    if not quiet():
        typer.echo(text, err=True)
