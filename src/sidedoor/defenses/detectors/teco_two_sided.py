"""TeCo with clean images: corruption robustness that is less or more consistent than theirs.

Paper: Liu, Li, Wang, Hu, Ye, Jin, Wu, Xiao, "Detecting Backdoors During the Inference Stage Based on Corruption
Robustness Consistency", CVPR 2023, arXiv:2303.18191.

Ours, beside the paper's `teco`: the distance of its score to the median of clean images. The paper expects stamped
inputs to be less consistent; one whose prediction no corruption changes, as with a trigger all over the image, is more
consistent than any clean one, and only its distance tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.detectors.teco import ALL, require_corruptions, robustness_spread
from sidedoor.engine import Run
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class TeCoTwoSided(InputDetector):
    """Score an input by how far TeCo's score of it is from the median score of clean images.

    Args:
        corruptions: at least two, by name.

    Raises:
        ConfigError: fewer, or an unknown one.
    """

    origins: ClassVar[dict[str, str]] = {"corruptions": "ours: eleven of the paper's fifteen kinds or alike"}
    quick: ClassVar[dict[str, tuple[str, ...]]] = {"corruptions": ("brightness", "contrast", "gaussian_noise", "jpeg")}
    needs: ClassVar[Needs] = Needs(model="labels", clean="images")

    corruptions: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        require_corruptions(self.corruptions)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to distances of standard deviations, from 0 to 2.5."""
        frozen = run.frozen(model)
        spread = robustness_spread(frozen, self.corruptions, task, run)
        scores = run.per_sample(frozen, clean, lambda batch: {"score": spread(batch.x, batch.index)})["score"]
        middle = scores.median().item()

        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            return (spread(x, index) - middle).abs()

        return detect
