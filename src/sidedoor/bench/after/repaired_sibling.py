"""The second control of re-activation: a model that was never attacked and went through the same defences.

The first control, in `retuning` and `search`, is the clean sibling as it was trained. A repair may itself make a
network quick to learn a trigger or easy to mislead, which would look like a backdoor that is remembered. So the clean
sibling is repaired, too, and gets the same rows and the same search: what it learns or yields, nobody remembered.

It costs the defences once more, a cell; phases of training are found again by the cells of other attacks.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torch import nn

from sidedoor.bench import after
from sidedoor.bench.case import Case, train_or_load
from sidedoor.bench.examine.base import defend
from sidedoor.bench.record import Means
from sidedoor.goals.base import Door


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """What the specification's re-activations reach with the repaired sibling: `repaired_relearned_5`,
    `repaired_searched`. Nothing where no defence changes a model.
    """
    if clean is None or (repaired := never_attacked(case)) is None:
        return {}
    columns: Means = {}
    for check, name in after.CONTROLLED.items():
        if check in case.spec.after:
            module = importlib.import_module(f"{after.__name__}.{check}")
            columns |= module.reached(case, doors, {f"repaired_{name}": repaired})
    return columns


def never_attacked(case: Case) -> nn.Module | None:
    """What the defences make of the clean sibling; None where none changes a model."""
    spec = case.spec.defended_sibling()
    if spec is None:
        return None
    twin = case.twin(spec)
    with twin.alone(f"{twin.key}-cell"):  # a sweep may run the same cell, with the same phases
        return defend(spec.make_defenses(), twin, train_or_load(twin)).finished
