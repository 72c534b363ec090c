"""Input detectors: triggered inputs are recognised when they arrive."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.examine.base import Delivered
from sidedoor.data.base import halves
from sidedoor.defenses.detectors.base import InputDetector
from sidedoor.evaluation import evaluate, separation, suspicion
from sidedoor.evidence import Separation
from sidedoor.metrics.statistics import operating_point
from sidedoor.types import Batch

ACCEPTED_FPR = 0.05
"""The nominal rate of false alarms at which an input is accepted or not."""


def examine(defense: InputDetector, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """How well the scores of stamped test images and of their clean originals are apart.

    Half of the defender's clean data fit the detector, the other half set its thresholds: scores of what it was fitted
    on would promise too few false alarms.
    """
    fitting, calibrating = halves(case.clean, case.spec.defender_seed)
    given, model = replace(case, clean=fitting), delivered.finished
    detect, twin = (defense.fit(*given.given(defense, model)) for _ in range(2))

    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"suspicion": detect(batch.x, batch.index)}

    calibration = case.run.per_sample(model, calibrating, rows)["suspicion"]
    found = suspicion((detect, twin), case.test, trained.doors, case.task, case.run)
    positive, negative = found["suspicious"], found["innocent"]
    scores = trained.scores if model is trained.model else \
        evaluate(model, case.test, case.task, trained.doors, case.run)
    worked = scores.attack[~scores.attack.isnan()] > 0.5
    figures = separation(positive, negative, calibration)
    effective = separation(positive[worked], negative, calibration)
    figures |= {f"{name}_worked": effective[name] for name in ("auroc", "tpr_at_1", "tpr_at_5")}
    arrays = {"suspicious": positive, "innocent": negative, "calibration": calibration, "worked": worked}
    threshold = operating_point(positive.numpy(), negative.numpy(), calibration.numpy(), ACCEPTED_FPR)["threshold"]
    return delivered.found(Separation(**figures), {k: v.numpy() for k, v in arrays.items()},
                           alarms=(*delivered.alarms, positive > threshold))
