"""VGG-19 with batch normalisation for small images, with global pooling and a single linear layer.

Paper: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arXiv:1409.1556.

Configuration E with batch normalisation (S. Ioffe and C. Szegedy, ICML 2015, arXiv:1502.03167) after each convolution.
One linear layer replaces the paper's three, as is usual for 32x32 images, where the last map is 1x1.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, convnet, require_size

_STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))
"""(channels as a multiple of the width, convolutions) of each stage; max-pooling ends it."""
QUICK: dict[str, Any] = {"width": 8}
"""Parameters with which it is built and run in a second."""


def vgg19_bn(classes: int, shape: Shape, width: Count = 64) -> Classifier:
    """Five stages of `width` to 8 `width` channels; 16 is a quarter of the paper's.

    Raises:
        ConfigError: images below 32x32, of which five poolings leave nothing.
    """
    require_size("vgg19_bn", shape, 32)
    layers: list[nn.Module] = []
    inputs = shape[0]
    for multiple, convolutions in _STAGES:
        outputs = multiple * width
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return convnet(layers, inputs, classes, shape[0])
