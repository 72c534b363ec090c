"""Repairs: the model is changed before it is used."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered
from sidedoor.bench.record import Means
from sidedoor.data.base import Subset
from sidedoor.defenses.repair.base import Repair, TunedRepair
from sidedoor.evaluation import evaluate

CURVE = ("strength", "accuracy", "clean", "attack")
"""Of each strength: itself, accuracy on the defender's samples, and two of the four numbers before it is finished."""
CURVE_SAMPLES = 1000
"""Test samples, spread over the set, that the curve is measured on and the oracle chooses by."""
ORACLE_DROP = 0.1
"""Clean accuracy that the oracle's choice may cost."""


def examine(defense: Repair, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """The repaired model. Of a repair that chooses its strength, every strength is measured once it has delivered, and
    what the least attack success would have led to: test data chose that, so it is no result of the defence.
    """
    given = case.given(defense, delivered.finished)
    if not isinstance(defense, TunedRepair):
        return replace(delivered, model=defense.repair(*given))
    step = defense.chosen(defense.steps(*given))
    repaired = defense.finish(step.model, *given[1:])
    curve = _curve(defense, case, trained, delivered)
    columns = {"strength": step.strength} | _oracle(defense, case, trained, delivered, curve)
    return replace(delivered, model=repaired, columns=delivered.columns | columns,
                   arrays=delivered.arrays | {"strength_curve": curve})


def _curve(defense: TunedRepair, case: Case, trained: TrainedModel, delivered: Delivered) -> np.ndarray:
    """(strengths, CURVE), by going the path once more: phases that it has trained are found again."""
    count = min(len(case.test), CURVE_SAMPLES)
    test, points = Subset(case.test, torch.arange(count) * len(case.test) // count), []
    for step in defense.steps(*case.given(defense, delivered.finished)):
        means = evaluate(step.model, test, case.task, trained.doors, case.run).means()
        points.append([step.strength, step.accuracy, means["clean"], means["attack"]])
    return np.array(points, dtype=np.float64)  # None becomes NaN


def _oracle(defense: TunedRepair, case: Case, trained: TrainedModel, delivered: Delivered, curve: np.ndarray) -> Means:
    """The strength of least attack success within `ORACLE_DROP`, and two of the four numbers once it is finished."""
    strength, _, clean, attack = curve.T
    near = clean >= clean[0] - ORACLE_DROP
    if not (near & np.isfinite(attack)).any():
        return {}
    best = int(np.nanargmin(np.where(near, attack, np.nan)))
    model, samples, task, run = case.given(defense, delivered.finished)
    steps = enumerate(defense.steps(model, samples, task, run))
    found = next(copy.deepcopy(step.model) for n, step in steps if n == best)
    finished = defense.finish(found, samples, task, replace(run.within("oracle"), history={}))
    means = evaluate(finished, case.test, case.task, trained.doors, case.run).means()
    return {"oracle_strength": float(strength[best]), "oracle_clean": means["clean"], "oracle_attack": means["attack"]}
