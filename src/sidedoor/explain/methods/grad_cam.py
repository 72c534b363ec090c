"""Grad-CAM: the maps of a convolutional stage, weighted by the mean gradient of the class's logit at each of them.

Paper: Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, arXiv:1610.02391.

Maps are enlarged to the image by bilinear interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.saliency.grad_cam import grad_cam
from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer
from sidedoor.method import Place
from sidedoor.types import Images


@dataclass(frozen=True)
class GradCam(Explainer):
    """Sum the maps of a stage, weighted by the class's mean gradient at them, and keep what speaks for the class.

    Args:
        stage: place among the network's stages whose maps have more than one pixel; -1 is the last.
    """

    origins: ClassVar[dict[str, str]] = {"stage": "paper: the last convolution"}
    needs: ClassVar[Needs] = Needs(model="weights")

    stage: Place = -1

    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        channels, height, width = x.shape[1:]
        return grad_cam(cut(model, (channels, height, width), self.stage), x, target)
