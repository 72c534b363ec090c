"""What audits that recover a mask and a pattern for every class share: the search, and how the smallest stands out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.inversion.forms import Form, Replaced
from sidedoor.algorithms.inversion.mask_pattern import Inversion, Penalty, Recovered, Schedule
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import LATER, Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task

TINY = 1e-12
"""The least size of a trigger, far below that of one pixel in a photograph: where a model gives one class for
everything, a mask may vanish."""


@dataclass(frozen=True)
class MaskInversionAudit(ModelAudit, ABC):
    """An audit that compares the triggers it recovers for each class, by how small they are.

    Args:
        epochs: most epochs per class.
        samples: clean images per epoch.
        batch: clean images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of the penalties that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a mask must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs without a smaller mask before a class is finished, once its cost went up and down.
        threshold: anomaly index above which the model counts as backdoored.
        margin: a class is left once its mask is this many times as large as the smallest was by then; 0: never.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1, or `margin` is neither 0 nor above 1.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "release", "samples": "release", "batch": "release", "lr": "release", "cost": "release",
        "raising": "release", "lowering": "release", "success": "paper: over 99 % of the images",
        "patience": "release", "stopping": "release", "threshold": "paper: an outlier with a probability over 95 %",
        "margin": "ours: every class to its end, as in the paper; 1.25 takes a third of the steps on 16×16 digits",
    }
    quick: ClassVar[dict[str, Any]] = {"epochs": 12, "samples": 24, "batch": 8, "lr": 0.3, "cost": 0.02, "patience": 1}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")
    form: ClassVar[Form] = Replaced()

    epochs: Count = 1000
    samples: Count = 1000
    batch: Count = 32
    lr: Positive = 0.1
    cost: Positive = 1e-3
    raising: Positive = 2.0
    lowering: Positive = 2.0**1.5
    success: Share = 0.99
    patience: Count = 5
    stopping: Count = 25
    threshold: NonNegative = 2.0
    margin: Annotated[NonNegative, LATER] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()

    @abstractmethod
    def penalties(self) -> tuple[Penalty, ...]:
        """What a mask and a pattern cost."""

    @abstractmethod
    def size(self, found: Recovered) -> Float[Tensor, "k"]:
        """How large each recovered trigger is, in any unit."""

    @abstractmethod
    def scale(self, size: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        """The sizes on the scale on which the paper looks for an outlier."""

    @final
    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """How many times the smallest recovered trigger goes into the median one; `per_class` has it for each class.

        The paper's rule stands beside it where the anomaly index says something: for three classes or more, and masks
        for more than half of them. A class is suspected if it passes that rule. The exhibits are those of the smallest
        trigger, whether or not its class does.

        Raises:
            NotApplicable: no mask for any class.
        """
        found = self.recover(model, clean, range(task.classes), run)
        if not found.success.any():
            raise NotApplicable(f"no mask leads to its class in {self.success:.0%} of the images, for none of "
                                f"{task.classes} classes; give more epochs or a lower `success`")
        size = self.size(found).clamp(min=TINY)
        smallest = int(size.argmin())
        suspicion = size.quantile(0.5) / size
        rule = self._rule(found, size)
        return Finding(suspicion[smallest].item(), rule, suspected=(smallest,) if rule and rule.flagged else (),
                       per_class=tuple(suspicion.tolist()), exhibits=self._exhibits(found, smallest))

    @final
    def recover(self, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run) -> Recovered:
        """The smallest successful mask and its pattern for each of the labels, on the CPU.

        Raises:
            NotApplicable: the images have no bounded range.
        """
        inversion = Inversion(self.penalties(), self._schedule(), self.epochs, self.samples, self.batch, self.lr,
                              self.form)
        return inversion.recover(model, clean, labels, run)

    def _schedule(self) -> Schedule:
        return Schedule(self.cost, self.raising, self.lowering, self.success, self.patience, self.stopping, self.margin)

    def _rule(self, found: Recovered, size: Float[Tensor, "k"]) -> Rule | None:
        """The paper's, or None where the anomaly index of the smallest is a constant."""
        if len(size) < 3 or 2 * int(found.success.sum()) <= len(size):
            return None
        return Rule(anomaly_index(self.scale(size)).max().item(), self.threshold)

    def _exhibits(self, found: Recovered, label: int) -> tuple[Exhibit, ...]:
        trigger = self.form.picture(found.mask[label], found.pattern[label])
        return (Exhibit("trigger", "picture", self.form.caption, trigger),
                Exhibit("mask", "mask", "recovered mask", found.mask[label, 0]))
