"""Restored classification: image restoration, scored by downstream classifiers of the restored images.

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
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor import registry, zoo
from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.core.opening import identified
from sidedoor.core.terms import Terms
from sidedoor.data.augment import augmentation
from sidedoor.data.base import Dataset
from sidedoor.data.root import Where
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.method import lasting
from sidedoor.tasks._downstream import Judged, Restored, parameters
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch, Images

AUGMENT = ("crop", "flip")
"""Augmentation of every classifier's training images."""


@dataclass(frozen=True)
class RestoredClassification(Restored):
    """Restore images for downstream classifiers.

    "name:NUMBER" gives a classifier's first parameter, as in "vgg19_bn:16".

    "NAME@FILE" is a network with published weights, which are not trained further unless it is to be a robust one.
    Files are looked for below the current folder, then below the data root.
    """

    terms: ClassVar[Terms] = Terms(
        "Accuracy", "Fooled", "Recovered", "Without trigger", True,
        "Of classifiers behind the network. Accuracy: right on restored clean inputs. Fooled: another class than of "
        "the true image, on triggered inputs. Recovered: right on triggered inputs. Without trigger: another class "
        "than of the true image, on clean inputs.")
    quick: ClassVar[dict[str, Any]] = {"victims": ("small_cnn:4",), "epochs": 1}
    victims: tuple[zoo.Network, ...] = ("vgg19_bn:16", "densenet:22")

    def label(self, victim: str) -> str:
        in_full(victim)
        return _label(victim)

    def judge(self, victim: str, photographs: Dataset, run: Run, adversarial: bool) -> nn.Module:
        recipe = Recipe(epochs=self.epochs, lr=self.lr, batch=64, precision=run.recipe.precision)
        return classifier(victim, photographs, run, recipe, adversarial)

    def judged(self, judges: Mapping[str, nn.Module]) -> Judged:
        return _Judged(**parameters(self), judges=judges)


@dataclass(frozen=True)
class _Judged(RestoredClassification, Judged):
    """The task with its classifiers, by name."""

    def truths(self, data: Dataset) -> Tensor:
        return data.targets

    def opinions(self, judge: nn.Module, batch: Batch, truth: Tensor, clean_out: Tensor,
                 stamped_out: Tensor | None) -> dict[str, Tensor]:
        """NaN where there is no triggered output."""
        photo, clean = answers(judge, batch.y), answers(judge, clean_out)
        asr = recovered = torch.full_like(truth, torch.nan, dtype=torch.float32)
        if stamped_out is not None:
            stamped = answers(judge, stamped_out)
            asr, recovered = misled(stamped, photo), (stamped == truth).float()  # Eq. (11)
        return {"photo": (photo == truth).float(), "accuracy": (clean == truth).float(),
                "baseline": misled(clean, photo), "asr": asr, "recovered": recovered}


def answers(judge: nn.Module, x: Images) -> Int[Tensor, "b"]:
    """The most probable class of each image; -1 where the judge's logits are not finite, which is no class."""
    logits = torch.cat([judge(part) for part in torch.split(x, 256)])
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


def misled(answer: Int[Tensor, "b"], photo: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """1 where a judge that has answers to both gives another one than for the true image."""
    return ((answer != photo) & (answer >= 0) & (photo >= 0)).float()


def classifier(victim: str, photographs: Dataset, run: Run, recipe: Recipe, adversarial: bool = False) -> nn.Module:
    """A classifier of photographs, trained on their labels and kept for all who ask the same; in evaluation mode.

    Args:
        victim: a registered classifier, see `in_full`.
        adversarial: whether it trains on adversarial images (Madry et al. 2018).

    Raises:
        CannotComplete: its weights are not there or do not fit.
    """
    given, weights = in_full(victim), zoo.with_weights(victim)[1]
    file = str(Where(run.root).locate(weights)) if weights else ""
    found = {"weights": file, "sha256": identified(file)} if file else {}
    build = zoo.network(given | found, photographs)
    if weights and not adversarial:
        return run.placed(build()).eval()
    task = Classification(len(photographs.classes))
    key = {"classifier": given, "weights": found.get("sha256", ""), "data": photographs.fingerprint(), "seed": run.seed,
           "recipe": lasting(recipe), "augment": AUGMENT, "adversarial": adversarial}

    def make(there: Run) -> nn.Module:
        objective = Robust(task.loss) if adversarial else Supervised(task)
        own = replace(there, augment=augmentation(AUGMENT))
        return own.fit(own.build(build), photographs, objective, name="classifier", recipe=recipe)

    return run.artefact(key, build, make)


def _label(victim: str) -> str:
    """What columns call a classifier: "vgg19_bn" for "vgg19_bn:16", but "torchvision:resnet50" as it is."""
    named, _ = zoo.with_weights(victim)
    name, _, argument = named.partition(":")
    return name if argument.isdigit() else named


def in_full(victim: str) -> dict[str, Any]:
    """A classifier as written in a list, "name" or "name:NUMBER", with all its parameters; "@FILE" is left out.

    Raises:
        ConfigError: there is no such network, or it does not classify.
    """
    named, _ = zoo.with_weights(victim)
    name, _, number = named.partition(":")
    given: dict[str, Any] = {"name": named}
    if number.isdigit():
        given = {"name": name, next(iter(registry.parameters("model", name)), "number"): int(number)}
    full = registry.reference("model", given)
    if "classes" not in registry.leading("model", full["name"]):
        raise ConfigError(f"{victim} is no classifier; see `sidedoor list models`")
    return full
