"""Applying a defence to the delivered model, and evaluating it with the truth that only the evaluator has.

A stage is a module of this folder with the stage's name and one function `examine(defense, case, trained)`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from torch import nn

from sidedoor.bench.case import Case, TrainedModel
from sidedoor.defenses.base import Defense
from sidedoor.errors import ConfigError
from sidedoor.evidence import Evidence
from sidedoor.types import Purify


@dataclass(frozen=True)
class Outcome:
    """The system behind a defence: a model, perhaps a purifier before it, with the evidence and its arrays."""

    model: nn.Module
    purify: Purify | None = None
    evidence: tuple[Evidence, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def defend(defense: Defense, case: Case, trained: TrainedModel) -> Outcome:
    """Apply a defence to the model that the attack led to.

    Raises:
        ConfigError: a defence of no known stage.
        NotApplicable: the defence has nothing to work on here.
    """
    module = f"{__package__}.{defense.stage}"
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{type(defense).__name__} is of no known stage: {str(defense.stage)!r}")
    examine: Callable[[Defense, Case, TrainedModel], Outcome] = importlib.import_module(module).examine
    outcome = examine(defense, case, trained)
    return replace(outcome, evidence=tuple(replace(e, method=case.spec.defense_name) for e in outcome.evidence))
