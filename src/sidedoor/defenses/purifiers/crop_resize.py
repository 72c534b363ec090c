"""Crop and resize: a purifier that enlarges a random window of each input to the full size.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, which tests the robustness of attacks by it ("C&R", Tables VI and VII).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place, require_room
from sidedoor.engine import Run
from sidedoor.image.geometry import resized, window
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class CropResize(Purifier):
    """Crop inputs at a random place and resize them bilinearly.

    The place depends on the run's seed and the sample's index only.

    Args:
        crop: pixels by which the window is smaller than the image.

    Raises:
        ConfigError: images that are not larger than `crop`.
    """

    origins: ClassVar[dict[str, str]] = {"crop": "release: windows of 28 of 32 pixels"}

    crop: Count = 4

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        require_room("crop", self.crop, clean)
        seed = run.rng("positions").initial_seed()

        def purify(x: Images, index: Index) -> Images:
            corner = random.integers(seed, index, self.crop + 1, 2)
            return resized(window(x, corner, (x.shape[2] - self.crop, x.shape[3] - self.crop)), x.shape[2:])

        return in_place(purify)
