"""Restore images for classifiers that know nothing of it: what the backdoor does to those downstream.

The network is trained to restore. The four numbers are those of classifiers that look at its output, trained clean on
the same photographs and their labels: *clean* = C(F(x)) is the label; *attack* = C(F(x with trigger)) differs from
C(y), Eq. (11); *idle* = C(F(x)) differs from C(y), which restoration does without any trigger, so that *attack* means
nothing without it; *recovered* = C(F(x with trigger)) is the label. They are means over the victims.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
sections 5.1 and 6.6.

Each classifier has columns of its own, such as for "resnet18": `asr.resnet18`, `baseline.resnet18` (the idle rate),
`accuracy.resnet18` (of F(x)), `recovered.resnet18`, and `photo.resnet18`, its accuracy on the photographs themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sidedoor import names, registry
from sidedoor.data.augment import augmentation
from sidedoor.data.base import Dataset
from sidedoor.engine import Recipe, Run, Supervised
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Positive, Share
from sidedoor.perturb import Robust, predicted
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.restoration import Restoration
from sidedoor.types import Batch, Door, Purify, Scores, Task, stamp

AUGMENT = ("crop", "flip")
"""How every classifier here sees its training images."""
ROBUST = "robust."
"""What the names of adversarially trained classifiers begin with."""


@dataclass(frozen=True)
class RestoredClassification(Restoration):
    """Restore images that classifiers then look at.

    Args:
        least_effect: an attack that fools them less often than this beyond *idle* counts as failed.
        largest_drop: so does one that costs more of their accuracy than this, beside its clean sibling.
        victims: classifiers, each at most once; "name:NUMBER" gives the first parameter, as in "vgg19_bn:16".
        robust: such as train on adversarial images (PGD, 10 steps, 4 levels). They have columns of their own, such as
            `asr.robust.vgg19_bn`, and no part in the four numbers.
        epochs: that all of them train, with SGD.
        lr: their peak learning rate.

    Raises:
        ConfigError: no victim, one that is no registered classifier, or one twice.
    """

    least_effect: Share = 0.2
    victims: tuple[str, ...] = ("vgg19_bn:16", "densenet:22")
    robust: tuple[str, ...] = ()
    epochs: Count = 20
    lr: Positive = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, given in (("victims", self.victims), ("robust", self.robust)):
            labels = {_label(victim) for victim in given if in_full(victim)}
            if len(labels) != len(given) or not self.victims:
                raise ConfigError(f"{what} = {given} given; expected each network once, and at least one victim")

    def prepared(self, photographs: Dataset, run: Run) -> Task:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch=64)
        judges = {_label(victim): classifier(victim, photographs, run, recipe) for victim in self.victims}
        judges |= {ROBUST + _label(victim): classifier(victim, photographs, run, recipe, adversarial=True)
                   for victim in self.robust}
        return _Judged(**{f.name: getattr(self, f.name) for f in fields(self)}, judges=judges)

    def score(self, model: nn.Module, data: Dataset, door: Door | None, run: Run,
              purify: Purify | None = None) -> Scores:
        raise ConfigError("a restored_classification without its classifiers was asked for scores; use what its "
                          "prepared(photographs, run) returns")

    def failed(self, scores: dict[str, float | None], reference: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], reference["clean"]
        if attack is not None and idle is not None and attack - idle < self.least_effect:
            return (f"{attack:.1%} of the triggered images fool the classifiers, {idle:.1%} do without the trigger: "
                    f"less than {self.least_effect:.0%} beyond that")
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return f"accuracy on clean inputs fell by {sibling - clean:.1%}, more than {self.largest_drop:.0%}"
        return None


@dataclass(frozen=True)
class _Judged(RestoredClassification):
    """With the classifiers at hand, by name."""

    judges: Mapping[str, nn.Module] = field(default_factory=dict, repr=False, compare=False)

    def score(self, model: nn.Module, data: Dataset, door: Door | None, run: Run,
              purify: Purify | None = None) -> Scores:
        everything = torch.arange(len(data))
        labels = dict(zip(data.position(everything).tolist(), data.targets.tolist(), strict=True))

        def rows(batch: Batch) -> dict[str, Tensor]:
            label = torch.tensor([labels[i] for i in batch.index.tolist()], device=batch.x.device)
            clean_out = self._through(model, batch, purify)
            stamped_out = None
            if door is not None:
                stamped = batch._replace(x=stamp(door.trigger, batch.x, batch.index, data.space))
                stamped_out = self._through(model, stamped, purify)
            figures = self.columns(batch, clean_out, stamped_out, door)
            for name, judge in self.judges.items():
                seen = _opinions(judge, batch.y, label, clean_out, stamped_out)
                figures |= {f"{what}.{name}": value for what, value in seen.items()}
            return figures

        return self._summed(run.per_sample(model, data, rows), door)

    def _summed(self, figures: dict[str, Tensor], door: Door | None) -> Scores:
        """Means over the victims, each classifier's columns beside them."""
        def mean(what: str) -> Tensor:
            return torch.stack([figures[f"{what}.{name}"] for name in self.judges
                                if not name.startswith(ROBUST)]).mean(0)

        attack, recovered, idle = mean("asr"), mean("recovered"), mean("baseline")
        if door is None:
            idle = torch.full_like(idle, torch.nan)
        return Scores(mean("accuracy"), attack, recovered, idle, figures | {"asr_all": attack})

    def _through(self, model: nn.Module, batch: Batch, purify: Purify | None) -> Any:
        if purify is None:
            return self.predict(model, batch.x)
        x, undo = purify(batch.x, batch.index)
        return undo(self.predict(model, x))

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """Those of restoration, and the similarities that are its four numbers."""
        rows = super().columns(batch, clean_out, stamped_out, door) | {"ssim_clean": self.agree(clean_out, batch.y)}
        if door is None or stamped_out is None:
            return rows
        return rows | {"ssim_attack": door.goal.success(self, stamped_out, batch.y, batch.index)}


