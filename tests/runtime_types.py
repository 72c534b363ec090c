"""The checker of annotations that every test runs under: beartype, with jaxtyping's shapes.

A check costs more than a small function does, so that of each function the first calls of every test are checked, and
of the others a few.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import random
import typing
from collections import Counter
from collections.abc import Callable
from types import FunctionType
from typing import Any
from unittest.mock import patch

# Of a list beartype looks at one item at random; no draw may come from the generator that tests watch.
with patch("random.getrandbits", random.Random(0).getrandbits):
    from beartype import BeartypeConf, beartype

FIRST, EVERY = 20, 50
"""How often a function is checked in each test at first, and then: once in so many."""
_typed = beartype(conf=BeartypeConf(is_pep484_tower=True))


class Turns:
    """Says which calls of functions are checked."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()  # by code, which closures share

    def due(self, function: FunctionType) -> bool:
        """Count a call."""
        code = id(function.__code__)
        self.counts[code] += 1
        count = self.counts[code]
        return count <= FIRST or count % EVERY == 0

    def sparing(self, decorate: Callable[..., Any]) -> Callable[..., Any]:
        """`jaxtyping.jaxtyped` that leaves functions as they are in most calls where there are many."""

        def decorator(*, typechecker: Any) -> Callable[[Any], Any]:
            def decorated(function: Any) -> Any:
                if not inspect.isfunction(function):
                    return decorate(function, typechecker=typechecker)
                if "<locals>" in function.__qualname__:  # is decorated anew whenever it is defined
                    return decorate(function, typechecker=typechecker) if self.due(function) else function
                checking = decorate(function, typechecker=typechecker)

                @functools.wraps(checking)
                def either(*args: Any, **kwargs: Any) -> Any:
                    return (checking if self.due(function) else function)(*args, **kwargs)

                return either
            return decorated
        return decorator


turns = Turns()


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check a function's arguments and result once it has returned, so that its own errors come first.

    Of a dataclass its fields are checked as the constructor left them, since it may convert what it is given.
    jaxtyping hands over two stand-ins for each function: one that it calls with the arguments before the call, which
    is left alone, and one that it calls with the arguments and the result, `ret0`, afterwards.
    """
    output = next((name for name in inspect.signature(function).parameters
                   if name.startswith("ret") and name[3:].isdigit()), None)
    if output is None:
        return function
    hints = function.__annotations__
    function.__annotations__ = {name: Any if _beyond(hint) else hint for name, hint in hints.items()}
    typed = functools.cache(lambda: _typed(function))  # most functions are never called in a process

    def afterwards(*args: Any, **kwargs: Any) -> Any:
        if function.__name__ == "__init__" and dataclasses.is_dataclass(args[0]):
            made = {field.name: getattr(args[0], field.name) for field in dataclasses.fields(args[0]) if field.init}
            return typed()(args[0], **made, **{output: None})
        return typed()(*args, **kwargs)

    return afterwards


def _beyond(hint: Any) -> bool:
    """Whether a type says nothing that can be checked at run time: `Self`, files and protocols."""
    return ((typing.get_origin(hint) or hint) in (typing.Self, typing.IO, typing.BinaryIO, typing.TextIO)
            or getattr(hint, "_is_protocol", False) or any(map(_beyond, typing.get_args(hint))))
