"""Repairs: the model is changed before it is used."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import numpy as np
import torch

from sidedoor import registry
from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered
from sidedoor.bench.record import Means
from sidedoor.data.base import Subset
from sidedoor.defenses.repair.base import Repair, Step, TunedRepair
from sidedoor.errors import NothingFound
from sidedoor.evaluation import evaluate

log = logging.getLogger("sidedoor")

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
        try:
            return replace(delivered, model=defense.repair(*given))
        except NothingFound as said:
            log.info("%s leaves the model as it is: %s", registry.name_of(defense), said)
            return delivered
    step = defense.chosen(defense.steps(*given))
    repaired = defense.finish(step.model, *given[1:])
    curve, best = _curve(defense, case, trained, delivered)
    columns = {"strength": step.strength} | (_oracle(defense, case, trained, delivered, best) if best else {})
    return replace(delivered, model=repaired, columns=delivered.columns | columns,
                   arrays=delivered.arrays | {"strength_curve": curve})


def _curve(defense: TunedRepair, case: Case, trained: TrainedModel,
           delivered: Delivered) -> tuple[np.ndarray, Step | None]:
    """(strengths, CURVE) by going the path once more, where phases that it has trained are found again; and the step of
    least attack success within `ORACLE_DROP`, None without an attack.
    """
    count = min(len(case.test), CURVE_SAMPLES)
    test, points = Subset(case.test, torch.arange(count) * len(case.test) // count), list[list[float | None]]()
    best, least = None, math.inf
    for step in defense.steps(*case.given(defense, delivered.finished)):
        means = evaluate(step.model, test, case.task, trained.doors, case.run).means()
        clean, attack = means["clean"], means["attack"]
        points.append([step.strength, step.accuracy, clean, attack])
        near = clean is not None and clean >= (points[0][2] or 0.0) - ORACLE_DROP
        if near and attack is not None and attack < least:
            best, least = step._replace(model=copy.deepcopy(step.model)), attack
    return np.array(points, dtype=np.float64), best  # None becomes NaN


def _oracle(defense: TunedRepair, case: Case, trained: TrainedModel, delivered: Delivered, best: Step) -> Means:
    """The strength that test data would choose, and two of the four numbers once it is finished."""
    _, samples, task, run = case.given(defense, delivered.finished)
    finished = defense.finish(best.model, samples, task, replace(run.within("oracle"), history={}))
    means = evaluate(finished, case.test, case.task, trained.doors, case.run).means()
    return {"oracle_strength": best.strength, "oracle_clean": means["clean"], "oracle_attack": means["attack"]}