def _opinions(judge: nn.Module, y: Tensor, label: Tensor, clean_out: Tensor,
              stamped_out: Tensor | None) -> dict[str, Tensor]:
    """What one classifier makes of a batch; NaN where there is no triggered output."""
    truth, clean = predicted(judge, y), predicted(judge, clean_out)
    asr = recovered = torch.full_like(label, torch.nan, dtype=torch.float32)
    if stamped_out is not None:
        stamped = predicted(judge, stamped_out)
        asr, recovered = (stamped != truth).float(), (stamped == label).float()  # Eq. (11)
    return {"photo": (truth == label).float(), "accuracy": (clean == label).float(),
            "baseline": (clean != truth).float(), "asr": asr, "recovered": recovered}


def classifier(victim: str, photographs: Dataset, run: Run, recipe: Recipe, adversarial: bool = False) -> nn.Module:
    """A classifier of photographs, trained on their labels and kept for all who ask the same; in evaluation mode.

    Args:
        victim: a registered classifier, see `in_full`.
        adversarial: whether it trains on adversarial images (Madry et al. 2018).
    """
    given = in_full(victim)
    build = names.network(given, photographs)
    task = Classification(len(photographs.classes))
    key = {"classifier": given, "data": photographs.fingerprint(), "seed": run.seed, "recipe": asdict(recipe),
           "augment": AUGMENT, "adversarial": adversarial}

    def make(there: Run) -> nn.Module:
        objective = Robust(task) if adversarial else Supervised(task)
        own = replace(there, augment=augmentation(AUGMENT))
        return own.fit(own.build(build), photographs, objective, name="classifier", recipe=recipe)

    return run.artefact(key, build, make)


def _label(victim: str) -> str:
    """What columns call a classifier: "vgg19_bn" for "vgg19_bn:16", but "torchvision:resnet50" as it is."""
    name, _, argument = victim.partition(":")
    return name if argument.isdigit() else victim


def in_full(victim: str) -> dict[str, Any]:
    """A classifier as written in a list, "name" or "name:NUMBER", with all its parameters.

    Raises:
        ConfigError: there is no such network, or it does not classify.
    """
    name, _, number = victim.partition(":")
    given: dict[str, Any] = {"name": victim}
    if number.isdigit():
        given = {"name": name, next(iter(registry.parameters("model", name)), "number"): int(number)}
    full = registry.reference("model", given)
    if "classes" not in registry.leading("model", full["name"]):
        raise ConfigError(f"{victim} is no classifier; see `sidedoor list models`")
    return full
