"""What restoration tasks share that are scored by downstream networks, the judges."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Asked, Scores
from sidedoor.types import Batch, Purify
from sidedoor.zoo import Network

ROBUST = "robust."
"""Prefix of the names of adversarially trained judges."""


@dataclass(frozen=True)
class Restored(Restoration):
    """Restore images for downstream networks.

    Args:
        least_effect: an attack whose success exceeds *idle* by less than this counts as failed.
        largest_drop: so does one that costs more of their *clean* number than this, beside its clean sibling.
        victims: the networks, each at most once, as "name" or "name:FIRST_PARAMETER".
        robust: further networks, trained on adversarial images (PGD, 10 steps, 4 levels). They have columns of their
            own, such as `asr.robust.NAME`, and no part in the four numbers.
        epochs: of the training of each.
        lr: their peak learning rate.

    Raises:
        ConfigError: no victim, an unknown or unsuitable network, or one given twice.
    """

    least_effect: Share = 0.2
    victims: tuple[Network, ...] = ()
    robust: tuple[Network, ...] = ()
    epochs: Count = 20
    lr: Positive = 0.05

    right: ClassVar[str] = "accuracy"
    """The column of a judge's accuracy on restored clean inputs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, given in (("victims", self.victims), ("robust", self.robust)):
            labels = {self.label(victim) for victim in given}
            if len(labels) != len(given) or not self.victims:
                raise ConfigError(f"{what} = {given} given; expected each network once, and at least one victim")

    @abstractmethod
    def label(self, victim: str) -> str:
        """The name of a network in columns.

        Raises:
            ConfigError: there is no such network.
        """

    @abstractmethod
    def judge(self, victim: str, photographs: Dataset, run: Run, adversarial: bool) -> nn.Module:
        """A network trained on the photographs, in evaluation mode."""

    @abstractmethod
    def judged(self, judges: Mapping[str, nn.Module]) -> Judged:
        """The task with its judges, by name."""

    def setup(self, photographs: Dataset, run: Run) -> Restoration:
        judges = {self.label(victim): self.judge(victim, photographs, run, False) for victim in self.victims}
        judges |= {ROBUST + self.label(victim): self.judge(victim, photographs, run, True) for victim in self.robust}
        found = super().setup(photographs, run)
        assert isinstance(found, Restored)
        return found.judged(judges)

    def scores(self, model: nn.Module, data: Dataset, doors: Sequence[Door], run: Run, purify: Purify | None = None) \
            -> list[Scores]:
        raise ConfigError(f"a {type(self).__name__} without its networks was asked for scores; use what its "
                          "setup(photographs, run) returns")

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], clean_means["clean"]
        if attack is not None and idle is not None and attack - idle < self.least_effect:
            return (f"{attack:.1%} of the triggered images mislead the networks behind, {idle:.1%} do without the "
                    f"trigger: less than {self.least_effect:.0%} beyond that")
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return f"{self.right} on clean inputs fell by {sibling - clean:.1%}, more than {self.largest_drop:.0%}"
        return None

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Those of restoration, and the similarities that are its four numbers."""
        rows = super().columns(batch, clean_out, stamped_out, door) | {"ssim_clean": self.agree(clean_out, batch.y)}
        if door is None or stamped_out is None:
            return rows
        return rows | {"ssim_attack": self.reached(door.goal, stamped_out, batch.y, batch.index)}


@dataclass(frozen=True)
class Judged(Restored):
    """The task with its trained judges."""

    judges: Mapping[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)

    @abstractmethod
    def truths(self, data: Dataset) -> Tensor:
        """The true answer of a judge for each row."""

    @abstractmethod
    def opinions(self, judge: nn.Module, batch: Batch, truth: Tensor, clean_out: Tensor,
                 stamped_out: Tensor | None) -> dict[str, Tensor]:
        """Columns of one judge for a batch: `right`, "asr", "recovered", "baseline" and further ones."""

    def over_all(self, figures: dict[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
        """The columns, completed by figures of the whole set."""
        return figures

    def scores(self, model: nn.Module, data: Dataset, doors: Sequence[Door], run: Run, purify: Purify | None = None) \
            -> list[Scores]:
        truth = self.truths(data)
        row_of = {place: row for row, place in enumerate(data.position(torch.arange(len(data))).tolist())}

        def rows(batch: Batch, clean_out: Tensor, stamped_out: Tensor | None, door: Door | None) -> dict[str, Tensor]:
            own = truth[[row_of[i] for i in batch.index.tolist()]].to(batch.x.device)
            figures = self.columns(batch, clean_out, stamped_out, door)
            for name, judge in self.judges.items():
                seen = self._counted(judge, batch, own, clean_out, stamped_out)
                figures |= {f"{what}.{name}": value for what, value in seen.items()}
            return figures

        tables = Asked.about(data, self, model, purify, run).tables(data, doors, run, rows)
        return [self._summed(self.over_all(table, truth), bool(doors)) for table in tables]

    def _counted(self, judge: nn.Module, batch: Batch, truth: Tensor, clean_out: Tensor,
                 stamped_out: Tensor | None) -> dict[str, Tensor]:
        """The opinions, in which an output that is not finite is neither right nor misleading."""
        seen = self.opinions(judge, batch, truth, clean_out, stamped_out)
        for output, named in ((clean_out, (self.right, "baseline")), (stamped_out, ("recovered", "asr"))):
            if output is not None:
                seen |= {what: torch.where(self.finite(output), seen[what], 0.0) for what in named}
        return seen

    def _summed(self, figures: dict[str, Tensor], stamped: bool) -> Scores:
        """Means over the victims, each judge's columns beside them."""
        def mean(what: str) -> Tensor:
            return torch.stack([figures[f"{what}.{name}"] for name in self.judges
                                if not name.startswith(ROBUST)]).mean(0)

        attack, recovered, idle = mean("asr"), mean("recovered"), mean("baseline")
        if not stamped:
            idle = torch.full_like(idle, torch.nan)
        return Scores(mean(self.right), attack, recovered, idle, figures | {"asr_all": attack})


def parameters(task: Restored) -> dict[str, Any]:
    """The parameters of a task, to make one of a subclass."""
    return {f.name: getattr(task, f.name) for f in fields(task)}
