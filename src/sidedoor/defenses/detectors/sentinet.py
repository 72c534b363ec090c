"""SentiNet: an input detector that pastes the salient region of an input on clean images and counts who follows it.

Paper: Chou, Tramer, Pellegrino, "SentiNet: Detecting Localized Universal Attacks Against Deep Learning Systems", IEEE
Security and Privacy Workshops 2020, arXiv:1812.00292.

The region is what Grad-CAM marks for the prediction. Where it carries a trigger, clean images with it are predicted
like the input; with noise in its place they should keep their predictions, unless the region hides too much of them.
Clean images give pairs of both figures, and a parabola through the upper ends of their bins says how many followers
their regions win at most. Ours counts clean images of other predictions only, proposes no regions for further classes,
and scores by the height above the parabola, where the paper has the distance from it. The last maps of a small network
have few pixels, and the region may lie beside a trigger at the border; an earlier `layer` finds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.features.cut import Cut, cut
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Count, Place, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index

BIN = 0.02
"""Width of the bins of confidence whose highest points the parabola is fitted to."""


@dataclass(frozen=True)
class SentiNet(InputDetector):
    """Score an input by the clean images that follow its salient region, above what regions of clean images win.

    Args:
        images: clean ones that each region is pasted on.
        area: of the region, as a share of the image.
        layer: stage whose maps Grad-CAM looks at, among those with maps; -1 is the last.
    """

    origins: ClassVar[dict[str, str]] = {"images": "paper", "area": "paper: the most salient 15 %",
                                          "layer": "paper: the last convolution"}
    quick: ClassVar[dict[str, Any]] = {"images": 12}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")

    images: Count = 100
    area: Share = 0.15
    layer: Place = -1

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to shares of clean images, above those of clean inputs.

        Raises:
            NotApplicable: the network gives no maps.
        """
        pasting = _Pasting(self, cut(run.frozen(model), clean.shape, self.layer), clean, task, run)

        def rows(batch: Batch) -> dict[str, Tensor]:
            return dict(zip(("confidence", "fooled"), pasting.figures(batch.x, batch.index), strict=True))

        table = run.per_sample(pasting.network.model, clean, rows)
        curve = envelope(table["confidence"], table["fooled"]).to(run.device)

        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            confidence, fooled = pasting.figures(x, index)
            return fooled - powers(confidence) @ curve

        return detect


class _Pasting:
    """Clean images, and what becomes of their predictions with the regions of inputs on them."""

    def __init__(self, method: SentiNet, network: Cut, clean: Dataset, task: Task, run: Run):
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: method.images]
        self.network, self.task, self.run, self.area = network, task, run, method.area
        self.images = clean.fetch(chosen, run.device).x
        self.seed = random.seed_of(run.seed, f"{run.scope}noise")
        self.low, self.high, _ = clean.space
        with torch.no_grad(), run.autocast():
            self.labels = task.predict(network.model, self.images).argmax(1)

    def figures(self, x: Images, index: Index) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """The mean confidence of clean images with noise in the region, and the share of them that follow it."""
        parts = [self.pasted(x[rows], index[rows]) for rows in self.run.chunks(len(x), self.images.numel())]
        confidence, fooled = map(torch.cat, zip(*parts, strict=True))
        return confidence, fooled

    @torch.no_grad()
    def pasted(self, x: Images, index: Index) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        with self.run.autocast():
            label = self.task.predict(self.network.model, x).argmax(1)
            region = salient(grad_cam(self.network, x, label), self.area)[:, None]
            noise = self.low + (self.high - self.low) * random.uniform(self.seed, index, *x.shape[1:])
            inert, followed = (self.answers(torch.where(region, content, 0), region) for content in (noise, x))
        others = (self.labels != label[:, None]).float()
        follow = (followed.argmax(2) == label[:, None]).float()
        return inert.amax(2).mean(1), (follow * others).sum(1) / others.sum(1).clamp(min=1)

    def answers(self, content: Images, region: Bool[Tensor, "b 1 h w"]) -> Float[Tensor, "b n k"]:
        """Probabilities of the clean images with each content in its region."""
        images = torch.where(region[:, None], content[:, None], self.images)
        found: Tensor = self.task.predict(self.network.model, images.flatten(0, 1))
        return found.view(*images.shape[:2], -1)


def salient(heat: Float[Tensor, "b h w"], area: float) -> Bool[Tensor, "b h w"]:
    """The share of the pixels with the largest values."""
    count = max(1, math.ceil(area * heat[0].numel()))
    place: Int[Tensor, "b count"] = heat.flatten(1).topk(count, dim=1).indices
    chosen = torch.zeros_like(heat, dtype=torch.bool).flatten(1).scatter(1, place, True)
    return chosen.view_as(heat)


def envelope(confidence: Float[Tensor, "n"], fooled: Float[Tensor, "n"]) -> Float[Tensor, "3"]:
    """Coefficients of the parabola through the highest points of each bin, flat where there are fewer than three."""
    bins, member = torch.unique((confidence / BIN).floor(), return_inverse=True)
    highest = torch.zeros(len(bins)).scatter_reduce(0, member, fooled, "amax")
    if len(bins) < 3:
        return torch.tensor([highest.max().item(), 0.0, 0.0])
    found: Tensor = torch.linalg.lstsq(powers((bins + 0.5) * BIN).double(), highest[:, None].double()).solution[:, 0]
    return found.float()


def powers(confidence: Float[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    """1, x and x² of each."""
    return confidence[:, None] ** torch.arange(3, device=confidence.device)
