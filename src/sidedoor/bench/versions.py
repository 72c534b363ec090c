"""The versions that enter the key of a result: of methods, and of the algorithms that they are made of."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType
from typing import Any

from sidedoor import registry
from sidedoor.method import Method, lasting

ALGORITHMS = "sidedoor.algorithms."


def identity(method: Method) -> list[Any]:
    """All of a method that decides what it does: its name and parameters, and versions. What is kept of it is named by
    this.
    """
    return [registry.plain(method, lasting, registry.key_name_of), versions(method)]


def versions(method: Any) -> list[int]:
    """Of a method and of those among its parameters; behind each, those of shared algorithms from 2 on.

    An algorithm's module says its `VERSION`, to be raised when a change of code changes figures; without one it is 1.
    """
    inner = [getattr(method, field.name) for field in fields(method)]
    return [type(method).version, *_raised(type(method)),
            *(version for value in inner if isinstance(value, Method) for version in versions(value))]


def _raised(cls: type) -> list[int]:
    """Versions above 1 of the algorithms that a class and its bases are made of, by the algorithms' names."""
    return [version for module in _algorithms(cls) if (version := getattr(module, "VERSION", 1)) > 1]


@functools.cache
def _algorithms(cls: type) -> tuple[ModuleType, ...]:
    """Modules of the algorithms that a class and its bases are made of, by name."""
    used: dict[str, ModuleType] = {}
    for base in cls.__mro__:
        if base.__module__.startswith("sidedoor."):
            _reach(sys.modules[base.__module__], used)
    return tuple(used[name] for name in sorted(used) if name.startswith(ALGORITHMS))


def _reach(module: ModuleType, seen: dict[str, ModuleType]) -> None:
    """The algorithms and private helpers that a module imports, and what they import."""
    seen[module.__name__] = module
    for name in set(_named(module)) - seen.keys():
        if name.startswith(ALGORITHMS) or name.rpartition(".")[2].startswith("_"):
            _reach(sys.modules[name], seen)


def _named(module: ModuleType) -> Iterator[str]:
    """Modules of the package that a module's names come from."""
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.startswith("sidedoor.") and name in sys.modules:
            yield name
