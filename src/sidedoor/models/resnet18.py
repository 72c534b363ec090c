"""ResNet-18 for small images: a 3x3 stem with stride 1 and no max-pooling.

Paper: K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.

The stages are those of the ImageNet network (64, 128, 256 and 512 channels, projections where the shape changes); the
stem is the paper's for CIFAR-10 (Sec. 4.2). This mixture is what backdoor papers call ResNet-18 on CIFAR-10.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, convnet

QUICK: dict[str, Any] = {"width": 8}
"""Parameters with which it is built and run in a second."""


def resnet18(classes: int, shape: Shape, width: Count = 64) -> Classifier:
    """Eight basic blocks in four stages of `width` to 8 `width` channels; 16 is a quarter of the paper's."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [_Block(inputs, outputs, stride=1 if stage == 0 else 2), _Block(outputs, outputs, stride=1)]
        inputs = outputs
    return convnet(layers, inputs, classes, shape[0])


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a normalised 1x1 projection where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + self.shortcut(x))
