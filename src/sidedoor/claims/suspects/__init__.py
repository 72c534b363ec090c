"""Suspects by `KIND:WHERE`; one kind a file."""

from __future__ import annotations

from collections.abc import Callable

from sidedoor.claims.suspects.base import Known, Opened
from sidedoor.claims.suspects.csv import open_csv
from sidedoor.claims.suspects.http import open_http
from sidedoor.claims.suspects.model import open_model
from sidedoor.errors import ConfigError, unknown

KINDS: dict[str, Callable[[str, Known], Opened]] = {"model": open_model, "http": open_http, "csv": open_csv}
"""What opens a suspect of each kind: (what follows the colon, what is known) -> it."""


def open_suspect(text: str, known: Known) -> Opened:
    """The suspect that a command line names, such as "model:suspect.safetensors".

    Raises:
        ConfigError: no such kind.
        CannotComplete: it cannot be opened.
    """
    kind, colon, where = text.partition(":")
    if not colon or not where:
        raise ConfigError(f"the suspect {text!r} given; expected KIND:WHERE, such as model:suspect.safetensors; kinds "
                          f"are {', '.join(KINDS)}")
    if kind not in KINDS:
        raise unknown("kind of suspect", kind, KINDS)
    return KINDS[kind](where, known)
