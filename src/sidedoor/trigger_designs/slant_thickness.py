"""Slant and thickness: handwriting that leans and has bolder strokes.

Paper: Castro, Tan, Kainz, Konukoglu, Glocker, "Morpho-MNIST: Quantitative Assessment and Diagnostics for Representation
Learning", JMLR 2019, arXiv:1809.00926, which measures both attributes of digits and changes strokes by morphology.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from sidedoor.errors import ConfigError
from sidedoor.image.geometry import warped
from sidedoor.method import Bounds
from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class SlantThickness(AttributeEditor):
    """Shear every image about its middle row, and make its strokes thicker or thinner.

    Args:
        slant: degrees from the vertical that strokes come to lean to the right; negative: to the left.
        thickness: pixels by which a stroke becomes wider; negative: narrower.

    Raises:
        ConfigError: neither, so that nothing is edited.
    """

    origins: ClassVar[dict[str, str]] = {
        "slant": "ours: more than the steepest of ten hands", "thickness": "ours: one pixel, which a bolder pen adds",
    }

    slant: Annotated[float, Bounds(-60.0, 60.0)] = 30.0
    thickness: Annotated[int, Bounds(-5, 5)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slant == 0 and self.thickness == 0:
            raise ConfigError("slant = 0 and thickness = 0 given; expected one of them to be another, or nothing is "
                              "edited")

    def make(self, setting: Setting) -> Trigger:
        return _Strokes(self.slant, self.thickness).to(setting.run.device)


class _Strokes(Trigger):
    """Strokes are what differs from the border of an image, light on dark or dark on light."""

    def __init__(self, slant: float, thickness: int):
        super().__init__()
        self.slant, self.thickness = slant, thickness

    def forward(self, x: Images, index: Index) -> Images:
        leaning = self._sheared(x)
        if self.thickness == 0:
            return leaning
        light, dark = self._spread(leaning), -self._spread(-leaning)
        return torch.where(_light(x) == (self.thickness > 0), light, dark)

    def _sheared(self, x: Images) -> Images:
        if self.slant == 0:
            return x
        # From output to input: what is above the middle row comes from further left.
        across = math.tan(math.radians(self.slant)) * x.shape[2] / x.shape[3]
        theta = x.new_tensor([[1.0, across, 0.0], [0.0, 1.0, 0.0]])
        return warped(x, theta.expand(len(x), -1, -1), "repeated")

    def _spread(self, x: Images) -> Images:
        """The brightest pixel of each neighbourhood."""
        width = abs(self.thickness)
        before, after = width // 2, width - width // 2
        return functional.max_pool2d(functional.pad(x, (after, before, after, before), mode="replicate"), width + 1, 1)


def _light(x: Images) -> Bool[Tensor, "b 1 1 1"]:
    """Whether an image is lighter than its border on the whole, as light strokes on a dark ground are."""
    border = torch.cat([x[:, :, [0, -1]].flatten(1), x[:, :, :, [0, -1]].flatten(1)], 1)
    mean: Float[Tensor, "b"] = x.flatten(1).mean(1)
    return (mean >= border.mean(1))[:, None, None, None]
