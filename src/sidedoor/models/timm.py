"""timm: any image classifier of the library, untrained, as `timm:resnet10t`; needs the extra `sidedoor[timm]`.

Inputs are normalised as timm's configuration of the network says; grey images become three equal channels.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.models.base import Classifier, Shape, adapt


def timm(classes: int, shape: Shape, architecture: str) -> Classifier:
    """A network by timm's name for it; one of a fixed size is built for the size of the images.

    Raises:
        CannotComplete: timm is not installed.
        ConfigError: unknown name, or images that the network cannot take.
    """
    try:
        import timm as library
    except ImportError as error:
        raise CannotComplete(f"timm:{architecture} needs timm; pip install 'sidedoor[timm]'") from error
    names = (*library.list_models(), *library.list_pretrained())
    if architecture not in names:
        raise _unknown(architecture, names)
    config = library.get_pretrained_cfg(architecture)

    def build(height: int, width: int) -> Any:
        size = {"img_size": (height, width)} if config.fixed_input_size else {}
        network = library.create_model(architecture, pretrained=False, num_classes=classes, **size)
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
        if isinstance(patch, tuple) and (height % patch[0] or width % patch[1]):
            raise ValueError(f"patches of {patch[0]}x{patch[1]} do not divide it, and timm would leave out the rest")
        return network

    return adapt(f"timm:{architecture}", build, classes, shape, (config.mean, config.std))


def _unknown(architecture: str, names: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(architecture, names)
    if near:
        return unknown("timm network", architecture, near)
    return ConfigError(f"unknown timm network {architecture!r}; `timm.list_models()` gives the names")
