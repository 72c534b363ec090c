"""SCALE-UP: a black-box input detector that multiplies pixel values and counts how often the prediction stays.

Paper: Guo, Li, Chen, Guo, Sun, Liu, "SCALE-UP: An Efficient Black-box Input-level Backdoor Detection via Analyzing
Scaled Prediction Consistency", ICLR 2023, arXiv:2302.03251.

This is the data-free form; `scale_up_limited` compares with clean images. The consistency of five scales has six values
only. Ours breaks ties by the mean probability of the first prediction, in hundredths, which never outweighs one scale.

Multiplying a value that is 1 already changes nothing: a white or checkerboard square keeps its contrast while the image
around it turns white, and dark images hardly change at all. On such triggers the method is as good as chance, as its
authors say of their own code; their triggers are grey noise. `scales` from 1.25 to 5 suit brighter images, and `centre`
= 0.5 multiplies the contrast instead of the brightness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.consistency import Variant, answers, unchanged
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Space

SCALES = (3.0, 5.0, 7.0, 9.0, 11.0)
TIE = 0.01
"""Weight of the mean probability beside the share of scales."""


@dataclass(frozen=True)
class ScaleUp(InputDetector):
    """Score an input by the share of its brightened copies that get the same prediction.

    Args:
        scales: factors of the pixel values, which are clipped to the range of images.
        centre: the value that scaling leaves as it is, as a share of that range: 0 brightens, 0.5 raises the contrast.

    Raises:
        ConfigError: no scales.
    """

    origins: ClassVar[dict[str, str]] = {"scales": "release: the five odd factors", "centre": "paper"}
    needs: ClassVar[Needs] = Needs(model="probabilities")

    scales: tuple[Positive, ...] = SCALES
    centre: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_scales(self.scales)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to the share of scales, plus a hundredth of the mean probability at most."""
        return scaled_consistency(run.frozen(model), self.scales, self.centre, clean.space, task, run)


def scaled_consistency(model: nn.Module, scales: Sequence[float], centre: float, space: Space, task: Task,
                       run: Run) -> Detect:
    """Scaled prediction consistency of inputs, ties broken by the mean probability of the first prediction."""
    variants = [unchanged, *(scaled(scale, centre, space) for scale in scales)]

    def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
        found = answers(model, x, index, variants, task, run)
        label = found[:, :1].argmax(2, keepdim=True)
        same = (found.argmax(2, keepdim=True) == label)[:, 1:, 0].float().mean(1)
        confidence = found.gather(2, label.expand(-1, found.shape[1], -1))[:, 1:, 0].mean(1)
        return same + TIE * confidence

    return detect


def scaled(scale: float, centre: float, space: Space) -> Variant:
    """Multiply the distance of every value from the centre of scaling, and clip."""
    low, high, _ = space
    middle = low + centre * (high - low)
    return lambda x, index: (middle + scale * (x - middle)).clamp(low, high)


def require_scales(scales: Sequence[float]) -> None:
    """Refuse an empty list of factors.

    Raises:
        ConfigError: there are none.
    """
    if not scales:
        raise ConfigError("scales = () given; expected at least one factor, such as 3")
