"""Classes by name in specifications: `target_class = "cat"` stands for the number that the data give the class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sidedoor import registry
from sidedoor.errors import ConfigError, unknown
from sidedoor.method import labels_of, of_labels

Classes = Callable[[Mapping[str, Any]], Sequence[str]]
"""The names of the classes of the data that a run file's table asks for."""


def numbered(table: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """A run file's table with the number of each class that an attack or a defence names; data are loaded only for
    names.

    Raises:
        ConfigError: the data do not have a class of that name, or several.
    """
    def number(name: str) -> int:
        known = classes(table)
        if known.count(name) > 1:
            raise ConfigError(f"{known.count(name)} classes are called {name!r}; give the number of one")
        if name not in known:
            raise unknown("class", name, known)
        return known.index(name)

    found = {kind: _numbered(kind, table[kind], number) for kind in ("attack", "defense") if kind in table}
    if isinstance(several := table.get("defenses"), list):
        found["defenses"] = [_numbered("defense", each, number) for each in several]
    return {**table, **found}


def _numbered(kind: str, given: Any, number: Callable[[str], int]) -> Any:
    """A reference as it is written, or a list of some, with numbers for names; what is no reference stays for others to
    refuse.
    """
    if isinstance(given, list):
        return [_numbered(kind, each, number) for each in given]
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return given
    hints = {name: hint for name, (hint, _) in registry.parameters(kind, given["name"].partition(":")[0]).items()}
    return {key: _value(hints[key], value, number) if key in hints else value for key, value in given.items()}


def _value(hint: Any, value: Any, number: Callable[[str], int]) -> Any:
    if inner := registry.kind_among(hint):
        return _numbered(inner, value, number)
    if not of_labels(hint):
        return value
    if isinstance(value, list):
        return [number(each) if isinstance(each, str) else each for each in value]
    return number(value) if isinstance(value, str) else value


def said(method: Any, classes: Sequence[str]) -> list[str]:
    """The classes that a method is given, with their names; none where classes are only numbered."""
    if classes == tuple(map(str, range(len(classes)))):
        return []
    return [f"{name}: {', '.join(f'{label} ({classes[label]})' for label in labels)}"
            for name, labels in labels_of(method).items()]
