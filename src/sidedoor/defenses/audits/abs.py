"""ABS: a model audit that stimulates single units and recovers a trigger from those that raise one class alone.

Paper: Liu, Lee, Tao, Ma, Aafer, Zhang, "ABS: Scanning Neural Networks for Back-Doors by Artificial Brain Stimulation",
ACM CCS 2019.

A unit, a channel of the maps behind a stage, is set to several levels as a whole; where one class's logit then rises
above all others' for nearly every image, the unit is a candidate of that class. For each candidate a mask and a pattern
are recovered that excite it, and the share of further images of other classes that they send to the class is the score
of the candidate (REASR).

The maps are recorded once, and units, levels and images pass through the rest of the network as one batch; all
candidates of a stage recover their triggers at once. There are as many images of one class as of another, by the
model's own labels, for images of one class alone make that class win. The size of a mask is bounded by a share of the
image, where the released code counts pixels, and penalised in balance with the activation. The loss's terms of other
units, and the paper's second search for triggers that are filters, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.algorithms.adversarial.universal_towards import balanced, box, pools
from sidedoor.algorithms.features.cut import Cut, Maps, cut
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space

LEVELS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Levels of a unit, as multiples of the largest activation of its stage."""
EXCEPTIONS = 2
"""Images on which another class may rise most."""


class Candidates(NamedTuple):
    """Channels of a stage that raise one class alone, and how much more than any other, the strongest first."""

    unit: Int[Tensor, "u"]
    label: Int[Tensor, "u"]
    strength: Float[Tensor, "u"]


