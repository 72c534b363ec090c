"""Gradient: the gradient of a class's logit at the pixels, by size; a saliency map.

Paper: Simonyan, Vedaldi, Zisserman, "Deep Inside Convolutional Networks: Visualising Image Classification Models and
Saliency Maps", ICLR 2014 workshop, arXiv:1312.6034.

Normalisation is the first layer of our models, so that gradients are those at images in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, one_channel
from sidedoor.types import Images


@dataclass(frozen=True)
class Gradient(Explainer):
    """Take the largest absolute gradient over the channels of each pixel."""

    needs: ClassVar[Needs] = Needs(model="gradients")

    @torch.enable_grad()
    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        image = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model(image).gather(1, target[:, None]).sum(), image)
        return one_channel(gradient)
