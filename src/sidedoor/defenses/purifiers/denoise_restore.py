"""Degrade and restore: a purifier that destroys detail and noise-like triggers, and restores what clean images have.

Inspired by Shi, Du, Wu, Guan, Sun, Liu, "Black-box Backdoor Defense via Zero-shot Image Purification", NeurIPS 2023,
arXiv:2303.12175, and by Nie, Guo, Huang, Xiao, Vahdat, Anandkumar, "Diffusion Models for Adversarial Purification",
ICML 2022, arXiv:2205.07460.

It is neither of them: they restore by diffusion models trained on millions of images. Ours averages squares of pixels,
adds noise, and restores by a small U-Net that learned to undo just that on the defender's images. It draws no detail
that is not there, so a trigger larger than the squares and stronger than the noise passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.restorer import Restored, restorer
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.purifiers.base import Purifier, in_place, require_room
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.method import Count, NonNegative
from sidedoor.models.unet import unet
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index, Purify


@dataclass(frozen=True)
class DenoiseRestore(Purifier):
    """Average squares of pixels, add noise, and restore by a network; noise depends on seed and index only.

    Args:
        factor: side of the squares in pixels; 1 for none.
        sigma: deviation of the noise, in units of [0, 1].
        steps: of the network's training, with 32 images each.

    Raises:
        ConfigError: nothing is degraded, or squares are as large as images.
    """

    origins: ClassVar[dict[str, str]] = {
        "factor": "ours: the least that removes a checkerboard", "sigma": "ours: that of the purifier `gaussian_noise`",
        "steps": "ours: a minute on a CPU",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 2}
    needs: ClassVar[Needs] = Needs(clean="images")

    factor: Count = 2
    sigma: NonNegative = 0.1
    steps: Count = 600

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor == 1 and self.sigma == 0:
            raise ConfigError("factor = 1 and sigma = 0 given, which degrade nothing; raise one of them")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        require_room("factor", self.factor, clean)
        (low, high, _), shape, seed = clean.space, clean.shape, run.rng("noise").initial_seed()
        objective = Restored(lambda x: self.degraded(x, torch.randn_like(x)), functional.l1_loss)
        network = restorer(clean, lambda: unet(shape, 1), objective, self.steps, run,
                           {"method": "denoise_restore", "version": self.version, "factor": self.factor,
                            "sigma": self.sigma})

        @torch.no_grad()
        def purify(x: Images, index: Index) -> Images:
            with run.autocast():
                restored: Images = network(self.degraded(x, random.normal(seed, index, *shape))).to(x.dtype)
            return restored.clamp(low, high)

        return in_place(purify)

    def degraded(self, x: Images, noise: Float[Tensor, "b c h w"]) -> Images:
        """Means over squares, enlarged again, under noise."""
        small = functional.avg_pool2d(x, self.factor, ceil_mode=True)
        large = functional.interpolate(small, scale_factor=self.factor, mode="nearest")[..., :x.shape[2], :x.shape[3]]
        return large + self.sigma * noise
