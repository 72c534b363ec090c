"""Blend an input with many clean images: a trigger that survives keeps the prediction fixed, and entropy stays low.

Paper: Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019, arXiv:1902.06531.

Suspicion is minus the mean entropy of the blends' predictions; the paper's threshold (a quantile of the entropies of
clean images) belongs to the evaluator. The overlays of an input are drawn by its index, so the score of an image is the
same whenever it is asked for; they come from a pool of at most 1024 clean images, which stays in memory.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor import keyed
from sidedoor.data.base import Dataset, unit
from sidedoor.defenses.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative
from sidedoor.types import Images, Index, Task

POOL = 1024
"""Most clean images that overlays are drawn from."""
VALUES = {"cpu": 2**17}
"""Most pixel values in one forward pass by kind of device, 2**20 on others; a single image may have more."""


@dataclass(frozen=True)
class Strip(InputDetector):
    """Score an input by the entropy of predictions on its superimpositions with clean images.

    The defaults add the two images and saturate, as the released code does. Weights of 0.5 average them, which halves
    the contrast of the trigger: a model that learnt it at full contrast may no longer see it.

    Args:
        overlays: clean images that each input is blended with.
        input_weight: of the input in the sum.
        overlay_weight: of the clean image in the sum.
    """

    overlays: Count = 100
    input_weight: NonNegative = 1.0
    overlay_weight: NonNegative = 1.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to minus their mean entropy in bits, in [-log2 classes, 0]."""
        frozen = run.placed(copy.deepcopy(model)).eval()
        pool = clean.rows(torch.randperm(len(clean), generator=run.rng("pool"))[:POOL]).to(run.device)
        seed = keyed.seed_of(run.seed, f"{run.scope}overlays")
        low, high, _ = clean.space

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            choice = keyed.integers(seed, index, len(pool), self.overlays).flatten()
            source = torch.arange(len(x), device=x.device).repeat_interleave(self.overlays)
            size = max(1, VALUES.get(x.device.type, 2**20) // math.prod(x.shape[1:]))
            parts = []
            for i, k in zip(torch.split(source, size), torch.split(choice, size), strict=True):
                blend = self.input_weight * x[i] + self.overlay_weight * unit(pool[k], clean.space)
                with run.fabric.autocast():
                    parts.append(entropy(task.predict(frozen, blend.clamp_(low, high))))
            mean: Tensor = torch.cat(parts).view(len(x), -1).mean(1)
            return -mean

        return detect


def entropy(probability: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Entropy of each distribution, in bits."""
    nats: Tensor = torch.special.entr(probability).sum(1)
    return nats / math.log(2)
