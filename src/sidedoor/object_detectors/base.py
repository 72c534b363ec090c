"""What every object detector is: losses, objectness and detections; and what torchvision's detectors share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from sidedoor.metrics.detection import Found, Truth, kept, padded, real
from sidedoor.types import Images


class Detector(nn.Module, ABC):
    """Finds objects in images in [0, 1]; boxes are as in `sidedoor.metrics.detection`."""

    def forward(self, x: Images, truth: Truth | None = None) -> Any:
        """(b,) losses if true boxes are given, else the network's raw output."""
        said = self.raw(x)
        return said if truth is None else self.losses(said, truth)

    @abstractmethod
    def raw(self, x: Images) -> Any:
        """The network's raw output for images, in a form of its own."""

    @abstractmethod
    def losses(self, said: Any, truth: Truth) -> Float[Tensor, "b"]:
        """The loss of each image, for training."""

    @abstractmethod
    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        """For each candidate box the logit that something is in it."""

    @abstractmethod
    def detect(self, x: Images, least: float = 0.01) -> Found:
        """Detections with at least this score, after non-maximum suppression."""


TAPS, WIDTHS = {"6": "0", "12": "1", "15": "2"}, [40, 112, 160]
"""Layers of a MobileNetV3 at an eighth, a sixteenth and a thirty-second of the size, and their channels."""


def mobilenet(channels: int) -> nn.Module:
    """The layers of torchvision's MobileNetV3 down to a thirty-second of the size, untrained."""
    layers: Any = mobilenet_v3_large(weights=None).features[:16]
    if channels != 3:
        layers[0][0] = nn.Conv2d(channels, layers[0][0].out_channels, 3, 2, 1, bias=False)
    found: nn.Module = layers
    return found


def detections(found: list[dict[str, Tensor]], least: float) -> Found:
    """torchvision's detections of each image as (b, m, 6)."""
    return padded(kept(f["boxes"], f["scores"], f["labels"] - 1.0, least=least) for f in found)


def targets(truth: Float[Tensor, "k 5"]) -> dict[str, Tensor]:
    """The boxes of one image as torchvision wants them, whose class 0 is the background."""
    there = truth[real(truth)]
    return {"boxes": there[:, 1:], "labels": there[:, 0].to(torch.int64) + 1}
