"""What the files hold that a specification's parameters name: they decide results, and where they lie does not."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any

from sidedoor.method import Content, hints


def contents(value: Any, hint: Any, root: Path | None) -> dict[str, str]:
    """Text among a parameter and its parts that names files -> the same with a hash in place of a path.

    Args:
        hint: the declared type; of a method, its class.
        root: the data root, where files may lie.

    Raises:
        CannotComplete: a file is not there or cannot be read.
    """
    named = {text: mark.of(text, root) for text, mark in _marked(value, hint) if text}
    return {text: content for text, content in named.items() if content != text}


def replaced(value: Any, found: dict[str, str]) -> Any:
    """JSON with each text that names files replaced by its content."""
    if isinstance(value, dict):
        return {name: replaced(item, found) for name, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, found) for item in value]
    return found.get(value, value) if isinstance(value, str) else value


def _marked(value: Any, hint: Any) -> Iterator[tuple[str, Content]]:
    """Text in a value whose type is marked, with the mark."""
    if typing.get_origin(hint) is Annotated:
        marks = [mark for mark in hint.__metadata__ if isinstance(mark, Content)]
        yield from ((value, mark) for mark in marks if isinstance(value, str))
        yield from _marked(value, typing.get_args(hint)[0])
    elif is_dataclass(value) and not isinstance(value, type):
        for name, declared in hints(type(value)).items():
            yield from _marked(getattr(value, name), declared)
    elif isinstance(value, tuple | list) and (arguments := typing.get_args(hint)):
        for item in value:
            yield from _marked(item, arguments[0])
