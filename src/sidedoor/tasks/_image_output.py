"""What tasks with image outputs share: the loss, the prediction, and the similarity of two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.method import Method
from sidedoor.metrics import image_quality
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class Imaging(Method, Task):
    """Outputs are images (b, c, h, w) in [0, 1], targets the photographs.

    Of a network that returns several images, one per stage, the first is the result and all are trained.
    """

    binary: ClassVar[bool] = False
    output: ClassVar[str] = "image"

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, "b"]:
        losses = [self.distance(image, batch.y) for image in images(model(batch.x))]
        return torch.stack(losses).sum(0)

    def predict(self, model: nn.Module, x: Images) -> Images:
        """The result, clipped; NaN where it is infinite, which clipping would make a black or a white pixel."""
        image = images(model(x))[0].float()
        return torch.where(image.isfinite(), image.clamp(0, 1), torch.nan)

    def agree(self, output: Tensor, target: Tensor) -> Float[Tensor, "b"]:
        """SSIM in [0, 1]; 0 where it is not finite."""
        return torch.where(self.finite(output), image_quality.ssim(output, target).clamp(0, 1), 0.0)

    def distance(self, a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
        """Mean squared error between two batches of images; differentiable."""
        error: Tensor = (a - b).square().flatten(1).mean(1)
        return error


def images(output: Any) -> tuple[Tensor, ...]:
    """The images that a network returned, the result first."""
    return tuple(output) if isinstance(output, tuple | list) else (output,)
