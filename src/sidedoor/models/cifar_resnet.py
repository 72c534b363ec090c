"""CIFAR ResNet: ResNet-20, -32, -44, -56 and -110, the networks of the original CIFAR-10 experiments.

Paper: K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.

Section 4.2 with its parameter-free shortcuts (option A). Layers are named as in the weights that circulate for these
networks, which expect ImageNet's statistics; the part of them that a file holds loads as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.errors import ConfigError
from sidedoor.method import Count
from sidedoor.models.base import IMAGENET, Classifier, Shape
from sidedoor.types import Images

QUICK: dict[str, Any] = {"depth": 8}
"""Parameters with which it is built and run in a second."""


def cifar_resnet(classes: int, shape: Shape, depth: Count = 20) -> Classifier:
    """Three stages of 16, 32 and 64 channels; 269,722 parameters at depth 20 and 464,154 at 32, for ten classes.

    Args:
        depth: 6 n + 2 layers.

    Raises:
        ConfigError: another depth, or images that are neither grey nor of three channels.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"cifar_resnet: depth = {depth} given; expected 6 n + 2, such as 20, 32, 44 or 56")
    if shape[0] not in (1, 3):
        raise ConfigError(f"cifar_resnet takes images of 1 or 3 channels, {shape[0]} given")
    return Classifier(_ResNet(classes, (depth - 2) // 6), classes, *IMAGENET)


class _ResNet(nn.Module):
    def __init__(self, classes: int, blocks: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(_Block(inputs if i == 0 else outputs, outputs) for i in range(blocks)))
            for inputs, outputs in ((16, 16), (16, 32), (32, 64)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Images) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions beside the identity; where channels double, every other pixel and empty channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.stride, self.empty = outputs // inputs, (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        same = functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.empty, self.empty))
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + same)
