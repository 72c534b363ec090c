"""What becomes of a delivered model afterwards: does its repair last, and does it survive deployment?

A module of this folder has one function `measure(case, doors, finished, clean) -> Means`; its file's name is what a
specification's `after` lists. What it measures becomes further columns of the record.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence

from sidedoor.errors import ConfigError, unknown

CONTROLLED = {"retuning": "relearned", "search": "searched"}
"""Checks that a repaired sibling is a control of, and what its columns are called."""


def known() -> list[str]:
    """Names of all checks."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "base")


def check_names(names: Sequence[str]) -> None:
    """Refuse what is no check.

    Raises:
        ConfigError: an unknown name, or a control of nothing.
    """
    for name in names:
        if name not in known():
            raise unknown("check in `after`", name, known())
    if "repaired_sibling" in names and not set(CONTROLLED) & set(names):
        raise ConfigError("after = repaired_sibling given, which is a control of "
                          f"{' and '.join(CONTROLLED)}; list one of these, too")
