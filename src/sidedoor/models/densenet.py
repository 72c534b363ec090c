"""DenseNet-BC for small images: densely connected layers with bottlenecks and compression.

Paper: G. Huang, Z. Liu, L. van der Maaten and K. Q. Weinberger, "Densely Connected Convolutional Networks", CVPR 2017,
arXiv:1608.06993.

torchvision's network with the CIFAR stem of Sec. 3, one 3x3 convolution, in place of the ImageNet stem.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import DenseNet

from sidedoor.errors import ConfigError
from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, classifier, require_size

QUICK: dict[str, Any] = {"depth": 22}
"""Parameters with which it is built and run in a second."""


def densenet(classes: int, shape: Shape, depth: Count = 100, growth: Count = 12) -> Classifier:
    """Three stages of (depth - 4) / 6 bottleneck layers, compressed by half in between.

    Args:
        depth: 6 n + 4, L in the paper; its 100 is slow, 22 and 40 are faster.
        growth: channels that a layer adds, k in the paper.

    Raises:
        ConfigError: another depth, or images below 4x4.
    """
    require_size("densenet", shape, 4)
    layers, remainder = divmod(depth - 4, 6)
    if remainder or layers < 1:
        raise ConfigError(f"densenet.depth = {depth} given; expected 6 n + 4 such as 22, 40 or 100")
    network = DenseNet(growth, (layers,) * 3, 2 * growth, num_classes=classes)
    stem = nn.Conv2d(shape[0], 2 * growth, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    network.features.conv0 = stem
    del network.features.norm0, network.features.relu0, network.features.pool0
    return classifier(network, classes, shape[0])
