"""RCA-SOC (approximation): a purifier that dims all but the contours of an input.

Paper: Chen, Zheng, Chen, Xiong, "RCA-SOC: A Novel Adversarial Defense by Refocusing on Critical Areas and Strengthening
Object Contours", Computers & Security 2020.

No code was released. Ours is an approximation from its idea alone: a gain for each colour channel by its deviation
(channel attention) times a gain for each place by the smoothed magnitude of its Laplacian (plane attention). Models
that never saw such images lose much of their accuracy: Zhang et al., "Poison Ink", IEEE TIP 2022, arXiv:2108.02488,
report a fall from 92.92 % to 11.47 %. A trigger with contours of its own is left standing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify

TINY = 1e-6


@dataclass(frozen=True)
class RCASOC(Purifier):
    """Multiply inputs by the attention to their channels and to their places, each at most 1.

    Args:
        floor: attention to a place without any contour.
    """

    origins: ClassVar[dict[str, str]] = {"floor": "ours: open, as is the whole formula"}

    floor: Share = 0.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        def purify(x: Images, index: Index) -> Images:
            return x * channel_attention(x) * (self.floor + (1 - self.floor) * plane_attention(x))

        return in_place(purify)


def channel_attention(x: Images) -> Float[Tensor, "b c 1 1"]:
    """The deviation of each channel relative to the largest; 1 for all channels of a flat image."""
    deviation = x.std((2, 3), keepdim=True, correction=0)
    return (deviation + TINY) / (deviation.amax(1, keepdim=True) + TINY)


def plane_attention(x: Images) -> Float[Tensor, "b 1 h w"]:
    """The magnitude of the Laplacian of the mean channel, smoothed over 3×3 pixels, relative to the largest."""
    grey = functional.pad(x.mean(1, keepdim=True), [1, 1, 1, 1], mode="replicate")
    kernel = x.new_tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    contour = functional.avg_pool2d(functional.conv2d(grey, kernel).abs(), 3, 1, 1, count_include_pad=False)
    return (contour + TINY) / (contour.amax((2, 3), keepdim=True) + TINY)
