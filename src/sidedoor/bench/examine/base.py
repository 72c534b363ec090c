"""How each stage of defence changes what is delivered, and what the evaluator, who knows the truth, makes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.bench.case import Case, TrainedModel, train_or_load
from sidedoor.core.files import write_json
from sidedoor.data.base import Subset
from sidedoor.defenses.audits.base import Finding, ModelAudit
from sidedoor.defenses.base import Defense
from sidedoor.defenses.detectors.base import InputDetector
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.repair.base import Repair
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.errors import ConfigError
from sidedoor.evaluate import separation, suspicion
from sidedoor.method import lasting
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch, Purify


@dataclass
class Outcome:
    """What a defence delivers: a model, perhaps a purifier before it; figures of detection or audit, and arrays."""

    model: nn.Module
    purify: Purify | None = None
    detectors: dict[str, float | None] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@singledispatch
def defend(defense: Defense, case: Case, planted: TrainedModel) -> Outcome:
    """Apply a defence to what the attack delivered."""
    raise ConfigError(f"{type(defense).__name__} is of no known stage")


@defend.register
def _(defense: DataFilter, case: Case, planted: TrainedModel) -> Outcome:
    """Score, remove 1.5 times the assumed share of poisoned rows (Tran et al. 2018), train again on the rest."""
    poisoned = PoisonedDataset(case.train, planted.backdoor, case.task)
    sealed, order = seal(poisoned)
    score = defense.score(sealed, case.task, case.build, case.defender())
    keep = score.argsort()[: len(score) - round(1.5 * case.spec.assumed_rate * len(score))].sort().values
    model = case.run.fit(case.run.build(case.build), Subset(sealed, keep), Supervised(case.task), name="retrain")
    truth = poisoned.is_poisoned()[order]
    removed = torch.ones(len(score))
    removed[keep] = 0
    # No clean calibration scores exist for training rows: the operating points are those of the ROC curve itself.
    figures = separation(score[truth == 1], score[truth == 0], score[truth == 0])
    figures |= {"removed_poisoned": _share(removed[truth == 1]), "removed_clean": _share(removed[truth == 0])}
    return Outcome(model, detectors=figures, arrays={"filter_score": score.numpy(), "filter_truth": truth.numpy()})


@defend.register
def _(defense: TrainingDefense, case: Case, planted: TrainedModel) -> Outcome:
    sealed, _ = seal(PoisonedDataset(case.train, planted.backdoor, case.task))
    return Outcome(defense.train(sealed, case.task, case.build, case.defender()))


@defend.register
def _(defense: Repair, case: Case, planted: TrainedModel) -> Outcome:
    return Outcome(defense.repair(*case.given(defense, planted.model)))


@defend.register
def _(defense: Purifier, case: Case, planted: TrainedModel) -> Outcome:
    return Outcome(planted.model, purify=defense.fit(*case.given(defense, planted.model)))


@defend.register
def _(defense: InputDetector, case: Case, planted: TrainedModel) -> Outcome:
    detect = defense.fit(*case.given(defense, planted.model))

    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"suspicion": detect(batch.x, batch.index)}

    calibration = case.run.per_sample(planted.model, case.clean, rows)["suspicion"]
    found = suspicion(detect, case.test, planted.doors, case.task, case.run)
    positive, negative = found["suspicious"], found["innocent"]
    worked = planted.scores.attack[~planted.scores.attack.isnan()] > 0.5
    figures = separation(positive, negative, calibration)
    effective = separation(positive[worked], negative, calibration)
    figures |= {f"{name}_worked": effective[name] for name in ("auroc", "tpr_at_1", "tpr_at_5")}
    arrays = {"suspicious": positive, "innocent": negative, "calibration": calibration, "worked": worked}
    return Outcome(planted.model, detectors=figures, arrays={k: v.numpy() for k, v in arrays.items()})


@defend.register
def _(defense: ModelAudit, case: Case, planted: TrainedModel) -> Outcome:
    """Inspect the model, and clean models trained the same way beside it: the paper's threshold, and their rank."""
    finding = defense.inspect(*case.given(defense, planted.model))
    siblings = [case.twin(case.spec.sibling(case.spec.seed + i)) for i in range(case.spec.references)]
    references = [_reference(defense, sibling) for sibling in siblings]
    audit = {
        "score": finding.score, "threshold": finding.threshold, "flagged": finding.score > finding.threshold,
        "suspected": finding.suspected, "references": references,
        "calibrated": all(finding.score > score for score in references),
        "rank": sum(score >= finding.score for score in references) / len(references),
        "models": [sibling.attack_key for sibling in siblings],
    }
    return Outcome(planted.model, audit=audit, arrays=_pictures(finding, references))


def _reference(defense: ModelAudit, case: Case) -> float:
    """The score of a clean model, kept beside it, since every attack is compared with the same ones."""
    named = json.dumps([registry.plain(defense, lasting), type(defense).version], sort_keys=True)
    path = case.store.folder(case.attack_key) / f"audit-{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"
    with case.alone(case.attack_key + "-audit"):
        if not path.exists():
            score = defense.inspect(*case.given(defense, train_or_load(case).model)).score
            if case.run.fabric.is_global_zero:
                write_json(path, score)
            return score
        return float(json.loads(path.read_text()))


def _pictures(finding: Finding, references: list[float]) -> dict[str, np.ndarray]:
    arrays = {"audit_per_class": np.array(finding.per_class), "audit_references": np.array(references)}
    for name, image in (("audit_trigger", finding.trigger), ("audit_mask", finding.mask)):
        if image is not None:
            arrays[name] = image.detach().cpu().numpy()
    return arrays


def _share(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None
