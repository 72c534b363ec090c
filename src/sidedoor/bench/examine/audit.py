"""Audits: the model is inspected, and clean models that were trained the same way beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sidedoor import registry
from sidedoor.bench.case import Case, TrainedModel, train_or_load
from sidedoor.bench.examine.base import Delivered
from sidedoor.bench.schema import fit
from sidedoor.bench.versions import identity
from sidedoor.core.files import read_json, write_json
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.errors import CannotComplete
from sidedoor.evidence import Calibrated, Exhibit


def examine(defense: ModelAudit, case: Case, trained: TrainedModel, delivered: Delivered) -> Delivered:
    """What the audit says of the model, and of as many clean models as the specification asks for; no other defence
    has been applied to these.
    """
    finding = defense.inspect(*case.given(defense, delivered.finished))
    clean = [case.twin(spec) for spec in case.spec.clean_models()]
    # In the record an exhibit has the name of its array, among those of everything else.
    kept = tuple(replace(e, name=f"audit_{e.name}", values=None) for e in finding.exhibits)
    told = [_of_clean(defense, twin) for twin in clean]
    found = Calibrated(replace(finding, exhibits=kept, method=registry.name_of(defense)),
                       tuple(each.score for each in told), tuple(twin.attack_key for twin in clean),
                       tuple(each.per_class for each in told if each.per_class))
    return delivered.found(found, {f"audit_{e.name}": _array(e) for e in finding.exhibits})


class _Told(NamedTuple):
    """What an audit says of a clean model, as it is kept; `per_class` is empty in files of earlier versions."""

    score: float
    per_class: tuple[float, ...]


def _of_clean(defense: ModelAudit, case: Case) -> _Told:
    """What it says of a clean model, kept beside it, since every attack is compared with the same ones."""
    named = json.dumps(identity(defense), sort_keys=True)
    path = case.store.folder(case.attack_key) / f"audit-{hashlib.sha256(named.encode()).hexdigest()[:16]}.json"
    with case.alone(case.attack_key + "-audit"):
        if not path.exists():
            finding = defense.inspect(*case.given(defense, train_or_load(case).model))
            if case.run.fabric.is_global_zero:
                write_json(path, {"score": finding.score, "per_class": list(finding.per_class)})
            return _Told(finding.score, finding.per_class)
        return _kept(path)


def _kept(path: Path) -> _Told:
    try:
        told = read_json(path)
        found: dict[str, Any] = told if isinstance(told, dict) else {"score": told, "per_class": []}
        fit("the score", found.get("score"), float)
        fit("the scores of classes", found.get("per_class"), tuple[float, ...])
    except (OSError, ValueError) as error:
        raise CannotComplete(f"cannot read the score in {path}: {error}; delete it to audit the clean model again") \
            from error
    return _Told(float(found["score"]), tuple(found["per_class"]))


def _array(exhibit: Exhibit) -> np.ndarray:
    return torch.as_tensor(exhibit.values).detach().cpu().numpy()
