"""Small CNN: three convolutions and a linear layer, fast on two CPU cores and enough for MNIST-like images.

Global pooling before the head makes the head's inputs the channels of the last convolution.
"""

from __future__ import annotations

from torch import nn

from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, convnet, require_size


def small_cnn(classes: int, shape: Shape, width: Count = 32) -> Classifier:
    """Three 3x3 convolutions of `width`, 2 `width` and 4 `width` channels with batch normalisation.

    Raises:
        ConfigError: images below 8x8.
    """
    require_size("small_cnn", shape, 8)
    layers = [*_block(shape[0], width), nn.MaxPool2d(2), *_block(width, 2 * width), nn.MaxPool2d(2),
              *_block(2 * width, 4 * width)]
    return convnet(layers, 4 * width, classes, shape[0])


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
