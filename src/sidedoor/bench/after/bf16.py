"""The delivered model with the weights and activations of bfloat16, simulated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sidedoor.algorithms.rounded import bf16
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.evaluation import evaluate
from sidedoor.goals.base import Door


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """`bf16_clean` and `bf16_attack`."""
    means = evaluate(bf16(finished), case.test, case.task, doors, case.run).means()
    return {"bf16_clean": means["clean"], "bf16_attack": means["attack"]}
