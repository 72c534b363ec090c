"""Making the checks that a specification asks for, and what they share."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sidedoor.bench import after
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.data.base import Dataset
from sidedoor.evaluation import evaluate
from sidedoor.goals.base import Door


def measured_after(names: Sequence[str], case: Case, doors: Sequence[Door], finished: nn.Module,
                   clean: nn.Module | None) -> Means:
    """Columns of all checks.

    Args:
        finished: the delivered model.
        clean: its clean sibling; None where the model was not attacked.
    """
    columns: Means = {}
    for name in names:
        columns |= importlib.import_module(f"{after.__name__}.{name}").measure(case, doors, finished, clean)
    return columns


def in_form(form: str, model: nn.Module, case: Case, doors: Sequence[Door]) -> Means:
    """What a deployed form of the delivered model does, clean and under attack, by the form's name."""
    means = evaluate(model, case.test, case.task, doors, case.run).means()
    return {f"{form}_{name}": means[name] for name in ("clean", "attack")}


def eligible_rows(data: Dataset, case: Case, door: Door, count: int, stream: str) -> Int[Tensor, "k"]:
    """So many rows by seed on which the door's goal means something, fewer where there are fewer."""
    rows = torch.nonzero(door.goal.eligible(case.task, data.targets))[:, 0]
    return rows[torch.randperm(len(rows), generator=case.run.rng(f"after/{stream}"))[:count]]
