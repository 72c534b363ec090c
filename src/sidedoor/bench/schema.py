"""Whether JSON of unknown origin fits the types that a dataclass declares."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import reprlib
import types
import typing
from typing import Annotated, Any

from sidedoor.errors import ConfigError
from sidedoor.method import check

_WORDS = {float: "a number", int: "an integer", str: "text", bool: "true or false", type(None): "null",
          tuple: "a list", list: "a list", dict: "a table"}


def fit(what: str, value: Any, hint: Any) -> None:
    """Fail unless JSON fits a declared type.

    Lists stand for tuples, and tables for dataclasses and typed dictionaries, of which keys that are not declared, and
    fields that the constructor derives, are passed over. Text `Annotated` with a regular expression has to match it.

    Args:
        what: names the value in errors.

    Raises:
        ConfigError: it does not.
    """
    if _is_of(value, hint):
        return
    origin, arguments = _parts(hint)
    if origin in (typing.Union, types.UnionType):
        if not any(_is_of(value, option) for option in arguments) and \
                not any(_fits(value, option) for option in arguments):
            _fit_nearest(what, value, hint, arguments)
    elif origin is Annotated:
        fit(what, value, arguments[0])
        check(what, value, hint)  # bounds
        if any(isinstance(note, re.Pattern) and not note.fullmatch(value) for note in hint.__metadata__):
            raise ConfigError(f"{what} is {reprlib.repr(value)}, which cannot be the name of a file")
    elif origin in (tuple, list):
        _fit_list(what, value, hint, arguments)
    elif origin is dict:
        for key, item in _is(what, value, dict, hint).items():
            fit(f"{what}.{_short(key)}", item, arguments[1])
    elif dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        _fit_fields(what, value, hint)
    else:
        _fit_plain(what, value, hint)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is plainly of a type, which most are; of thousands of records all is asked about."""
    return type(value) is hint and (hint is not float or math.isfinite(value))


@functools.cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(hint), typing.get_args(hint)


def _fits(value: Any, hint: Any) -> bool:
    try:
        fit("", value, hint)
    except ConfigError:
        return False
    return True


def _fit_nearest(what: str, value: Any, hint: Any, options: tuple[Any, ...]) -> None:
    """Fail with what is wrong by the only option that is more than a plain type, if there is one."""
    built = [option for option in options if option not in _WORDS]
    if len(built) == 1 and value is not None:
        fit(what, value, built[0])
    raise ConfigError(f"{what} is {reprlib.repr(value)}; expected {_words(hint)}")


def _fit_list(what: str, value: Any, hint: Any, arguments: tuple[Any, ...]) -> None:
    items = _is(what, value, list | tuple, hint)
    if typing.get_origin(hint) is list or arguments[-1:] == (Ellipsis,):
        arguments = arguments[:1] * len(items)
    if len(items) != len(arguments):
        raise ConfigError(f"{what} has {len(items)} entries; expected {len(arguments)}")
    for n, (item, argument) in enumerate(zip(items, arguments, strict=True)):
        fit(f"{what}[{n}]", item, argument)


def _fit_fields(what: str, value: Any, hint: Any) -> None:
    table = _is(what, value, dict, dict)
    for name, (declared, required) in _declared(hint).items():
        if name in table:
            fit(f"{what}.{name}" if what else name, table[name], declared)
        elif required:
            raise ConfigError(f"{what or 'it'} has no {name}")


def _fit_plain(what: str, value: Any, hint: Any) -> None:
    try:
        check(what, value, hint)
    except ConfigError as error:
        raise ConfigError(f"{what} is {reprlib.repr(value)}; expected {_words(hint)}") from error


def _is(what: str, value: Any, kind: Any, hint: Any) -> Any:
    if not isinstance(value, kind):
        raise ConfigError(f"{what or 'it'} is {reprlib.repr(value)}; expected {_words(hint)}")
    return value


@functools.cache
def _declared(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Field -> (declared type, whether it must be given)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    if typing.is_typeddict(cls):
        return {name: (hint, name in cls.__required_keys__) for name, hint in hints.items()}
    return {field.name: (hints[field.name], field.default is field.default_factory is dataclasses.MISSING)
            for field in dataclasses.fields(cls) if field.init}


def _words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(hint))
    if origin is Annotated:
        return _words(typing.get_args(hint)[0])
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    return _WORDS.get(origin or hint, "a table")


def _short(key: str) -> str:
    return key if len(key) <= 60 else f"{key[:57]}..."
