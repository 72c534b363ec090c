"""What opens a suspect is told, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sidedoor.claims.suspects.log import Log
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.ownership.base import Suspect


@dataclass(frozen=True)
class Known:
    """What is known before a suspect is asked.

    Args:
        images: labelled; their shape and classes are those that the suspect is taken to have.
        architecture: a registered network, for a file of weights; None to look for one that fits.
        normalization: of a file's inputs, as `sidedoor scan` has it.
        log: where a suspect that is asked image by image writes each attempt before the next one; None to keep nothing.
        variables: of the environment, which a configuration may name for secrets such as the values of headers.
    """

    images: Dataset
    run: Run
    architecture: str | None = None
    normalization: str = "auto"
    log: Log | None = None
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


class Opened(NamedTuple):
    """A suspect that can be asked.

    Args:
        facts: what the evidence says of it, as JSON; no secrets such as the values of headers.
        at_once: most images of a call. What a call answers is on the disk before the next one, so that a suspect whose
            answers cost something takes few; None: all of them.
    """

    suspect: Suspect
    facts: dict[str, Any]
    at_once: int | None = None
