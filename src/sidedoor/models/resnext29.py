"""ResNeXt-29 for small images: residual bottlenecks with grouped 3x3 convolutions.

Paper: S. Xie, R. Girshick, P. Dollár, Z. Tu and K. He, "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017, arXiv:1611.05431.

The network of Sec. 5.3 for CIFAR. The default is 2x64d, which two CPU cores can train; the paper reports 8x64d and
16x64d, that is `cardinality` 8 and 16.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sidedoor.method import LATER, Count
from sidedoor.models.base import Classifier, Shape, convnet
from sidedoor.models.resnet18 import shortcut

QUICK: dict[str, Any] = {"base_width": 8}
"""Parameters with which it is built and run in a second."""


def resnext29(classes: int, shape: Shape, cardinality: Count = 2, base_width: Count = 64,
              width: Annotated[Count, LATER] = 64) -> Classifier:
    """Nine bottlenecks in three stages of 4, 8 and 16 times `width` output channels; at 64 those of the paper.

    Args:
        cardinality: groups of the 3x3 convolutions.
        base_width: channels of each group in the first stage; later stages double it.
        width: channels of the stem.
    """
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        outputs = 4 * width * 2**stage
        for block in range(3):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_Block(inputs, cardinality * base_width * 2**stage, outputs, stride, cardinality))
            inputs = outputs
    return convnet(layers, inputs, classes, shape[0])


class _Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions beside a shortcut (Fig. 3c), ReLU after the sum."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int):
        super().__init__()
        self.reduce = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.grouped = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.reduce(x)))
        inner = torch.relu(self.bn2(self.grouped(inner)))
        return torch.relu(self.bn3(self.expand(inner)) + self.shortcut(x))
