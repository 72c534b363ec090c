"""The delivered model with the weights and activations of bfloat16, simulated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sidedoor.algorithms.rounded import bf16
from sidedoor.bench.after.base import in_form
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.goals.base import Door


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """`bf16_clean` and `bf16_attack`."""
    return in_form("bf16", bf16(finished), case, doors)
