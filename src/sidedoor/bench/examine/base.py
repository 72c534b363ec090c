"""Applying defences to the delivered model, and evaluating them with the truth that only the evaluator has.

A stage is a module of this folder with the stage's name and one function `examine(defense, case, trained, delivered)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.bench.case import Case, TrainedModel
from sidedoor.bench.record import Means
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Defense
from sidedoor.errors import ConfigError
from sidedoor.evidence import Evidence
from sidedoor.tasks.task import Supervised
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class Delivered:
    """What is delivered behind some defences, and what they have found.

    Args:
        model: None once a filter has removed rows, until somebody trains on the rest.
        train: the sealed training data that are left; None before a defence has asked for them.
        truth: for the evaluator alone: of each row of `train`, as `PoisonedDataset.is_poisoned` has it.
        purifiers: fitted ones, in the order in which an input passes them.
        alarms: of each input detector, whether it raises an alarm at each eligible triggered test input.
        columns: further figures of defences, by name.
        seconds: of each defence, by its name.
    """

    model: nn.Module | None
    train: Dataset | None = None
    truth: Float[Tensor, "n"] | None = None
    purifiers: tuple[Purify, ...] = ()
    alarms: tuple[Bool[Tensor, "p"], ...] = ()
    evidence: tuple[Evidence, ...] = ()
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    columns: Means = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> nn.Module:
        """The model, where there is one."""
        if self.model is None:
            raise ConfigError("a filter has removed rows, and no model was trained on the rest")
        return self.model

    @property
    def purify(self) -> Purify | None:
        """All purifiers in one."""
        return composed(self.purifiers) if self.purifiers else None

    def found(self, evidence: Evidence, arrays: dict[str, np.ndarray], **changes: Any) -> Delivered:
        """The same with a piece of evidence and its arrays; where an array of that name is there, a number is added."""
        count = len(self.evidence) + 1
        named = {f"{name}_{count}" if name in self.arrays else name: array for name, array in arrays.items()}
        return replace(self, evidence=(*self.evidence, evidence), arrays=self.arrays | named, **changes)


def composed(purifiers: Sequence[Purify]) -> Purify:
    """Purifiers one after another; outputs are realigned in the opposite order."""
    def purify(x: Images, index: Index) -> tuple[Images, Callable[[Tensor], Tensor]]:
        undone = []
        for each in purifiers:
            x, undo = each(x, index)
            undone.append(undo)

        def back(output: Tensor) -> Tensor:
            for undo in reversed(undone):
                output = undo(output)
            return output

        return x, back

    return purify


def defend(defenses: Sequence[Defense], case: Case, trained: TrainedModel) -> Delivered:
    """Apply defences one after another to the model that the attack led to, or to the data that it was trained on.

    After filters, a model is trained once, before the first defence that looks at one.

    Raises:
        ConfigError: a defence of no known stage.
        NotApplicable: a defence has nothing to work on here.
    """
    delivered = Delivered(trained.model)
    for place, defense in enumerate(defenses):
        start, name = time.monotonic(), registry.name_of(defense)
        if not defense.stage.on_training_data:
            delivered = retrained(delivered, case)
        # The first has the streams that it has alone; a further one has its own.
        own = case if place == 0 else replace(case, step=f"{place}-{name}/")
        after = _examiner(defense)(defense, own, trained, delivered)
        fresh = tuple(replace(e, method=name) for e in after.evidence[len(delivered.evidence):])
        delivered = replace(after, evidence=(*delivered.evidence, *fresh),
                            seconds=after.seconds | {name: time.monotonic() - start})
    return retrained(delivered, case)


def _examiner(defense: Defense) -> Callable[[Defense, Case, TrainedModel, Delivered], Delivered]:
    module = f"{__package__}.{defense.stage}"
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{type(defense).__name__} is of no known stage: {str(defense.stage)!r}")
    found: Callable[[Defense, Case, TrainedModel, Delivered], Delivered] = importlib.import_module(module).examine
    return found


def with_data(delivered: Delivered, case: Case, trained: TrainedModel) -> tuple[Dataset, Float[Tensor, "n"]]:
    """(the sealed training data that are left, the truth about each of their rows)."""
    if delivered.train is not None and delivered.truth is not None:
        return delivered.train, delivered.truth
    poisoned = PoisonedDataset(case.train, trained.backdoor, case.task)
    sealed, order = seal(poisoned)
    return sealed, poisoned.is_poisoned()[order]


def retrained(delivered: Delivered, case: Case) -> Delivered:
    """With the victim's model of the rows that filters have left, where there is none."""
    if delivered.model is not None or delivered.train is None:
        return delivered
    model = case.run.fit(case.run.build(case.build), delivered.train, Supervised(case.task), name="retrain")
    return replace(delivered, model=model)
