"""What is written as TOML reads back as the same table."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from fabricated import SPEC
from hypothesis import given
from hypothesis import strategies as st

from sidedoor.errors import ConfigError
from sidedoor.report.toml import dumps

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def test_a_specification_comes_back() -> None:
    assert tomllib.loads(dumps(SPEC)) == without_none(SPEC)


@given(st.dictionaries(text, values, max_size=4))
def test_any_table_comes_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(dumps(table)) == table


def test_none_is_left_out_tuples_are_lists_and_nan_is_a_number() -> None:
    table = tomllib.loads(dumps({"a": None, "b": {"c": None, "d": (1, 2)}, "e": [{"f": None}], "g": math.nan}))
    assert math.isnan(table.pop("g"))
    assert table == {"b": {"d": [1, 2]}, "e": [{}]}


@pytest.mark.parametrize("value", [[None], object()])
def test_what_toml_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be written as TOML"):
        dumps({"a": value})
