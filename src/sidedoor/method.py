"""What every method is: a frozen dataclass of hyper-parameters, checked against its declared bounds."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from sidedoor.errors import ConfigError


class Bounds(typing.NamedTuple):
    """The closed interval a number must lie in."""

    low: float
    high: float


_INF = float("inf")
Share = Annotated[float, Bounds(0.0, 1.0)]
"""A share in [0, 1]."""
NonNegative = Annotated[float, Bounds(0.0, _INF)]
Positive = Annotated[float, Bounds(1e-300, _INF)]
Count = Annotated[int, Bounds(1, _INF)]
"""An integer of at least 1."""
Whole = Annotated[int, Bounds(0, _INF)]
"""An integer of at least 0."""
Place = Annotated[int, Bounds(-_INF, _INF)]
"""In a list whose length is not known beforehand; -1 is the last."""
Level = Annotated[int, Bounds(0, 255)]
"""A byte, such as an 8-bit level of a pixel."""
class Content(typing.NamedTuple):
    """Marks, in `Annotated`, text that may name files. Keys of results hold what is in them instead of where they lie.

    Args:
        of: (text, data root or None) -> the text with a hash in place of a path; as it is if it names no file.
    """

    of: Callable[[str, Path | None], str]


_LABEL = "label"
Label = Annotated[int, Bounds(0, _INF), _LABEL]
"""A class, from 0; whether the data have it is checked once they are loaded. A specification may give its name."""
LATER = "later"
"""Marks, in `Annotated`, a parameter that a method got after results of it had been kept. Its default means what there
was before; there keys leave it out, so that those results are still found."""


@dataclass(frozen=True)
class Method:
    """Hyper-parameters and nothing else; the one verb is declared by the kind's abstract class.

    Attributes:
        version: part of the key of results: raise it when a change of code changes figures.
        key_name: the name that keys know a renamed method by; empty: its registered one.
        quick: parameters with which it runs in a second on generated data, where its defaults take longer.
        origins: parameter -> where its default comes from: "paper", "release" (the authors' code) or "ours", with the
            place or the reason after a colon where that helps.

    Raises:
        ConfigError: a parameter of the wrong type or outside its bounds.
    """

    version: ClassVar[int] = 1
    key_name: ClassVar[str] = ""
    quick: ClassVar[dict[str, Any]] = {}
    origins: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        cls: Any = type(self)
        for name, hint in hints(cls).items():
            check(f"{type(self).__name__}.{name}", getattr(self, name), hint)


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """The declared type of every field of a dataclass."""
    resolved = typing.get_type_hints(cls, include_extras=True)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls)}


def lasting(method: Any) -> dict[str, Any]:
    """The parameters that tell a method from others of its class, by name: all but those marked `LATER` at defaults."""
    cls: Any = type(method)
    declared = hints(cls)
    return {field.name: value for field in dataclasses.fields(method)
            if (value := getattr(method, field.name)) != field.default or not came_later(declared[field.name])}


def came_later(hint: Any) -> bool:
    """Whether a declared type is marked `LATER`."""
    return LATER in getattr(hint, "__metadata__", ())


def labels_of(method: Any) -> dict[str, tuple[int, ...]]:
    """The classes that a method names, or one among its parameters, by "Class.parameter"."""
    cls: Any = type(method)
    found: dict[str, tuple[int, ...]] = {}
    for name, hint in hints(cls).items():
        value = getattr(method, name)
        if dataclasses.is_dataclass(value):
            found |= labels_of(value)
        elif of_labels(hint):
            found[f"{cls.__name__}.{name}"] = value if isinstance(value, tuple) else (value,)
    return found


def check_labels(method: Any, samples: Sequence[int]) -> None:
    """Fail if a method, or one among its parameters, names a class that the data do not have.

    Args:
        samples: of training, for each class.
    """
    for name, labels in labels_of(method).items():
        given = f"{name} = {labels if len(labels) > 1 else labels[0]} given" if labels else ""
        if max(labels, default=0) >= len(samples):
            raise ConfigError(f"{given}; the data have classes 0 to {len(samples) - 1}")
        if empty := [label for label in labels if samples[label] == 0]:
            raise ConfigError(f"{given}; the training data have no sample of class {empty[0]}: choose another, or give "
                              "more data")


def of_labels(hint: Any) -> bool:
    """Whether a declared type is that of a class, or of several."""
    return is_label(hint) or any(map(of_labels, typing.get_args(hint)))


def is_label(hint: Any) -> bool:
    """Whether a declared type is that of one class."""
    return _LABEL in getattr(hint, "__metadata__", ())


def bounds_of(hint: Any) -> Bounds | None:
    """The interval that a declared type is bound to."""
    return next((a for a in getattr(hint, "__metadata__", ()) if isinstance(a, Bounds)), None)


def check(what: str, value: Any, hint: Any) -> None:
    """Fail if a value does not fit its declared type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds = bounds_of(hint)
        if bounds and isinstance(value, int | float) and not bounds.low <= value <= bounds.high:
            raise ConfigError(f"{what} = {value} given; expected {interval(bounds)}")
        check(what, value, arguments[0])
    elif origin in (typing.Union, types.UnionType):
        _check_union(what, value, hint, arguments)
    elif origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{what} = {value!r} given; expected one of {', '.join(map(repr, arguments))}")
    elif origin is tuple:
        _check_tuple(what, value, arguments)
    elif hint is float and isinstance(value, float) and not math.isfinite(value):  # which JSON cannot write
        raise ConfigError(f"{what} = {value} given; expected a finite number")
    elif not _fits(value, hint):
        raise ConfigError(f"{what} = {value!r} given; expected {getattr(hint, '__name__', hint)}")


def _check_union(what: str, value: Any, hint: Any, arguments: tuple[Any, ...]) -> None:
    for argument in arguments:
        try:
            return check(what, value, argument)
        except ConfigError:
            continue
    raise ConfigError(f"{what} = {value!r} given; expected {hint}")


def _check_tuple(what: str, value: Any, arguments: tuple[Any, ...]) -> None:
    if not isinstance(value, tuple):
        raise ConfigError(f"{what} = {value!r} given; expected a list (in Python a tuple)")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{what} has {len(value)} entries; expected {len(arguments)}")
    for i, (item, argument) in enumerate(zip(value, arguments, strict=True)):
        check(f"{what}[{i}]", item, argument)


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any or hint is None:
        return hint is Any or value is None
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, typing.get_origin(hint) or hint)


def interval(bounds: Bounds) -> str:
    """Bounds in words."""
    if bounds.high == _INF:
        return "a positive number" if bounds.low == 1e-300 else f"at least {bounds.low:g}"
    return f"between {bounds.low:g} and {bounds.high:g}"
