"""Guided backpropagation: the gradient of a class's logit, of which every ReLU passes the positive part alone.

Paper: Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for Simplicity: The All Convolutional Net", ICLR 2015
workshop, arXiv:1412.6806.

captum, which evaluations of saliency use, hooks ReLU modules and so misses those that residual networks call as
functions. Ours replaces every call, and gives what captum gives where all are modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, one_channel
from sidedoor.explain.methods._guided import guided_gradient
from sidedoor.types import Images


@dataclass(frozen=True)
class GuidedBackprop(Explainer):
    """Take the largest absolute guided gradient over the channels of each pixel."""

    needs: ClassVar[Needs] = Needs(model="weights")

    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        return one_channel(guided_gradient(model, x, target))
