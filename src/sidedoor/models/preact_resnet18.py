"""PreAct ResNet-18 for small images: normalisation and ReLU come before each convolution.

Paper: K. He, X. Zhang, S. Ren and J. Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027.

As in the paper's appendix, the sum of the last block is normalised and activated before pooling, and the first block
activates its input before it splits into residual and shortcut; so do the blocks that change the shape. Implementations
without the last normalisation have 1,024 parameters fewer (11,171,146 for CIFAR-10) and give the head inputs that may
be negative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, convnet

QUICK: dict[str, Any] = {"width": 8}
"""Parameters with which it is built and run in a second."""


def preact_resnet18(classes: int, shape: Shape, width: Count = 64) -> Classifier:
    """Eight blocks in four stages of `width` to 8 `width` channels; 16 is a quarter of the usual."""
    layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1, bias=False)]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        layers += [_Block(inputs, outputs, stride=1 if stage == 0 else 2, opens_stage=True),
                   _Block(outputs, outputs, stride=1, opens_stage=False)]
        inputs = outputs
    return convnet([*layers, nn.BatchNorm2d(inputs), nn.ReLU()], inputs, classes, shape[0])


class _Block(nn.Module):
    """Two activated 3x3 convolutions beside a shortcut, nothing after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, opens_stage: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else nn.Identity()
        self.opens_stage = opens_stage

    def forward(self, x: Tensor) -> Tensor:
        activated = torch.relu(self.bn1(x))
        residual: Tensor = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        kept: Tensor = self.shortcut(activated if self.opens_stage else x)
        return residual + kept
