"""The command line. Results go to stdout, everything else to stderr; torch is imported only where it is needed.

Exit codes: 0 done, 1 a run failed, 2 could not complete, 4 usage or configuration error, 130 interrupted (resumable).
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Annotated, Any

import typer

from sidedoor.cli import doctor, run, stego, study
from sidedoor.cli import list as listing
from sidedoor.cli._options import Quiet, Verbose, log
from sidedoor.errors import SidedoorError

app = typer.Typer(
    help="Plant backdoors in vision models under a declared threat model, defend against them, and measure both.",
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Newer typer carries its own click, so its exceptions are reached through what typer exports.
_UsageError: Any = typer.BadParameter.__bases__[0]
_INTERRUPTED = 130


def _version(given: bool) -> bool:
    if given:
        import sidedoor

        typer.echo(f"sidedoor {sidedoor.__version__}")
        raise typer.Exit
    return given


@app.callback()
def _sidedoor(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]
    = False,
    verbose: Verbose = False, quiet: Quiet = False,
) -> None:
    """Options before a command."""


app.command("list")(listing.list_)
for _command in (listing.show, listing.schema, run.run, run.sweep, run.report, run.poison):
    app.command()(_command)
app.add_typer(stego.app, name="stego")
app.add_typer(study.app, name="study")
for _command in (doctor.doctor, run.clean):
    app.command()(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    log.setLevel(logging.WARNING)
    code = _code(arguments)
    if code == _INTERRUPTED:
        typer.echo("interrupted; the same command resumes where it stopped", err=True)
    sys.exit(code)


def _code(arguments: list[str] | None) -> int:
    try:
        outcome = app(arguments, prog_name="sidedoor", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # newer typer returns the code itself
        return _INTERRUPTED
    except _UsageError as error:
        error.show()
        return 4
    except SidedoorError as error:
        if log.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        typer.echo(f"sidedoor: {error}", err=True)
        return error.exit_code
    except OSError as error:
        typer.echo(f"sidedoor: {error}", err=True)
        return 2
