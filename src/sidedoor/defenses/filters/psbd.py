"""PSBD (prediction shift): a data filter that drops units at random and suspects rows whose prediction stays.

Paper: Li, Chen, Liu, Wang, "Prediction Shift Backdoor Detection", CVPR 2025, arXiv:2406.05826.

The paper puts dropout behind the addition of each residual block, and looks at a model of an early epoch; ours drops
behind every stage of any network that gives maps, by hooks, and looks at the finished model, since no epoch can be
chosen without the truth. The rate of dropout is chosen as in the released code. Rows are ranked; the released
threshold, the lowest quarter of the clean samples, would remove a quarter of the clean rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.features.cut import stages
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.engine import Run, seeded
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class PSBD(GuidedFilter):
    """Score rows by minus how much the probability of their predicted class falls under dropout.

    Under strong dropout a network leans to one class. Where that is the attacker's, all rows of it are suspected, clean
    ones too; where it is another, poisoned rows fall like the rest.

    Args:
        rates: of dropout to choose from, between 0 and 1.
        passes: with dropout, over which probabilities are averaged.
        shift: share of changed predictions of clean samples that a rate must reach to be preferred.

    Raises:
        ConfigError: no rates, or one outside (0, 1).
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"rates": "release", "passes": "paper: k = 3", "shift": "release"}
    quick: ClassVar[dict[str, Any]] = {"passes": 1}
    needs: ClassVar[Needs] = Needs(clean="images", train=True)
    sign_tested_in: ClassVar[str] = "tests/defenses/test_psbd.py::test_a_prediction_that_rests_on_one_strong_unit_stays"

    rates: tuple[Share, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    passes: Count = 3
    shift: Share = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rates or not 0 < min(self.rates) <= max(self.rates) < 1:
            raise ConfigError(f"rates = {self.rates} given; expected at least one, all between 0 and 1")

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """Minus the fall, in [-1, 1].

        Raises:
            NotApplicable: the network has no stage that gives maps.
        """
        model = run.frozen(inspection_model(train, task, build, run))
        names = stages(model, train.shape)
        seen, held = (shifts(model, names, data, self.rates, self.passes, run) for data in (train, clean))
        return -seen.fall[:, chosen(held.changed.mean(0), seen.changed.mean(0), self.shift)]


class Shifts(NamedTuple):
    """What each rate of dropout does to the prediction of each row.

    Args:
        changed: share of the passes in which the predicted class is another one.
        fall: of the predicted class's probability, in the mean of the passes.
    """

    changed: Float[Tensor, "n rates"]
    fall: Float[Tensor, "n rates"]


def shifts(model: nn.Module, names: Sequence[str], data: Dataset, rates: Sequence[float], passes: int,
           run: Run) -> Shifts:
    """Predictions with dropout behind the named modules, compared with those without."""
    def rows(batch: Batch) -> dict[str, Tensor]:
        before, label = torch.softmax(model(batch.x).float(), 1).max(1)
        columns = []
        for rate in rates:
            with dropout(model, names, rate):
                after = torch.stack([torch.softmax(model(batch.x).float(), 1) for _ in range(passes)])
            kept = after.gather(2, label.expand(passes, -1)[..., None])[..., 0]
            columns.append(((after.argmax(2) != label).float().mean(0), before - kept.mean(0)))
        changed, fall = (torch.stack(part, 1) for part in zip(*columns, strict=True))
        return {"changed": changed, "fall": fall}

    with seeded(random.seed_of(run.seed, f"{run.scope}dropout"), run.device):
        table = run.per_sample(model, data, rows)
    return Shifts(table["changed"], table["fall"])


def chosen(clean: Float[Tensor, "rates"], train: Float[Tensor, "rates"], shift: float) -> int:
    """Place of the rate at which clean samples change most often beyond the suspected rows, among those at which a
    share of `shift` of the clean ones changes, if there are any.
    """
    enough = clean >= shift
    gap = clean - train
    return int(gap.where(enough | ~enough.any(), torch.tensor(-torch.inf)).argmax())


@contextlib.contextmanager
def dropout(model: nn.Module, names: Sequence[str], rate: float) -> Iterator[None]:
    """Dropout of values behind the named modules, in evaluation mode too."""
    handles = [model.get_submodule(name).register_forward_hook(
        lambda _module, _given, out: functional.dropout(out, rate)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
