"""The command line. Results go to stdout, everything else to stderr; torch is imported only where it is needed.

Exit codes: 0 done, 1 a run failed, 2 could not complete, 4 usage or configuration error, 70 a fault of sidedoor itself,
130 interrupted, by Ctrl-C or SIGTERM (resumable).
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from sidedoor.cli import (
    doctor,
    examples,
    explain,
    export,
    init,
    leaderboard,
    physical,
    plan,
    rank,
    repair,
    risk,
    run,
    scan,
    stego,
    study,
    track,
    verify,
    watermark,
)
from sidedoor.cli import filter as filtering
from sidedoor.cli import list as listing
from sidedoor.cli import map as mapping
from sidedoor.cli._options import debugging, log, with_habits
from sidedoor.core.printable import visible
from sidedoor.errors import SidedoorError, located

app = typer.Typer(
    help="Plant backdoors in vision models under a declared threat model, defend against them, and measure both.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Newer typer carries its own click, so its exceptions are reached through what typer exports.
_UsageError: Any = typer.BadParameter.__bases__[0]
_FAULT, _INTERRUPTED = 70, 130


def _version(given: bool) -> bool:
    if given:
        import sidedoor

        typer.echo(f"sidedoor {sidedoor.__version__}")
        raise typer.Exit
    return given


@app.callback()
@with_habits
def _sidedoor(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
    = False,
) -> None:
    """Options before a command."""


app.command("list")(with_habits(listing.list_))
app.command()(with_habits(scan.scan))
app.command()(with_habits(repair.repair))
app.command("filter")(with_habits(filtering.filter_))
app.command()(with_habits(watermark.watermark))
app.command()(with_habits(verify.verify))
for _command in (listing.show, listing.schema, init.init, examples.examples, run.run, run.sweep, plan.plan, run.report,
                 run.poison, export.export):
    app.command()(with_habits(_command))
app.command("map")(with_habits(mapping.map_))
app.command()(with_habits(explain.explain))
app.command()(with_habits(track.track))
app.command()(with_habits(rank.rank))
app.command()(with_habits(risk.risk))
app.add_typer(leaderboard.app, name="leaderboard")
app.add_typer(stego.app, name="stego")
app.add_typer(study.app, name="study")
app.add_typer(physical.app, name="physical")
for _command in (doctor.doctor, run.clean):
    app.command()(with_habits(_command))


class _OneLine(logging.Formatter):
    """Messages quote names of unknown origin."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return visible(super().formatMessage(record))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # so that no name and no figure is one that cannot be printed
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.WARNING)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _code(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _code(arguments: list[str] | None) -> int:
    try:
        outcome = app(arguments, prog_name="sidedoor", standalone_mode=False)
        return _resumable() if outcome == _INTERRUPTED else outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort) as stop:  # newer typer returns the code itself
        cause = stop.__cause__  # typer takes the end of a file for the end of a terminal
        return _said(cause, _FAULT) if isinstance(cause, EOFError) else _resumable()
    except _UsageError as error:
        error.show()
        return 4
    except SidedoorError as error:
        return _said(error, error.exit_code)
    except (OSError, MemoryError) as error:
        return _said(error, 2)
    except Exception as error:
        return _said(error, _FAULT)


def _resumable() -> int:
    """Say that a command was interrupted that resumes; one that does not raises `Interrupted`."""
    typer.echo("interrupted; what is finished is kept, and the same command resumes where it stopped", err=True)
    return _INTERRUPTED


def _said(error: BaseException, code: int) -> int:
    """Say an error in one line; the traceback only if it is asked for."""
    if debugging():
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    text = str(error) or type(error).__name__
    if code == _FAULT:
        text = (f"{located(error)}; this is a fault of sidedoor, please report it with what the same command prints "
                "with --debug")
    typer.echo(f"sidedoor: {visible(text)}", err=True)
    return code
