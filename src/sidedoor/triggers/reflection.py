"""Reflection trigger: another image reflected in glass before the camera, as a ghost or out of focus (Refool).

Paper: Liu, Ma, Bailey, Lu, "Reflection Backdoor: A Natural Backdoor Attack on Deep Neural Networks", ECCV 2020,
arXiv:2007.02343.

Both images are converted to linear light (power 2.2), mixed, and converted back. The mode and its parameters are fixed
here; the paper draws them for each image.

"focus" mixes a blurred reflection in with one weight. "defocus" is the out-of-focus reflection of the authors' release
(DreamtaleCore/Refool): where image and reflection together are brighter than white, the reflection is darkened by the
mean excess of each channel, times an attenuation, and a Gaussian mask lets it fade towards the edges. The release draws
the attenuation between 1.08 and 1.18, here it is the middle; of images that are not square it cuts the mask at random,
here from its middle.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.core import random
from sidedoor.errors import ConfigError
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

GAMMA = 2.2
ATTENUATION = 1.13
Mode = Literal["ghost", "focus", "defocus"]


class Reflection(Trigger):
    """Mix a reflection into every image, one of several by the sample's index if several are given.

    Values outside [0, 1], as noisy inputs have, are clipped for the mixing; the clipped part is added back.

    Args:
        image: (c, h, w) or (n, c, h, w) in [0, 1], of the images' shape: the reflected scene.
        transmission: α_t, the weight of the image itself in linear light.
        mode: "ghost": two reflexes, shifted against each other; "focus": one reflex, blurred; "defocus": the same as
            released, which looks at the brightness of each image and fades towards the edges.
        offset: pixels between the reflexes of a ghost, (down, right).
        ghost: weight of the first reflex.
        blur: σ in pixels of a reflex out of focus; the release draws 1 to 5 for images of 560 pixels.
        seed: of the choice among several.

    Raises:
        ConfigError: images of another shape than the reflection's.
    """

    layer: Tensor
    mask: Tensor | None

    def __init__(self, image: Float[Tensor, "... c h w"], transmission: float = 0.9,
                 mode: Mode = "ghost", offset: tuple[int, int] = (3, 3), ghost: float = 0.6,
                 blur: float = 1.5, seed: int = 0):
        super().__init__()
        linear = (image if image.ndim == 4 else image[None]).clamp(0, 1) ** GAMMA
        reflex = _ghost(linear, offset, ghost) if mode == "ghost" else _unfocused(linear, blur)
        released = mode == "defocus"
        self.register_buffer("layer", reflex if released else (1 - transmission) * reflex)
        self.register_buffer("mask", (1 - transmission / 2) * _fading(*linear.shape[2:]) if released else None)
        self.transmission, self.seed = transmission, seed

    def forward(self, x: Images, index: Index) -> Images:
        if x.shape[1:] != self.layer.shape[1:]:
            raise ConfigError(f"images of shape {tuple(x.shape[1:])} given to a reflection of "
                              f"{tuple(self.layer.shape[1:])}; cut them to that size")
        inside, layer = x.clamp(0, 1), self.layer[random.integers(self.seed, index, len(self.layer))]
        linear = inside**GAMMA
        if self.mask is not None:
            layer = self.mask * _darkened(layer, linear)
        mixed: Tensor = (self.transmission * linear + layer).clamp(0, 1) ** (1 / GAMMA)
        return mixed + (x - inside)


def _darkened(layer: Images, image: Images) -> Images:
    """A reflex less the mean excess over white of each channel, where it and the image together are that bright."""
    both = layer + image
    above = both > 1
    mean = (both * above).sum((2, 3), keepdim=True) / above.sum((2, 3), keepdim=True).clamp(min=1)
    darkened: Tensor = (layer - ATTENUATION * (mean.clamp(min=1) - 1)).clamp(0, 1)
    return darkened


def _fading(height: int, width: int) -> Float[Tensor, "height width"]:
    """1 in the middle: the root of a Gaussian over three deviations to each side of a square, cut from its middle."""
    side = max(height, width)
    edges = torch.linspace(-3 - 3.5 / side, 3 + 3.5 / side, side + 1, dtype=torch.float64)
    profile = torch.special.ndtr(edges).diff().sqrt()
    profile = profile / profile.max()
    down, right = (side - height) // 2, (side - width) // 2
    return torch.outer(profile[down : down + height], profile[right : right + width]).float()


def _ghost(image: Images, offset: tuple[int, int], weight: float) -> Images:
    """Two reflexes, the second shifted by the offset, with replicated edges."""
    down, right = offset
    height, width = image.shape[2:]
    padded = functional.pad(image, (right, 0, down, 0), mode="replicate")
    return weight * image + (1 - weight) * padded[:, :, :height, :width]


def _unfocused(image: Images, sigma: float) -> Images:
    reach = math.ceil(2 * sigma)
    place = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    channels = image.shape[1]
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    padded = functional.pad(image, (reach,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel, groups=channels)
    return functional.conv2d(across, kernel.transpose(2, 3), groups=channels)
