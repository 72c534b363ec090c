"""Occlusion: how far the log-probability of a class falls when a grey window covers a place.

Paper: Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv:1311.2901.

Computed by captum. The released evaluation of GLBW (ICLR 2024) sizes the window by the trigger, half its side in steps
of a third; a method does not know the trigger, so ours has the sizes that follow from one of 4 or 5 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.explain.base import Explainer, log_probability, one_channel
from sidedoor.explain.library import captum
from sidedoor.method import Count, Share
from sidedoor.types import Images


@dataclass(frozen=True)
class Occlusion(Explainer):
    """Cover every place by a window in turn; a pixel has the mean change over the windows that cover it.

    Args:
        window: side of the window in pixels, at most that of the image.
        stride: pixels between windows.
        fill: value of the pixels of a window.
        batch: covered copies in one pass.
    """

    origins: ClassVar[dict[str, str]] = {
        "window": "ours: half of a trigger of 4 or 5 pixels", "stride": "ours: a third of it",
        "fill": "paper: grey", "batch": "ours: memory",
    }
    needs: ClassVar[Needs] = Needs(model="probabilities")

    window: Count = 2
    stride: Count = 1
    fill: Share = 0.5
    batch: Count = 1024

    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        channels, height, width = x.shape[1:]
        sides = min(self.window, height), min(self.window, width)
        steps = min(self.stride, sides[0]), min(self.stride, sides[1])
        method = captum("occlusion").Occlusion(log_probability(model))
        return one_channel(method.attribute(x, (channels, *sides), (channels, *steps), self.fill, target,
                                            perturbations_per_eval=max(1, self.batch // len(x))))
