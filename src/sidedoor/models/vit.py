"""ViT: a small vision transformer, with patches as tokens and a linear head on the class token.

Paper: A. Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
arXiv:2010.11929.

torchvision's network with the width and heads of DeiT-Ti (H. Touvron et al., ICML 2021, arXiv:2012.12877), half as deep
and with patches of 4 pixels, for images of 16 to 64.
"""

from __future__ import annotations

from typing import Any

from torchvision.models import VisionTransformer

from sidedoor.errors import ConfigError
from sidedoor.method import Count
from sidedoor.models.base import Classifier, Shape, adapt

QUICK: dict[str, Any] = {"width": 48, "depth": 2}
"""Parameters with which it is built and run in a second."""


def vit(
    classes: int, shape: Shape, patch: Count = 4, width: Count = 192, depth: Count = 6, heads: Count = 3
) -> Classifier:
    """`depth` encoder blocks over tokens of `width` numbers, with MLPs four times as wide.

    Args:
        patch: side of a patch in pixels; it divides the side of the image.
        heads: attention heads; they divide the width.

    Raises:
        ConfigError: images that are not square, of other than 1 or 3 channels, or with a side that `patch` does not
            divide; heads that do not divide the width.
    """
    if width % heads:
        raise ConfigError(f"vit.width = {width} and vit.heads = {heads} given; expected a width that the heads divide")
    if shape[1] != shape[2] or shape[1] % patch:
        raise ConfigError(f"vit with patches of {patch} cannot take {shape[1]}x{shape[2]} images; expected square ones "
                          f"with a side that {patch} divides: resize them or set `patch`")

    def build(height: int, _: int) -> VisionTransformer:
        return VisionTransformer(height, patch, depth, heads, width, 4 * width, num_classes=classes)

    return adapt("vit", build, classes, shape, ((0.5,) * 3, (0.25,) * 3))
