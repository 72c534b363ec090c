"""Perceptual distances between images: distances of deep features, and LPIPS.

Papers: Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016,
arXiv:1603.08155; Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", CVPR 2018, arXiv:1801.03924.

"features" compares unit-normalised feature maps without learned weights and is never called LPIPS. "lpips" is LPIPS,
with its own backbone and heads, or an error that names what is missing. Nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.core.checkpoint import load_weights
from sidedoor.core.foreign_weights import read_weights
from sidedoor.core.opening import identified
from sidedoor.errors import CannotComplete, unknown
from sidedoor.metrics import image_quality
from sidedoor.types import Images

Distance = Callable[[Images, Images], Float[Tensor, "b"]]
TAPS: dict[str, tuple[int, ...]] = {
    "squeezenet1_0": (1, 4, 7, 9, 12),
    "squeezenet1_1": (1, 4, 7, 9, 12),
    "vgg16": (3, 8, 15, 22, 29),
    "alexnet": (1, 4, 7, 9, 11),
}
"""Torchvision network -> the layers of its `features` that are compared."""
SMALLEST = 64
"""Smaller images are enlarged to this many pixels per side, which deep layers need."""


def distance(measure: str, network: str, weights: str) -> Distance:
    """A differentiable distance (b,) between images in [0, 1].

    Args:
        measure: "features" or "lpips".
        network: for "features": one of `TAPS`.
        weights: a file with its weights: safetensors, or .pth read without running code.

    Raises:
        ConfigError: an unknown network.
        CannotComplete: the weights are missing or do not fit.
    """
    if measure == "lpips":
        found = image_quality.lpips_network()
        if found is None:
            raise CannotComplete("\"lpips\" needs `pip install 'sidedoor[perceptual]'` and AlexNet's weights in "
                                 f"{torch.hub.get_dir()}/checkpoints; \"features\" takes a network of your own")
        colour = image_quality.colour
        return lambda a, b: found.to(a.device)(colour(a), colour(b), normalize=True).flatten()
    features = _features(network, weights)

    def between(a: Images, b: Images) -> Float[Tensor, "b"]:
        maps = zip(features.to(a.device)(a), features(b), strict=True)
        return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in maps]).sum(0)

    return between


class _Features(nn.Module):
    """Unit-normalised maps of some layers; frozen."""

    def __init__(self, layers: nn.Module, taps: tuple[int, ...], caffe: bool):
        super().__init__()
        self.layers, self.taps, self.caffe = layers, taps, caffe
        self.requires_grad_(False)

    def forward(self, x: Images) -> list[Tensor]:
        x = self._prepared(x)
        maps = []
        for i, layer in enumerate(self.layers.children()):
            x = layer(x)
            if i in self.taps:
                maps.append(functional.normalize(x, dim=1, eps=1e-8))
            if i == self.taps[-1]:
                break
        return maps

    def _prepared(self, x: Images) -> Float[Tensor, "b 3 height width"]:
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        if min(x.shape[2:]) < SMALLEST:
            x = functional.interpolate(x, size=(SMALLEST, SMALLEST), mode="bilinear", align_corners=False)
        if self.caffe:
            return 255 * x.flip(1) - torch.tensor([104.0, 117.0, 123.0], device=x.device).reshape(1, 3, 1, 1)
        mean, std = (torch.tensor(v, device=x.device).reshape(1, 3, 1, 1)
                     for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return (x - mean) / std


@functools.lru_cache(maxsize=4)
def _features(network: str, weights: str) -> _Features:
    import torchvision

    name, _, origin = network.partition(":")
    if name not in TAPS or origin not in ("", "caffe"):
        raise unknown("network of features", network, [*TAPS, "squeezenet1_0:caffe"])
    if not weights:
        raise CannotComplete(f"features of {name} need its weights; give the file in `weights`")
    model: Any = getattr(torchvision.models, name)(weights=None)
    state = read_weights(Path(weights), sha256=identified(weights))
    wanted = {key: value for key, value in state.items() if key.startswith("features.")}
    load_weights(model.features, {key.removeprefix("features."): value for key, value in wanted.items()},
                 f"{weights} for {name}")
    return _Features(model.features.eval(), TAPS[name], origin == "caffe")