@dataclass(frozen=True)
class ABS(ModelAudit):
    """Recover triggers from units that raise one class alone, and measure how well these work.

    Args:
        samples: clean images that units are stimulated on.
        held_out: most further clean images that recovered triggers are measured on.
        stages: how many of the last stages that give maps are searched.
        candidates: most units of each stage that a trigger is recovered from.
        steps: of Adam, for a trigger.
        lr: of Adam.
        size: share of the image above which a mask is penalised.
        weight: of that penalty, beside the activation in multiples of the largest on clean images.
        threshold: success of a trigger above which the model counts as backdoored.
    """

    origins: ClassVar[dict[str, str]] = {
        "samples": "ours: two images a class of ten", "held_out": "ours: the standard error is below four points",
        "stages": "release: the last two", "candidates": "release: 20 in all", "lr": "release",
        "steps": "ours: the release's further 800 change little", "size": "release: 64 pixels of 1024",
        "weight": "ours: with the release's 500 masks on digits stay faint and no trigger works",
        "threshold": "paper: REASR of 0.88",
    }
    quick: ClassVar[dict[str, Any]] = {"samples": 12, "steps": 40, "candidates": 3, "stages": 1}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_abs.py::test_a_backdoored_model_scores_above_its_sibling"

    samples: Count = 20
    held_out: Count = 200
    stages: Count = 2
    candidates: Count = 10
    steps: Count = 200
    lr: Positive = 0.1
    size: Share = 1 / 16
    weight: NonNegative = 1.0
    threshold: Share = 0.88

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The success of the best recovered trigger, and that of each class's best; suspected above the threshold.

        Raises:
            NotApplicable: the network has too few stages that give maps, or the images have no bounded range.
        """
        frozen, space, best = run.frozen(model), box(clean), torch.zeros(task.classes)
        x, others = self._images(frozen, clean, run)
        answers, shown = predicted(frozen, others), torch.zeros(1 + clean.shape[0], *clean.shape[1:])
        for place in range(1, self.stages + 1):
            parts = cut(frozen, clean.shape, -place)
            found = stimulated(parts, x, predicted(frozen, x), self.candidates, run)
            for label, trigger in zip(found.label.tolist(), self.triggers(parts, found.unit, x, space, run),
                                      strict=True):
                moved = stamped(others[answers != label], trigger[None], space)
                success = (predicted(frozen, moved) == label).float().mean().item() if len(moved) else 0.0
                shown = trigger.cpu() if success > best.max() else shown
                best[label] = max(best[label].item(), success)
        rule = Rule(best.max().item(), self.threshold)
        return Finding(rule.value, rule, (int(best.argmax()),) if rule.flagged else (), tuple(best.tolist()),
                       (Exhibit("trigger", "picture", "recovered mask × pattern", shown[:1] * shown[1:]),
                        Exhibit("mask", "mask", "recovered mask", shown[0])))

    def triggers(self, parts: Cut, unit: Int[Tensor, "u"], x: Images, space: Space, run: Run) \
            -> Float[Tensor, "u d h w"]:
        """A mask and a pattern behind it, in [0, 1], for each unit: those that excite it most."""
        channels, height, width = x.shape[1:]
        level = parts.maps(x).amax().clamp(min=1e-6)
        start = torch.randn(len(unit), 1 + channels, height, width, generator=run.rng("triggers")).to(x.device)
        raw = start.requires_grad_(True)
        optimiser = torch.optim.Adam([raw], lr=self.lr)
        with run.progress.task("triggers of units", self.steps) as advance:
            for _ in range(self.steps if len(unit) else 0):
                raw.grad = torch.zeros_like(raw)
                for part in run.chunks(len(unit), x.numel()):
                    trigger = raw[part].sigmoid()
                    with run.autocast():
                        maps = parts.maps(stamped(x, trigger, space)).float().mean((2, 3))
                    excited = maps.view(len(trigger), len(x), -1).mean(1).gather(1, unit[part, None]) / level
                    excess = (trigger[:, 0].mean((1, 2)) / self.size - 1).clamp(min=0)
                    loss = self.weight * excess.sum() - excited.sum()
                    raw.grad += torch.autograd.grad(loss, raw)[0]
                optimiser.step()
                advance()
        return raw.detach().sigmoid()

    def _images(self, model: nn.Module, clean: Dataset, run: Run) -> tuple[Images, Float[Tensor, "m c h w"]]:
        """Images to stimulate units on, as many of one class as of another, and others to measure triggers on."""
        order = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples + self.held_out]
        x = clean.fetch(order, run.device).x
        weights = balanced(predicted(model, x).cpu(), torch.ones(1, len(x)))
        mine = pools(weights, min(self.samples, (len(x) + 1) // 2), run.rng("stimulated"))[0]
        return x[mine], x[torch.ones(len(x), dtype=torch.bool).index_fill_(0, mine, False)]


def stamped(x: Images, trigger: Float[Tensor, "u d h w"], space: Space) -> Float[Tensor, "m c h w"]:
    """All images with each trigger, those with one in a row."""
    mask, pattern = trigger[:, None, :1], trigger[:, None, 1:] * (space.high - space.low) + space.low
    return ((1 - mask) * x + mask * pattern).flatten(0, 1)


@torch.no_grad()
def stimulated(parts: Cut, x: Images, source: Int[Tensor, "n"], most: int, run: Run) -> Candidates:
    """At most so many units that, at some level, raise one class above all others, on images that are not of it.

    Args:
        source: the class that the model gives each image.
    """
    maps = parts.maps(x)
    units = torch.arange(maps.shape[1], device=x.device)
    lift = torch.cat([_lift(parts, maps, units[part]) for part in run.chunks(len(units), len(LEVELS) * maps.numel())])
    label = lift.argmax(2).mode(1).values
    (best, second), winner = lift.topk(2, 2).values.unbind(2), lift.argmax(2)
    foreign, won = source != label[:, None], winner == label[:, None]
    strength = torch.where(foreign & won, best - second, torch.inf).amin(1)
    usable = ((foreign & ~won).sum(1) <= EXCEPTIONS) & strength.isfinite()
    order = torch.where(usable, strength, -torch.inf).argsort(descending=True, stable=True)[: int(usable.sum())][:most]
    return Candidates(order, label[order], strength[order])


def _lift(parts: Cut, maps: Maps, unit: Int[Tensor, "u"]) -> Float[Tensor, "u n k"]:
    """By how much each unit, at its best level, raises the logits of each image."""
    levels = torch.tensor(LEVELS, device=maps.device) * maps.amax()
    trial = maps.expand(len(unit), len(levels), *maps.shape).clone()
    trial[torch.arange(len(unit)), :, :, unit] = levels[None, :, None, None, None]
    logits = parts.tail(trial.flatten(0, 2)).float().view(*trial.shape[:3], -1)
    return logits.amax(1) - logits[:, 0]
