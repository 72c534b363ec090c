"""FeatureRE: a model audit that inverts triggers of input and feature space together, for every class.

Paper: Wang, Mei, Ding, Zhai, Ma, "Rethinking the Reverse-engineering of Trojan Triggers" (FeatureRE), NeurIPS 2022,
arXiv:2210.15127.

The trigger of a warp or a filter is no pattern in the image, but one in the maps of a stage: few features that take the
same values in all triggered images, unlike those of clean images of the target. For each class a generator changes
images a little, and a mask picks features such that their mean, put into maps of other clean images, leads to the
class. The release's statistic of a class is the share of images that become it, less the cosine of the picked features
with those of the class's own clean images, less how far the bounds are exceeded; its rule flags a model in which it is
above 0.75. Both are taken from images that fitted nothing; labels are the model's own.

Ours bounds the mean squared change of images in units of their range, and the spread of features in units of their
mean, for networks differ in scale. The generator adds to the image and is narrow, every class has as many steps, and a
mask is started half open. A single network of the paper's sizes takes it an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.algorithms.adversarial.universal_towards import box, of_other_classes
from sidedoor.algorithms.features.cut import Cut, Maps, cut
from sidedoor.algorithms.inversion.decoupling import recorded
from sidedoor.algorithms.inversion.generator import Descent, alter, distance, generator
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import Count, Place, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space

ENOUGH = 0.9  # success in a batch above which the class is no longer pulled at
FAR, ALIKE, SPREAD, LARGE = 100.0, 5.0, 20.0, 30.0
"""Weights, beside cross-entropy, of excess distance, the cosine, excess spread (the release's), and the mask's size."""
WIDEST = 1.0
"""Spread of picked features above which it is penalised; the release's, in the features' own units."""
SPEED = 10.0
"""How many times as fast as the generator's parameters the argument of the mask moves, as in the release."""


@dataclass(frozen=True)
class FeatureRE(ModelAudit):
    """Invert a generator and a mask of features for every class, and compare success with likeness to the class.

    Args:
        samples: most clean images; half of them fit the generators and masks.
        warm_up: steps of Adam in which images are only led to the class.
        steps: of Adam after these.
        batch: images per step.
        lr: of Adam, for the generator.
        distance: mean squared change of images, in units of the squared range, above which it is penalised.
        size: share of the features above which the mask is.
        width: channels of the generators, at least 4.
        layer: stage whose maps the mask lies on, among those with maps; -1 is the last.
        threshold: of the statistic, above which the model counts as backdoored.
    """

    origins: ClassVar[dict[str, str]] = {
        "samples": "ours: the standard error of a share is below five points",
        "warm_up": "ours: images are led to any class by then; the release has 100 epochs",
        "steps": "ours: as for BTI-DBF; the release has 400 epochs", "batch": "ours: steps count more than images",
        "lr": "ours: as for BTI-DBF", "distance": "ours: 0.02, for values in [0, 1]",
        "size": "release", "width": "ours: a quarter of the release's", "threshold": "release",
        "layer": "paper: the last features before the head",
    }
    quick: ClassVar[dict[str, Any]] = {"warm_up": 5, "steps": 10}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_feature_re.py::test_the_target_of_a_planted_feature_is_named"

    samples: Count = 256
    warm_up: Count = 40
    steps: Count = 80
    batch: Count = 16
    lr: Positive = 0.01
    distance: Positive = 0.02
    size: Share = 0.03
    width: Count = 8
    layer: Place = -1
    threshold: Share = 0.75

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest statistic of a class, and that of each; suspected above the threshold.

        Raises:
            NotApplicable: the network cannot be cut there, the images have no bounded range, there are fewer than four,
                or the model gives all of a half one class.
        """
        frozen, space = run.frozen(model), box(clean)
        parts = cut(frozen, clean.shape, self.layer)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples]
        if len(chosen) < 4:
            raise NotApplicable(f"{len(chosen)} clean images given; expected at least four, of which half are held out")
        fitting, held_out = clean.fetch(chosen, run.device).x.chunk(2)
        labels = torch.arange(task.classes, device=run.device)
        pool, others = (of_other_classes(frozen, half, labels, self.samples, run) for half in (fitting, held_out))
        value, pictures = [0.0] * task.classes, [torch.empty(0)] * task.classes
        for label in range(task.classes):
            search = _Search(self, parts, fitting, label, space, run.within(f"class {label}"))
            search.fit(pool[label])
            value[label], pictures[label] = search.judged(held_out[others[label]])
        best = value.index(max(value))
        rule = Rule(value[best], self.threshold)
        return Finding(rule.value, rule, (best,) if rule.flagged else (), tuple(value), (
            Exhibit("change", "picture", "mean change of images, grey is no change", pictures[best]),))


class _Search:
    """The generator and the mask of a class."""

    def __init__(self, method: FeatureRE, parts: Cut, x: Images, label: int, space: Space, run: Run):
        self.method, self.parts, self.x, self.label, self.space, self.run = method, parts, x, label, space, run
        self.maps, given = recorded(parts, x, run)
        own = self.maps[given == label]
        self.own = own.mean(0) if len(own) else torch.zeros_like(self.maps[0])
        self.network = generator(parts.shape, method.width, space, run)
        self.raw = torch.zeros_like(self.own).requires_grad_(True)

    def fit(self, pool: Int[Tensor, "m"]) -> None:
        """Optimise both on images of other classes."""
        parameters, how = list(self.network.parameters()), self.method
        warm, whole = (Descent(steps, how.batch, how.lr) for steps in (how.warm_up, how.steps))
        warm.minimise(parameters, lambda rows: self.led(pool[rows]), len(pool), self.run, "warm-up")
        whole.minimise([*parameters, self.raw], lambda rows: self.loss(pool[rows]), len(pool), self.run, "features")
        self.network.eval()

    def led(self, rows: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """Cross-entropy towards the class, and the excess distance."""
        with self.run.autocast():
            changed = self.network(x := self.x[rows])
            logits = self.parts.model(changed).float()
        return self.towards(logits) + FAR * (distance(x, changed.float(), self.space) - self.method.distance).relu()

    def loss(self, rows: Int[Tensor, "b"]) -> Float[Tensor, ""]:
        """That of features in the maps of other images, with what the release weighs beside it."""
        mask = torch.sigmoid(SPEED * self.raw)
        with self.run.autocast():
            changed = self.network(x := self.x[rows])
            picked = mask * self.parts.maps(changed).float()
            logits = self.parts.tail((1 - mask) * self.maps[rows.roll(1)] + picked.mean(0)).float()
        pulled = self.towards(logits) * ((logits.argmax(1) == self.label).float().mean() < ENOUGH)
        far = (distance(x, changed.float(), self.space) - self.method.distance).relu()
        wide, large = (spread(picked) - WIDEST).relu(), (mask.mean() - self.method.size).relu()
        return pulled + FAR * far + ALIKE * self.likeness(mask, picked) + SPREAD * wide + LARGE * large

    def towards(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        return -logits.log_softmax(1)[:, self.label].mean()

    def likeness(self, mask: Float[Tensor, "c h w"], picked: Maps) -> Float[Tensor, ""]:
        """The cosine of the picked features with those of the class's own images."""
        return torch.cosine_similarity(picked.mean(0).flatten(), (mask * self.own).flatten(), dim=0)

    def judged(self, x: Images) -> tuple[float, Float[Tensor, "c h w"]]:
        """The statistic on images that fitted nothing, and how they change, in [0, 1]."""
        changed, mask = alter(self.network, x, self.run), torch.sigmoid(SPEED * self.raw.detach())
        picked = mask * recorded(self.parts, changed, self.run)[0]
        flipped = (predicted(self.parts.model, changed) == self.label).float().mean()
        bounds = ((distance(x, changed, self.space), self.method.distance), (spread(picked), WIDEST))
        excess = sum(max(value.item() / bound - 1, 0.0) for value, bound in bounds)
        value = flipped.item() - self.likeness(mask, picked).item() - excess
        change = (changed - x).mean(0).cpu() / (self.space.high - self.space.low) / 2 + 0.5
        return value, change.clamp(0, 1)


def spread(picked: Maps) -> Float[Tensor, ""]:
    """The mean standard deviation of features over images, in units of their mean."""
    return picked.std(0, correction=0).mean() / picked.abs().mean().clamp(min=1e-6)
