"""Integrated gradients: the gradient of a class's logit along the way from a black image, times the image.

Paper: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv:1703.01365.

Computed by captum. Pixels that are as the baseline get nothing by construction, the black ones of a trigger, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, one_channel
from sidedoor.explain.library import captum
from sidedoor.method import Count, Share
from sidedoor.types import Images


@dataclass(frozen=True)
class IntegratedGradients(Explainer):
    """Sum gradients on a straight way from the baseline to the image, by Gauss-Legendre quadrature.

    Args:
        steps: points on the way.
        baseline: value of every pixel of the image that the way begins at.
        batch: points of all images in one pass.
    """

    origins: ClassVar[dict[str, str]] = {
        "steps": "paper: 20 to 300; captum's 50", "baseline": "paper: black", "batch": "ours: memory",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 8}
    needs: ClassVar[Needs] = Needs(model="gradients")

    steps: Count = 50
    baseline: Share = 0.0
    batch: Count = 512

    @torch.enable_grad()
    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        method = captum("integrated_gradients").IntegratedGradients(model.forward)
        return one_channel(method.attribute(x.detach(), self.baseline, target, n_steps=self.steps,
                                            internal_batch_size=max(self.batch, len(x))).to(x.dtype))
