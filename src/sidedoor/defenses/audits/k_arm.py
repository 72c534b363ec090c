"""K-Arm: a model audit by trigger inversion that spends its epochs on the classes most likely to have a small trigger.

Paper: Shen, Liu, Tao, An, Xu, Cheng, Ma, Zhang, "Backdoor Scanning for Deep Neural Networks through K-Arm
Optimization", ICML 2021, arXiv:2102.05123.

Masks and patterns are those of Neural Cleanse. All classes get the same few epochs; then every epoch is one class's: at
random now and then, else that of the class whose mask shrinks fast and is small already. The search is over when the
smallest mask has not become smaller for a while.

Ours differs in what is compared. The paper adds the pixels that a mask loses in an epoch to 10,000 over its size, both
at 224×224. Here each is divided by the largest among the classes, so that neither depends on the size of images.
Classes compete once their parameters could move far enough for masks to differ, and are searched side by side up to
then; the paper waits for two epochs of success. It searches classes that are among a model's first for nearly all clean
images. Others may have a trigger, so ours only puts them in order, and leaves out the last where there are more than
`arms`. Pairs of a source and a target are not searched.

The score is how many times the smallest mask goes into the image, to be compared with that of clean models; the paper's
bound stands beside it. The other classes' masks were pressed for less long, so a median of them says little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidedoor.algorithms.inversion.mask_pattern import Inversion, Schedule, Standing, mask_norm
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class KArm(ModelAudit):
    """Recover small masks by epochs for one class at a time, and compare the smallest with the image.

    Args:
        arms: most classes that are searched.
        rounds: most epochs of all classes together.
        warm_up: most epochs of a class before classes compete.
        explore: share of the epochs that are a random class's.
        samples: clean images per epoch.
        batch: clean images per step.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of the mask's norm that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a mask must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs of a class without a smaller mask before it is finished, once its cost went up and down.
        bound: share of the image below which a mask speaks for a backdoor.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1.
    """

    origins: ClassVar[dict[str, str]] = {
        "arms": "ours: the paper's screening leaves a few",
        "rounds": "ours: as many as Neural Cleanse gives each class",
        "warm_up": "ours: for classes that hardly any mask leads to", "explore": "release",
        "samples": "ours: as Neural Cleanse", "batch": "ours: as Neural Cleanse", "lr": "release",
        "cost": "ours: as Neural Cleanse", "raising": "release", "lowering": "ours: raising^1.5, as in Neural Cleanse",
        "success": "ours: as Neural Cleanse", "patience": "release", "stopping": "release",
        "bound": "paper: 1,720 of 224×224 pixels",
    }
    quick: ClassVar[dict[str, Any]] = {"rounds": 60, "samples": 24, "batch": 8, "lr": 0.3, "cost": 0.02, "patience": 1}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")

    arms: Count = 50
    rounds: Count = 1000
    warm_up: Count = 50
    explore: Share = 0.3
    samples: Count = 1000
    batch: Count = 32
    lr: Positive = 0.1
    cost: Positive = 1e-3
    raising: Positive = 1.5
    lowering: Positive = 1.5**1.5
    success: Share = 0.99
    patience: Count = 5
    stopping: Count = 10
    bound: Share = 1720 / 224**2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """How many times the smallest mask goes into the image; for each class so, and 1 for those without a mask.

        The class is suspected if its mask is below `bound`. The exhibits are those of the smallest mask.

        Raises:
            NotApplicable: no mask for any class, or the images have no bounded range.
        """
        labels = first_classes(model, clean, task.classes, run)[: self.arms]
        inversion = Inversion((mask_norm,), self._schedule(), self.rounds, self.samples, self.batch, self.lr,
                              turns=self._turns, rounds=self.rounds)
        found = inversion.recover(model, clean, labels, run)
        if not found.success.any():
            raise NotApplicable(f"no mask leads to its class in {self.success:.0%} of the images, for none of "
                                f"{len(labels)} classes; give more rounds or a lower `success`")
        _, height, width = clean.shape
        times = torch.ones(task.classes, dtype=torch.float64)
        times[labels] = height * width / found.norm.clamp(min=1e-3)
        best = int(found.norm.argmin())
        mask, rule = found.mask[best], Rule(times.max().item(), 1 / max(self.bound, 1e-9))
        return Finding(times.max().item(), rule, suspected=(labels[best],) if rule.flagged else (),
                       per_class=tuple(times.tolist()),
                       exhibits=(Exhibit("trigger", "picture", inversion.form.caption,
                                         inversion.form.picture(mask, found.pattern[best])),
                                 Exhibit("mask", "mask", "recovered mask", mask[0])))

    def _schedule(self) -> Schedule:
        return Schedule(self.cost, self.raising, self.lowering, self.success, self.patience, self.stopping)

    def _turns(self, standing: Standing, rng: torch.Generator) -> list[int]:
        """All classes that warm up, then one; none once the smallest mask is finished."""
        leader = int(standing.best.argmin())
        if standing.done.all() or (standing.done[leader] and standing.best[leader].isfinite()):
            return []
        warming = ~(standing.done | standing.settled) & (standing.epochs < self.warm_up)
        if warming.any():
            return torch.nonzero(warming)[:, 0].tolist()
        live = torch.nonzero(~standing.done)[:, 0]
        if torch.rand((), generator=rng) < self.explore:
            live = live[torch.randint(len(live), (1,), generator=rng)]
        return [int(live[promise(standing)[live].argmax()])]


def promise(standing: Standing) -> Tensor:
    """How likely each label is to have the smallest mask: how fast its own shrinks, and how small it is, each in [0,
    1] beside the best of the labels.
    """
    speed = standing.speed / standing.speed.max().clamp(min=1e-6)
    return speed + (standing.best.min() / standing.best).nan_to_num(0)


def first_classes(model: nn.Module, clean: Dataset, classes: int, run: Run) -> list[int]:
    """The classes, those first that are among a model's best few for most of the clean images.

    The best few are two of up to eight classes, and a quarter of more.
    """
    few = min(2 if classes <= 8 else round(classes / 4), classes)
    ranks = run.per_sample(model, clean, lambda batch: {"best": model(batch.x).topk(few).indices})["best"]
    order: list[int] = torch.bincount(ranks.flatten().long(), minlength=classes).argsort(
        descending=True, stable=True).tolist()
    return order
