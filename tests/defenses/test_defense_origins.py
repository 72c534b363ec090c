"""Every defence says where its defaults come from, and has quick parameters where the defaults take long."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from sidedoor import registry

DEFENSES = [entry.name for entry in registry.entries() if entry.kind == "defense"]
FROM = re.compile(r"(paper|release|ours)(: \S.*)?")


def parameters(cls: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


def test_there_are_defenses_with_parameters_and_quick_ones() -> None:
    classes = [registry.load("defense", name) for name in DEFENSES]
    assert len(classes) >= 19
    assert sum(map(len, map(parameters, classes))) >= 40
    assert sum(bool(cls.quick) for cls in classes) >= 6


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_says_where_its_defaults_come_from(name: str) -> None:
    cls = registry.load("defense", name)
    assert cls.origins.keys() == parameters(cls)
    for parameter, origin in cls.origins.items():
        assert FROM.fullmatch(origin), (parameter, origin)
        assert origin != "ours", f"{parameter}: say why"


def _amount(value: object) -> int:
    """Of work: a number of things, or things to work through; what is no number of things is no work."""
    return len(value) if isinstance(value, tuple) else value if isinstance(value, int) else 0


@pytest.mark.parametrize("name", DEFENSES)
def test_quick_parameters_are_below_the_defaults(name: str) -> None:
    cls = registry.load("defense", name)
    usual, given = cls(), cls.quick.items()
    less = [name for name, value in given if _amount(value) < _amount(getattr(usual, name))]
    more = [name for name, value in given if _amount(value) > _amount(getattr(usual, name))]
    assert bool(less) is bool(cls.quick)
    assert not more
    cls(**cls.quick)
