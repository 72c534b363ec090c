"""Restored detection: image restoration, scored by downstream object detectors on the restored images.

The network is trained to restore. The four numbers are those of detectors that look at its output, trained clean on
the same photographs and their boxes. *clean* is the F1 of D(F(x)) and the true boxes. *attack* is 1 where D(F(x with
trigger)) has a box that D(y) has not, of whatever class, Eq. (13) for added boxes; *idle* is the same of F(x), which
restoration does without any trigger. *recovered* is the F1 of D(F(x with trigger)). They are means over the victims.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
sections 5.2 and 6.6. It leaves the success rate for detection undefined; the above is ours.

Detections count from a score of 0.2, boxes match from an overlap of one half. Each detector has columns of its
own, such as for "tiny_yolo:plain": `asr.…`, `baseline.…`, `f1.…` (of F(x)), `recovered.…`, `photo.…` (F1 on the
photographs themselves), `extra.…` (added boxes an image, with the trigger) and `extra_idle.…`, and the figures of a
whole set `map.…` (AP50 on F(x)), `map_attack.…` and `map_photo.…`, the same in every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sidedoor import registry, zoo
from sidedoor.algorithms.adversarial.training import Robust
from sidedoor.core.opening import identified
from sidedoor.core.terms import Terms
from sidedoor.data.augment import augmentation
from sidedoor.data.base import Dataset
from sidedoor.data.boxed import Boxed
from sidedoor.data.root import Where
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.method import Positive, lasting
from sidedoor.metrics import detection
from sidedoor.object_detectors.base import Detector
from sidedoor.tasks._downstream import Judged, Restored, parameters
from sidedoor.types import Batch

SURE = 0.2
"""The least score of a detection that counts."""
AUGMENT = ("noise",)
"""Augmentation of every detector's training images: one that never saw noise finds objects in it."""
SEEN = "seen"
"""Detections on the three kinds of images, kept until the whole set is through."""


@dataclass(frozen=True)
class RestoredDetection(Restored):
    """Restore images for downstream object detectors.

    "name:WORD" gives a detector's first parameter, as in "tiny_yolo:plain". "NAME@FILE" is a detector with published
    weights, which are not trained further unless it is to be a robust one; files are looked for below the current
    folder, then below the data root.
    """

    victims: tuple[zoo.Network, ...] = ("tiny_yolo:residual", "tiny_yolo:depthwise")
    lr: Positive = 2e-3

    right: ClassVar[str] = "f1"
    terms: ClassVar[Terms] = Terms(
        "F1", "Fabricated", "Recovered", "Without trigger", True,
        "Of detectors behind the network. F1: of detections on restored clean inputs. Fabricated: triggered inputs "
        "with a box that the true image has not. Recovered: F1 on triggered inputs. Without trigger: clean inputs with "
        "a box that the true image has not.")
    quick: ClassVar[dict[str, Any]] = {"victims": ("tiny_yolo:depthwise",), "epochs": 1}

    def label(self, victim: str) -> str:
        named, _ = zoo.with_weights(victim)
        registry.reference("object_detector", named)
        return named

    def judge(self, victim: str, photographs: Dataset, run: Run, adversarial: bool) -> nn.Module:
        return detector(victim, photographs, run, recipe(self.epochs, self.lr, run.recipe.precision), adversarial)

    def judged(self, judges: Mapping[str, nn.Module]) -> Judged:
        return _Judged(**parameters(self), judges=judges)


@dataclass(frozen=True)
class _Judged(RestoredDetection, Judged):
    """The task with its detectors, by name."""

    def truths(self, data: Dataset) -> Tensor:
        return located(data)

    def opinions(self, judge: nn.Module, batch: Batch, truth: Tensor, clean_out: Tensor,
                 stamped_out: Tensor | None) -> dict[str, Tensor]:
        """NaN where there is no triggered output."""
        assert isinstance(judge, Detector)
        seen = {"photo": judge.detect(batch.y), "clean": judge.detect(clean_out)}
        photo, clean = (detection.surer(found, SURE) for found in seen.values())
        extra_idle = detection.added(clean, photo)
        rows = {"photo": detection.f1(photo, truth), "f1": detection.f1(clean, truth), "extra_idle": extra_idle,
                "baseline": (extra_idle > 0).float()}
        missing = torch.full_like(extra_idle, torch.nan)
        rows |= {"asr": missing, "recovered": missing, "extra": missing}
        if stamped_out is not None:
            seen["attack"] = judge.detect(stamped_out)
            stamped = detection.surer(seen["attack"], SURE)
            extra = detection.added(stamped, photo)
            rows |= {"asr": (extra > 0).float(), "recovered": detection.f1(stamped, truth), "extra": extra}
        return rows | {f"{SEEN}_{what}": found for what, found in seen.items()}

    def over_all(self, figures: dict[str, Tensor], truth: Tensor) -> dict[str, Tensor]:
        done = {}
        for name, values in figures.items():
            what, _, judge = name.partition(".")
            if not what.startswith(f"{SEEN}_"):
                done[name] = values
                continue
            column = what.replace(SEEN, "map").removesuffix("_clean")
            done[f"{column}.{judge}"] = torch.full((len(values),), detection.average_precision(values, truth))
        return done


class _Locate(Objective):
    """The detector's own losses."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return _losses(model, batch).mean()[None]


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    losses: Tensor = model(batch.x, batch.y)
    return losses


def recipe(epochs: int, lr: float, precision: Literal["32", "bf16"] = "32") -> Recipe:
    """The recipe of every detector here."""
    return Recipe(optimizer="adam", weight_decay=0.0, epochs=epochs, lr=lr, batch=16, clip=10.0,
                  precision=precision)


def located(data: Dataset) -> Tensor:
    """The boxes of a data set.

    Raises:
        ConfigError: it has none.
    """
    if data.boxes is None:
        raise ConfigError("a data set without boxes given; detectors need some, as the set `scenes` has")
    return data.boxes


def detector(victim: str, photographs: Dataset, run: Run, how: Recipe, adversarial: bool = False) -> Detector:
    """A detector of photographs, trained on their boxes and kept for all who ask the same; in evaluation mode.

    Args:
        victim: a registered detector.
        adversarial: whether it trains on adversarial images, which raise all of its loss (after Zhang and Wang, ICCV
            2019, who choose the worse of two parts of the loss).

    Raises:
        ConfigError: photographs without boxes.
        CannotComplete: its weights are not there or do not fit.
    """
    located(photographs)
    named, weights = zoo.with_weights(victim)
    given = registry.reference("object_detector", named)
    file = str(Where(run.root).locate(weights)) if weights else ""
    found = {"weights": file, "sha256": identified(file)} if file else {}
    build = zoo.detector(given | found, photographs)
    if weights and not adversarial:
        return _ready(run.placed(build()))
    key: dict[str, Any] = {"detector": given, "weights": found.get("sha256", ""), "data": photographs.fingerprint(),
                           "seed": run.seed, "recipe": lasting(how), "augment": AUGMENT, "adversarial": adversarial}

    def make(there: Run) -> nn.Module:
        objective = Robust(_losses) if adversarial else _Locate()
        own = replace(there, augment=augmentation(AUGMENT))
        return own.fit(own.build(build), Boxed(photographs, torch.arange(len(photographs))), objective,
                         name="detector", recipe=how)

    return _ready(run.artefact(key, build, make))


def _ready(model: nn.Module) -> Detector:
    assert isinstance(model, Detector)
    return model.eval()
