"""Contrastive learning: features of images without their labels, in which rows lie by what they show.

Paper: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations"
(SimCLR), ICML 2020, arXiv:2002.05709.

Poisoned rows agree with their neighbours in everything but the label. Views are the objective's own augmentation. Their
changes come in a fixed order, and images of one channel are changed in brightness and contrast only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.augment import Flip, Jitter
from sidedoor.data.base import Dataset
from sidedoor.engine import Objective, Player, Recipe, Run
from sidedoor.image.geometry import warped
from sidedoor.method import Method, Positive, Share
from sidedoor.models.base import head, penultimate
from sidedoor.triggers.color import hsv, rgb
from sidedoor.types import Batch, Images

OUTPUTS = 128
"""Of the projection behind the features."""
View = Literal["crop", "flip", "jitter", "grey", "blur"]
"""A change that makes a view: a window resized to the whole image, a mirror image, other brightness, contrast,
saturation and hue, no colour, and a Gaussian blur."""
VIEWS: tuple[View, ...] = ("crop", "jitter", "grey", "blur")
"""What suits images of any kind. A mirror image is another digit or road sign, so `flip` is for photographs."""
BRIGHTNESS, HUE = 0.4, 0.1
"""Largest change of brightness, contrast and saturation as a share of 1, and of hue in turns."""
SIGMA = (0.1, 2.0)
"""Bounds of the standard deviation of a blur, in pixels."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Views(Method):
    """Changes of a batch of images at random, each image by its own draws from torch's generators.

    Args:
        changes: in order.
        window: smallest share of the area that a crop keeps, above 0 and at most 1.
    """

    changes: tuple[View, ...] = VIEWS
    window: Share = 0.2

    def __call__(self, x: Images) -> Images:
        known: dict[str, Callable[[Images], Images]] = {
            "crop": lambda x: crop(x, self.window), "flip": lambda x: Flip()(_batch(x)).x,
            "jitter": lambda x: _some(x, jitter(x), 0.8), "grey": lambda x: _some(x, grey(x), 0.2),
            "blur": lambda x: _some(x, blur(x), 0.5)}
        for change in self.changes:
            x = known[change](x)
        return x


def crop(x: Images, window: float) -> Images:
    """A window of each image, of a share of the area from `window` to 1 and sides as 3:4 to 4:3, resized to all of it.
    """
    area = window + (1 - window) * torch.rand(len(x), device=x.device)
    ratio = (math.log(4 / 3) * (2 * torch.rand(len(x), device=x.device) - 1)).exp()
    size = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1).clamp(max=1)
    place = (1 - size) * (2 * torch.rand(len(x), 2, device=x.device) - 1)
    return warped(x, torch.cat([torch.diag_embed(size), place[:, :, None]], 2))


def jitter(x: Images) -> Images:
    """Other brightness and contrast, and of images in colour other saturation and hue."""
    x = Jitter(BRIGHTNESS)(_batch(x)).x
    if x.shape[1] != 3:
        return x
    saturation, turn = 2 * torch.rand(2, len(x), 1, 1, 1, device=x.device) - 1
    hue, *rest = hsv(torch.lerp(grey(x), x, 1 + BRIGHTNESS * saturation).clamp(0, 1)).unbind(1)
    return rgb(torch.stack([(hue + HUE * turn[:, 0]) % 1, *rest], 1))


def grey(x: Images) -> Images:
    """Images in colour without it."""
    if x.shape[1] != 3:
        return x
    return (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True).expand_as(x)


def blur(x: Images) -> Images:
    """Each image under a Gaussian of its own, a tenth of the image wide and mirrored at the edges."""
    b, c, height, width = x.shape
    reach = max(1, round(min(height, width) / 20))
    sigma = SIGMA[0] + (SIGMA[1] - SIGMA[0]) * torch.rand(b, 1, device=x.device)
    place = torch.arange(-reach, reach + 1, device=x.device)
    line = (-(place / sigma).square() / 2).softmax(1).repeat_interleave(c, 0)
    kernels = (line[:, :, None] * line[:, None, :])[:, None]
    padded = functional.pad(x, [reach] * 4, mode="reflect").reshape(1, b * c, height + 2 * reach, width + 2 * reach)
    return functional.conv2d(padded, kernels, groups=b * c).reshape(x.shape)


class Contrastive(Objective, ABC):
    """An objective of two views of each row, and a projection behind the features that is trained beside the model.

    Args:
        views: what makes a view of an image.
        recipe: of the projection, the model's.
        temperature: of the cosines between projected views.
    """

    project: nn.Module

    def __init__(self, views: Views, recipe: Recipe, temperature: float):
        super().__init__()
        self.views, self.recipe, self.temperature = views, recipe, temperature

    def start(self, model: nn.Module, run: Run) -> None:
        width = head(model).weight.shape[1]
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, OUTPUTS)).to(run.device)

    def players(self, model: nn.Module) -> list[Player]:
        return [Player(list(self.project.parameters()), self.recipe)]

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        both = torch.cat([self.views(batch.x), self.views(batch.x)])
        z = functional.normalize(self.project(penultimate(model, both)[1]).float(), dim=1)
        cosines = z @ z.T / self.temperature
        return self.loss(cosines.fill_diagonal_(-torch.inf), batch)[None]

    @abstractmethod
    def loss(self, similarity: Float[Tensor, "2*b 2*b"], batch: Batch) -> Float[Tensor, ""]:
        """Of the cosines over the temperature between all views, the first of each row before the second of each; a
        view's own with itself is minus infinity.
        """


class SimCLR(Contrastive):
    """Tell a row's other view from the views of all other rows (NT-Xent), from both sides."""

    def loss(self, similarity: Tensor, batch: Batch) -> Float[Tensor, ""]:
        return functional.cross_entropy(similarity, partners(len(batch.x), similarity.device))


def partners(count: int, device: torch.device) -> Int[Tensor, "_"]:
    """Where the other view of each view is."""
    return torch.arange(2 * count, device=device).roll(count)


@dataclass(frozen=True)
class Pretraining:
    """How features are learned.

    Args:
        epochs: passes over the data.
        batch: rows a step, at most a quarter of them.
        lr: peak learning rate of SGD, which falls to 0 as a cosine.
        temperature: of the loss.
        views: what makes a view of an image.
    """

    epochs: int
    batch: int
    lr: Positive
    temperature: Positive
    views: Views

    def recipe(self, data: Dataset, run: Run) -> Recipe:
        """SGD with momentum and the published weight decay."""
        return replace(run.recipe, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="cosine", lr=self.lr,
                       epochs=self.epochs, batch=max(2, min(self.batch, len(data) // 4)), patience=0)

    def fit(self, model: nn.Module, data: Dataset, run: Run) -> nn.Module:
        """Train a model's features by SimCLR; its head stays as it is."""
        recipe = self.recipe(data, run)
        objective = SimCLR(self.views, recipe, self.temperature)
        return replace(run, augment=None).fit(model, data, objective, name="contrastive", recipe=recipe)


def _batch(x: Images) -> Batch:
    index = torch.arange(len(x), device=x.device)
    return Batch(x, index, index)


def _some(x: Images, changed: Images, share: float) -> Images:
    """Each image changed with a probability."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < share, changed, x)
