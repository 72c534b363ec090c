"""torchvision: any classifier of the library, untrained, as `torchvision:resnet50`.

Inputs are normalised by the mean and standard deviation of ImageNet; grey images become three equal channels.
"""

from __future__ import annotations

from typing import Any

from sidedoor.errors import unknown
from sidedoor.models.base import Classifier, Shape, adapt

_SINGLE_OUTPUT = {"aux_logits": False, "init_weights": True}


def torchvision(classes: int, shape: Shape, architecture: str) -> Classifier:
    """A network by torchvision's name for it.

    Raises:
        ConfigError: unknown name, or images that the network cannot take.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if architecture not in names:
        raise unknown("torchvision network", architecture, names)

    def build(height: int, width: int) -> Any:
        options: dict[str, Any] = {}
        if architecture in ("googlenet", "inception_v3"):
            options = _SINGLE_OUTPUT
        elif architecture.startswith("vit_"):
            options = {"image_size": height}
        elif architecture.startswith("maxvit_"):
            options = {"input_size": (height, width)}
        return models.get_model(architecture, weights=None, num_classes=classes, **options)

    return adapt(f"torchvision:{architecture}", build, classes, shape)
