"""Gaussian blur: a purifier that smooths out what is finer than its kernel.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, Table XII.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torchvision.transforms import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Purify


@dataclass(frozen=True)
class GaussianBlur(Purifier):
    """Convolve inputs with a Gaussian, mirrored at the edges.

    Args:
        size: side of the kernel in pixels, odd.
        sigma: of the Gaussian, in pixels; the default is OpenCV's for a kernel of 3.

    Raises:
        ConfigError: an even size.
    """

    origins: ClassVar[dict[str, str]] = {
        "size": "paper: Table XII", "sigma": "ours: open in the paper; what OpenCV takes for a kernel of 3",
    }
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    size: Count = 3
    sigma: Positive = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % 2 == 0:
            raise ConfigError(f"size = {self.size} given; expected an odd number of pixels")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        (low, high, _), size, sigma = clean.space, [self.size] * 2, [self.sigma] * 2
        # Sums of white pixels are rounded up.
        return in_place(lambda x, index: functional.gaussian_blur(x, size, sigma).clamp(low, high))
