"""What can go wrong, as people are told it: what was given, what was expected, what to do.

Every error carries the exit code of the command line, so nothing above has to guess.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable


class SidedoorError(Exception):
    """A fault that a person can act on. Exit code 1: a run failed."""

    exit_code = 1


class Diverged(SidedoorError):
    """Training produced a loss that is not finite."""


class CannotComplete(SidedoorError):
    """Something outside the run is missing: data, weights, an optional package, room on the disk. Exit code 2."""

    exit_code = 2


class ConfigError(SidedoorError, ValueError):
    """A specification or command line that cannot mean anything. Exit code 4."""

    exit_code = 4


class NotApplicable(ConfigError):
    """A method that has nothing to work on here, such as a pruning of batch norm in a network without any.

    In a study that is a result, the status "not applicable"; where it is all that was asked for, exit code 4.
    """


class NothingFound(NotApplicable):
    """A repair that looked and saw nothing to repair. Exit code 4.

    In a study that is what it delivers: the model as it was, in every average. A method may not leave out the attacks
    that it does not see.
    """


class Interrupted(SidedoorError):
    """Ctrl-C or SIGTERM in a command that keeps nothing to resume from. Exit code 130."""

    exit_code = 130


def unknown(what: str, given: str, known: Iterable[str]) -> ConfigError:
    """The error for a key that is not known, naming the nearest ones that are."""
    names = sorted(set(known))
    near = difflib.get_close_matches(given, names, n=3)
    shown = [*names[:30], f"... ({len(names)} in all)"] if len(names) > 40 else names
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(shown) or 'none'}"
    return ConfigError(f"unknown {what} {given!r}; {hint}")


def located(error: BaseException) -> str:
    """The type and message of an error nobody thought of, with its place in the program."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (at {place.filename}:{place.lineno})"
