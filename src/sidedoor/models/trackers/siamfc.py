"""SiamFC: a fully convolutional Siamese tracker, which correlates features of the first frame with each later one.

Paper: Bertinetto, Valmadre, Henriques, Vedaldi, Torr, "Fully-Convolutional Siamese Networks for Object Tracking",
ECCV 2016 Workshops, arXiv:1606.09549.

The published size is AlexNet with a stride of 8. The tiny one is ours, for processors: four convolutions with a stride
of 4, batch normalisation after the last one, too, and a correlation that is divided by the number of its terms;
without these two its loss diverged at any useful learning rate. Negative responses would profit from the scale
penalty and are left without it.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.models.base import Shape
from sidedoor.models.trackers.base import Geometry, State, Tracker, require_crop
from sidedoor.types import Images

SCALES = (1 / 1.0375, 1.0, 1.0375)
PUBLISHED = Geometry(127, 255, True, 8, 16, SCALES, 0.9745, 0.176, 0.59)
TINY = Geometry(63, 127, True, 4, 16, SCALES, 0.9745, 0.176, 0.59)
NEAR = 2
"""Cells, by city blocks, within which a response counts as that of the object."""


class SiamFC(Tracker):
    """Features of a template, correlated with those of search crops.

    Args:
        backbone: without padding, so that features of the middle of a crop are those of the middle alone.
        scale: of the correlation's mean; learned with a bias if `learned`, else it multiplies the sum.
    """

    def __init__(self, backbone: nn.Module, geometry: Geometry, scale: float, *, learned: bool):
        super().__init__()
        self.backbone, self.geometry = backbone, geometry
        self.scale: nn.Parameter | float = nn.Parameter(torch.tensor(scale)) if learned else scale
        self.bias: nn.Parameter | float = nn.Parameter(torch.tensor(0.0)) if learned else 0.0
        self.learned = learned

    def features(self, x: Images) -> Float[Tensor, "b d u v"]:
        found: Tensor = self.backbone(x * 255)
        return found

    def start(self, template: Images) -> State:
        return (self.features(template),)

    def respond(self, state: State, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n r r"]:
        kernel = state[0]
        summed = correlated(kernel, self.features(x))
        return (summed / kernel[0].numel() if self.learned else summed) * self.scale + self.bias

    def loss(self, response: Float[Tensor, "b r r"], offset: Float[Tensor, "b 2"]) -> Float[Tensor, "b"]:
        """Cross-entropy of each cell, half of the weight on those near the object, half on the others."""
        near = near_object(response, offset, self.geometry.stride)
        each = functional.binary_cross_entropy_with_logits(response, near, reduction="none")
        share = (each * near).sum((1, 2)) / near.sum((1, 2)).clamp(min=1)
        return 0.5 * share + 0.5 * (each * (1 - near)).sum((1, 2)) / (1 - near).sum((1, 2)).clamp(min=1)


def correlated(kernel: Float[Tensor, "b d p q"], x: Float[Tensor, "n d u v"]) -> Float[Tensor, "n r s"]:
    """Features of n = k b crops with those of b templates as filters, wherever these fit in."""
    # By Fourier transform: three times as fast as a convolution in groups, five times with gradients.
    (b, d, height, width), size = kernel.shape, x.shape[2:]
    found = torch.fft.rfft2(x.float())
    filters = torch.fft.rfft2(kernel.float(), s=size).conj()[:, None]
    summed = (found.reshape(b, -1, d, *found.shape[2:]) * filters).sum(2).flatten(0, 1)
    response: Tensor = torch.fft.irfft2(summed, s=size)
    return response[:, : size[0] - height + 1, : size[1] - width + 1]


def near_object(response: Float[Tensor, "b r r"], offset: Float[Tensor, "b 2"], stride: int) -> Float[Tensor, "b r r"]:
    """1 in the cells within `NEAR` of the object's centre, 0 elsewhere."""
    cell = (torch.arange(response.shape[1], device=response.device) - (response.shape[1] - 1) / 2) * stride
    across = (cell - offset[:, :1]).abs()
    down = (cell - offset[:, 1:]).abs()
    return ((down[:, :, None] + across[:, None, :]) <= NEAR * stride).to(response.dtype)


def siamfc(crop: Shape, size: Literal["published", "tiny"] = "tiny") -> SiamFC:
    """The tracker for search crops of 255 pixels a side ("published") or 127 ("tiny").

    Args:
        size: "published" is AlexNet, with 2,336,320 parameters for colour images; "tiny" has 40,802.

    Raises:
        ConfigError: other crops.
    """
    geometry = PUBLISHED if size == "published" else TINY
    require_crop(f"siamfc of the size {size}", crop, geometry.search)
    if size == "tiny":
        return SiamFC(_tiny(crop[0]), geometry, 10.0, learned=True)
    return SiamFC(_AlexNet(crop[0]), geometry, 0.001, learned=False)


def _tiny(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inputs, outputs in ((16, 32), (32, 48)):
        layers += [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(48, 48, 3), nn.BatchNorm2d(48))


class _AlexNet(nn.Module):
    """Version 1, with the names of tensors that published weights have."""

    def __init__(self, channels: int):
        super().__init__()
        pool = nn.MaxPool2d(3, 2)
        self.conv1 = nn.Sequential(*_block(nn.Conv2d(channels, 96, 11, 2)), pool)
        self.conv2 = nn.Sequential(*_block(nn.Conv2d(96, 256, 5, groups=2)), pool)
        self.conv3 = nn.Sequential(*_block(nn.Conv2d(256, 384, 3)))
        self.conv4 = nn.Sequential(*_block(nn.Conv2d(384, 384, 3, groups=2)))
        self.conv5 = nn.Sequential(nn.Conv2d(384, 256, 3, groups=2))

    def forward(self, x: Images) -> Float[Tensor, "b d u v"]:
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = layer(x)
        return x


def _block(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels, eps=1e-6, momentum=0.05), nn.ReLU()
