"""What the four numbers of a task are called, and how they are written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Terms:
    """Names of the clean, attack, recovered and idle number.

    Args:
        shares: whether they are shares, written in percent; else similarities, written with three decimals.
        note: what they mean, in words.
    """

    clean: str
    attack: str
    recovered: str
    idle: str
    shares: bool
    note: str = ""

    def heading(self, name: str) -> str:
        """The heading of a column of one of the four numbers."""
        return f"{getattr(self, name)}{' %' if self.shares else ''}"

    def written(self, value: float | None, missing: str = "–") -> str:
        """One number as tables write it."""
        if value is None or value != value:
            return missing
        return f"{value * 100:.1f}" if self.shares else f"{value:.3f}"

    def to_json(self) -> dict[str, Any]:
        """As records keep it."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Terms:
        """What `to_json` wrote; fields that are not known are left out."""
        return Terms(**{f.name: value[f.name] for f in fields(Terms) if f.name in value})


ANY = Terms("Clean", "Attack", "Recovered", "Idle", False, "The four numbers of the task, in [0, 1].")
"""The terms of a task that names none, and of tables with several tasks."""
