"""Grad-CAM: where in an image the maps of a convolutional network speak for a class.

Paper: Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization", ICCV 2017, arXiv:1610.02391.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from sidedoor.algorithms.features.cut import Cut
from sidedoor.types import Images


@torch.enable_grad()
def grad_cam(network: Cut, x: Images, labels: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
    """Maps in [0, 1] of the size of the images, each divided by its maximum; 0 where nothing speaks for the class.

    Args:
        network: cut behind the maps to look at, in the paper those of the last convolution.
        labels: the class of each image that is to be explained.
    """
    maps = network.maps(x).detach().requires_grad_()
    score = network.tail(maps).gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, maps)
    weighted = torch.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)).detach()  # equation 2
    large = functional.interpolate(weighted, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    highest = large.flatten(1).amax(1)[:, None, None]
    return large / highest.clamp(min=torch.finfo(large.dtype).tiny)
