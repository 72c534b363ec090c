"""Februus: a purifier that removes the region that speaks most for the prediction and fills it in.

Paper: Doan, Abbasnejad, Ranasinghe, "Februus: Input Purification Defense Against Trojan Attacks on Deep Neural Network
Systems", ACSAC 2020, arXiv:1908.03369.

The region is where Grad-CAM of the predicted class exceeds a threshold. The paper fills it by a generative adversarial
network; ours is no such network but a small U-Net that learned to fill random rectangles of the defender's images by
their absolute errors and those of their edges. The paper's threshold is set for each data set; ours is calibrated on
clean images. A trigger that is all over the image has no region and passes. The last maps of a small network have few
pixels, and an earlier `layer` finds a small trigger better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.features.cut import Cut, cut
from sidedoor.algorithms.restorer import restorer
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.defenses.purifiers.edge_replacement import around
from sidedoor.engine import Objective, Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, Place, Share
from sidedoor.models.base import Shape
from sidedoor.models.unet import unet
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index, Purify

THRESHOLDS = tuple(step / 20 for step in range(1, 20))
"""Of Grad-CAM, from the largest regions to the smallest."""
SMALLEST, LARGEST = 1 / 8, 1 / 2
"""Sides of the rectangles that the U-Net learns to fill, as shares of the image's."""

Region = Bool[Tensor, "b 1 h w"]
Fill = Callable[[Images, Region], Images]


@dataclass(frozen=True)
class Februus(Purifier):
    """Fill the region that Grad-CAM marks for the predicted class.

    The threshold is the lowest one whose regions cover at most `area` of clean images on average, and with which at
    most `largest_drop` of their predictions change.

    Args:
        fill: "mean" colour of clean images, mean of the pixels "around", or "trained", the U-Net.
        area: of the regions, as a share of the image.
        largest_drop: share of clean images.
        layer: stage whose maps Grad-CAM looks at, among those with maps; -1 is the last.
        steps: of the U-Net's training, with 32 images each.
    """

    origins: ClassVar[dict[str, str]] = {
        "fill": "ours: the paper's is a GAN", "area": "ours: more than a patch, less than what it hides",
        "largest_drop": "ours: as much accuracy as a defender may be ready to give",
        "layer": "paper: the last convolution", "steps": "ours: a minute on a CPU",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 2, "largest_drop": 0.5}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")

    fill: Literal["mean", "around", "trained"] = "trained"
    area: Share = 0.1
    largest_drop: Share = 0.05
    layer: Place = -1
    steps: Count = 600

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        """The purifier at the calibrated threshold.

        Raises:
            NotApplicable: the network gives no maps, or every threshold covers or changes too much.
        """
        network = cut(run.frozen(model), clean.shape, self.layer)
        fill = self._fill(network.model, clean, run)
        threshold = self.threshold(network, fill, clean, task, run)

        @torch.no_grad()
        def purify(x: Images, index: Index) -> Images:
            with run.autocast():
                return fill(x, salience(network, x, task)[1] > threshold)

        return in_place(purify)

    def threshold(self, network: Cut, fill: Fill, clean: Dataset, task: Task, run: Run) -> float:
        """The lowest of `THRESHOLDS` that covers and changes little enough of clean images."""
        def areas(batch: Batch) -> dict[str, Tensor]:
            heat = salience(network, batch.x, task)[1]
            return {"area": torch.stack([(heat > each).float().mean((1, 2, 3)) for each in THRESHOLDS], 1)}

        def changes(batch: Batch) -> dict[str, Tensor]:
            label, heat = salience(network, batch.x, task)
            return {"changed": task.predict(network.model, fill(batch.x, heat > threshold)).argmax(1) != label}

        covered = run.per_sample(network.model, clean, areas)["area"].mean(0).tolist()
        for threshold, area in zip(THRESHOLDS, covered, strict=True):
            if area > self.area:
                continue
            if run.per_sample(network.model, clean, changes)["changed"].mean() <= self.largest_drop:
                return threshold
        raise NotApplicable(f"at no threshold of Grad-CAM up to {THRESHOLDS[-1]:g} do regions cover at most "
                            f"{self.area:.0%} of clean images and change at most {self.largest_drop:.0%} of their "
                            f"predictions; at the last they cover {covered[-1]:.0%}; choose another `layer`, or allow "
                            "more")

    def _fill(self, model: nn.Module, clean: Dataset, run: Run) -> Fill:
        if self.fill == "around":
            return around
        means = run.per_sample(model, clean, lambda batch: {"colour": batch.x.mean((2, 3))})["colour"]
        colour = means.mean(0).to(run.device)[:, None, None]
        if self.fill == "mean":
            return lambda x, region: torch.where(region, colour, x)
        (low, high, _), shape = clean.space, clean.shape
        network = restorer(clean, lambda: Inpainting(shape, colour), Filled(), self.steps, run,
                           {"method": "februus", "version": self.version})
        return lambda x, region: torch.where(region, network(x, region).to(x.dtype).clamp(low, high), x)


@torch.no_grad()
def salience(network: Cut, x: Images, task: Task) -> tuple[Int[Tensor, "b"], Float[Tensor, "b 1 h w"]]:
    """Predicted classes and Grad-CAM for them."""
    label = task.predict(network.model, x).argmax(1)
    return label, grad_cam(network, x, label)[:, None]


class Inpainting(nn.Module):
    """A U-Net that is given images without their regions, and where these are."""

    colour: Tensor

    def __init__(self, shape: Shape, colour: Float[Tensor, "c 1 1"]):
        super().__init__()
        self.body = unet((shape[0] + 1, *shape[1:]), 1)
        self.register_buffer("colour", colour)

    def forward(self, x: Images, region: Region) -> Images:
        hollow = torch.cat([torch.where(region, self.colour, x), region.to(x.dtype)], 1)
        output: Tensor = self.body(hollow)[:, :-1]
        return output


class Filled(Objective):
    """Absolute error of filled rectangles, and of the differences between neighbouring pixels."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        region = rectangles(batch.x)
        filled = torch.where(region, model(batch.x, region), batch.x)
        edges = [functional.l1_loss(filled.diff(dim=side), batch.x.diff(dim=side)) for side in (2, 3)]
        return (functional.l1_loss(filled, batch.x) + sum(edges))[None]


def rectangles(x: Images) -> Region:
    """True in a random rectangle about a random place of each image, as far as it lies within."""
    rows, columns = (_spans(len(x), size, x.device) for size in x.shape[2:])
    return rows[:, None, :, None] & columns[:, None, None, :]


def _spans(count: int, size: int, device: torch.device) -> Bool[Tensor, "b size"]:
    length, place = torch.rand(2, count, 1, device=device)
    length = size * (SMALLEST + (LARGEST - SMALLEST) * length)
    inside: Bool[Tensor, "b size"] = (torch.arange(size, device=device) + 0.5 - size * place).abs() <= length / 2
    return inside
