"""What a specification may say: its keys, their types, defaults and meanings, read from the source of `Spec`, `Recipe`.

Nothing is imported, so that an editor gets its schema at once.
"""

from __future__ import annotations

import ast
import functools
import operator
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, Literal

from sidedoor import method
from sidedoor.cli.describe import Description, meanings, named
from sidedoor.core import source

PAGES = {"spec": "Every key of a specification, which is a run file or, with a grid, a sweep file.",
         "recipe": "Every key of the table `recipe` of a specification.",
         "weights": "Every key of a network's reference that is about the weights it starts from."}
"""Names that `sidedoor show` knows besides those that are registered."""


@dataclass(frozen=True)
class Key:
    """One key of a table.

    Args:
        default: one value, or none where there is no default that a file could say.
    """

    name: str
    hint: Any
    required: bool
    default: tuple[Any, ...]
    meaning: str


class Reference:
    """Stands in hints for a method as it is referred to."""


class Recipe:
    """Stands in hints for the table `recipe`."""


class Grid:
    """Stands in hints for the table `grid`."""


_WORDS = {Reference: "name or table with a name", Recipe: "table, see `sidedoor show recipe`",
          Grid: "table of lists, or several"}
_NAMES = {**vars(method), "Any": Any, "Literal": Literal, "Reference": Reference, "Recipe": Recipe}

_DEFENSES = "instead of `defense`: each is a cell of its own, beside the attack without a defence."
_GRID = ("of a sweep file: lists of values by dotted key, such as seed = [0, 1, 2] or \"attack.rate\" = [0.01, 0.05]; "
         "cells are all their combinations. Several tables [[grid]] are combined each for itself.")
_TIER = "the size of a benchmark that the file is for, such as \"small\"; a word for readers, and part of no result."


def spec_keys() -> tuple[Key, ...]:
    """Those of `Spec`, then those that a file has besides."""
    own = _keys("sidedoor.bench.spec", "Spec")
    one = next(key.hint for key in own if key.name == "defense")
    either = functools.reduce(operator.or_, (option for option in one.__args__ if option is not type(None)))
    return (*own, Key("defenses", GenericAlias(tuple, (either, ...)), False, ([],), _DEFENSES),
            Key("grid", Grid, False, (), _GRID), Key("tier", str, False, ("",), _TIER))


def recipe_keys() -> tuple[Key, ...]:
    """Those of `Recipe`."""
    return _keys("sidedoor.engine", "Recipe")


def weights_keys() -> tuple[Key, ...]:
    """Those of `Weights`, which the reference of a network has besides its parameters."""
    return _keys("sidedoor.zoo", "Weights")


def _keys(module: str, name: str) -> tuple[Key, ...]:
    found = source.definition(module, name)
    assert found is not None
    meaning = meanings(found.docstring)
    return tuple(Key(field, eval(declared, dict(_NAMES)), default is None, _default(default), meaning.get(field, ""))
                 for field, declared, default in found.fields())


def _default(given: ast.expr | None) -> tuple[Any, ...]:
    """What a field's default is, where the source says a plain value."""
    if isinstance(given, ast.Call):
        given = next((k.value.body for k in given.keywords if isinstance(k.value, ast.Lambda)), None)
    try:
        return (ast.literal_eval(given),) if given is not None else ()
    except ValueError:
        return ()


def describe(name: str) -> Description:
    """The page of one of `PAGES`."""
    keys = {"spec": spec_keys, "recipe": recipe_keys, "weights": weights_keys}[name]()
    parameters = {key.name: {"type": named(key.hint, _WORDS), "required": key.required, "meaning": key.meaning}
                  | ({"default": key.default[0]} if key.default else {}) for key in keys}
    return Description(name, "specification", PAGES[name], PAGES[name], "", "", parameters)
