"""DeBackdoor: a black-box model audit that searches templates of triggers for one that leads to a class.

Paper: Popovic, Sadeghi, Yu, Chawla, Khalil, "DeBackdoor: A Deductive Framework for Detecting Backdoor Attacks on Deep
Models with Limited Data", USENIX Security 2025, arXiv:2503.21305.

Simulated annealing looks for the parameters of a template with which the probability of a class, averaged over a few
clean images of other classes, is highest: a smooth form of the attack success rate. Of the paper's templates ours has
two, a patch of few cells of any place and size and a blend with a coarse picture; the chains of all classes run side by
side. The score is the share of further images that the best trigger of both sends to its class. The paper flags the
same figure above a threshold that it leaves to the user, so no rule stands beside the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.universal_towards import box, of_other_classes
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Exhibit, Finding
from sidedoor.method import Count, Positive, Share
from sidedoor.models.base import Shape
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space

Unit = Float[Tensor, "g p"]
Overlay = tuple[Float[Tensor, "g 1 h w"], Float[Tensor, "g c h w"]]
"""How opaque a trigger is in each pixel, and its values, all in [0, 1]."""
Template = Callable[[Unit, Shape], Overlay]


@dataclass(frozen=True)
class DeBackdoor(ModelAudit):
    """Anneal templates of triggers towards each class by the probabilities that the model gives.

    Args:
        images: clean images of other classes that a chain asks about.
        held_out: images that the triggers found are measured on.
        steps: of annealing, each with one question per image.
        step: standard deviation of a move, as a share of the range of a parameter.
        temperature: at the start, in probability; it falls to 0.
        cells: a patch has so many cells a side.
        largest: side of the largest patch, as a share of the image's.
        opacity: of a blend.
    """

    origins: ClassVar[dict[str, str]] = {
        "images": "ours: the paper has a few images", "held_out": "ours: a standard error of six points",
        "steps": "ours: 2,000 queries a chain", "step": "ours: open", "temperature": "ours: open",
        "cells": "ours: as in BadNets", "largest": "ours: small triggers", "opacity": "ours: as in Blended",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 100, "images": 6, "held_out": 32}
    needs: ClassVar[Needs] = Needs(model="probabilities", clean="images")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_debackdoor.py::test_a_backdoored_model_scores_higher"

    images: Count = 10
    held_out: Count = 64
    steps: Count = 200
    step: Positive = 0.2
    temperature: Positive = 0.02
    cells: Count = 3
    largest: Share = 0.25
    opacity: Share = 0.2

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The success of the best trigger found, and that of each class's best; its class is suspected.

        Raises:
            NotApplicable: the images have no bounded range, or the model gives all of them one class.
        """
        frozen, labels = run.frozen(model), torch.arange(task.classes, device=run.device)
        some = torch.randperm(len(clean), generator=run.rng("images"))[: 4 * (self.images + self.held_out)]
        x = clean.fetch(some, run.device).x
        pool = of_other_classes(frozen, x, labels, self.images + self.held_out, run)
        asked, held_out = pool[:, : self.images], pool[:, self.images :] if pool.shape[1] > self.images else pool
        search = _Search(frozen, x, labels, task, run, box(clean))
        best, shown = torch.zeros(task.classes), torch.zeros(clean.shape)
        for name, template in self.templates().items():
            unit = self._anneal(search, template, asked, name)
            won = search.outcome(template(unit, clean.shape), held_out)[1].cpu()
            if won.max() > best.max():
                shown = torch.mul(*template(unit[won.argmax()][None], clean.shape))[0].cpu()
            best = best.maximum(won)
        top = int(best.argmax())
        return Finding(best[top].item(), suspected=(top,), per_class=tuple(best.tolist()), queries=search.queries,
                       exhibits=(Exhibit("trigger", "picture", "trigger found × opacity", shown),))

    def templates(self) -> dict[str, Template]:
        """Functions of parameters in [0, 1] and the shape of an image."""
        return {"patch": self._patch, "blend": self._blend}

    def _patch(self, unit: Unit, shape: Shape) -> Overlay:
        """Top, left and side, then the cells."""
        channels, height, width = shape
        largest = max(self.largest * min(height, width), 1)
        side = 1 + (unit[:, 2] * (largest - 1)).round()
        top, left = (unit[:, 0] * (height - side)).round(), (unit[:, 1] * (width - side)).round()
        down = (torch.arange(height, device=unit.device) - top[:, None]) / side[:, None]
        right = (torch.arange(width, device=unit.device) - left[:, None]) / side[:, None]
        inside = ((down >= 0) & (down < 1))[:, :, None] & ((right >= 0) & (right < 1))[:, None, :]
        row, column = ((where * self.cells).long().clamp(0, self.cells - 1) for where in (down, right))
        values = unit[:, 3 : 3 + channels * self.cells**2].view(len(unit), channels, self.cells, self.cells)
        each = torch.arange(len(unit), device=unit.device)[:, None, None]
        values = values.transpose(0, 1)[:, each, row[:, :, None], column[:, None]].transpose(0, 1)
        return inside[:, None].float(), values

    def _blend(self, unit: Unit, shape: Shape) -> Overlay:
        """A picture of 4×4 cells, smoothed."""
        values = functional.interpolate(unit[:, : shape[0] * 16].view(len(unit), -1, 4, 4), shape[1:], mode="bilinear")
        return torch.full_like(values[:, :1], self.opacity), values

    def _neighbour(self, now: Unit, rng: torch.Generator) -> Unit:
        """Of each chain a third of the parameters are moved, and about one is drawn anew."""
        moved, drawn, chosen = (torch.rand(now.shape, generator=rng) for _ in range(3))
        near = (now.cpu() + self.step * torch.randn(now.shape, generator=rng) * (moved < 1 / 3)).clamp(0, 1)
        return torch.where(chosen < 1 / now.shape[1], drawn, near).to(now.device)

    def _anneal(self, search: _Search, template: Template, asked: Int[Tensor, "g m"], name: str) -> Unit:
        """The best parameters on the way of each class's chain."""
        (channels, height, width), rng = search.x.shape[1:], search.run.rng(name)
        shape, count = (channels, height, width), max(3 + channels * self.cells**2, 16 * channels)
        now = best = torch.rand(len(asked), count, generator=rng).to(asked.device)
        level = top = search.outcome(template(now, shape), asked)[0]
        with search.run.progress.task(f"annealing of {name}", self.steps) as advance:
            for step in range(self.steps):
                found = search.outcome(template(trial := self._neighbour(now, rng), shape), asked)[0]
                chance = ((found - level) / (self.temperature * (1 - step / self.steps))).exp()
                taken = torch.rand(len(now), generator=rng).to(now.device) < chance
                now, level = torch.where(taken[:, None], trial, now), torch.where(taken, found, level)
                best, top = torch.where((level > top)[:, None], now, best), level.maximum(top)
                advance()
        return best


@dataclass
class _Search:
    """A model that is asked about images with triggers, and how often it was."""

    model: nn.Module
    x: Images
    labels: Int[Tensor, "k"]
    task: Task
    run: Run
    space: Space
    queries: int = 0

    @torch.no_grad()
    def outcome(self, overlay: Overlay, pool: Int[Tensor, "k m"]) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
        """The mean probability of each class for the images of its pool with its trigger, and how often it wins."""
        values, found = overlay[1] * (self.space.high - self.space.low) + self.space.low, []
        for part in self.run.chunks(len(pool), pool.shape[1] * self.x[0].numel()):
            moved = torch.lerp(self.x[pool[part]], values[part, None], overlay[0][part, None]).flatten(0, 1)
            with self.run.autocast():
                found.append(self.task.predict(self.model, moved).view(*pool[part].shape, -1))
            self.queries += len(moved)
        probability = torch.cat(found)
        own = probability.gather(2, self.labels[:, None, None].expand(-1, pool.shape[1], 1))[..., 0]
        return own.mean(1), (probability.argmax(2) == self.labels[:, None]).float().mean(1)
