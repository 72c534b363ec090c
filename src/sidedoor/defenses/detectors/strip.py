"""STRIP: an input detector that superimposes clean images and measures the entropy of the predictions.

Paper: Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019, arXiv:1902.06531.

A trigger that survives the superimposition keeps the prediction fixed, and the entropy stays low. The score is minus
the mean entropy; the paper's threshold, a quantile of the entropies of clean images, belongs to the evaluator. Ours
draws the overlays of an input by its index, so an image always gets the same score; they come from a pool of at most
1024 clean images, which stays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.data.base import Dataset, unit
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative
from sidedoor.tasks.task import Task
from sidedoor.types import PHOTO, Images, Index

POOL = 1024
"""Most clean images that overlays are drawn from."""


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

    origins: ClassVar[dict[str, str]] = {
        "overlays": "paper: N = 100", "input_weight": "release: the two images are added and saturate",
        "overlay_weight": "release: the two images are added and saturate",
    }
    quick: ClassVar[dict[str, Any]] = {"overlays": 8}
    version: ClassVar[int] = 2  # half of the clean samples fit it, the others set its thresholds
    needs: ClassVar[Needs] = Needs(model="probabilities", clean="images")

    overlays: Count = 100
    input_weight: NonNegative = 1.0
    overlay_weight: NonNegative = 1.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to minus their mean entropy in bits, in [-log2 classes, 0]."""
        frozen = run.frozen(model)
        blends = superimposed(clean, run, self.overlays, self.input_weight, self.overlay_weight)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                parts = [entropy(task.predict(frozen, blend)) for blend, _ in blends(x, index)]
            return -torch.cat(parts).view(len(x), -1).mean(1)

        return detect


Blends = Callable[[Images, Index], Iterator[tuple[Images, Index]]]
"""(x, index) -> parts of all superimpositions, each with the places in `x` of its inputs; all of an input in a row."""


def superimposed(clean: Dataset, run: Run, overlays: int, input_weight: float, overlay_weight: float) -> Blends:
    """Superimpositions of inputs with clean ones, drawn by the inputs' index from a pool that stays in memory."""
    pool = clean.rows(torch.randperm(len(clean), generator=run.rng("pool"))[:POOL]).to(run.device)
    seed = random.seed_of(run.seed, f"{run.scope}overlays")
    low, high, _ = PHOTO  # the sum of two photographs saturates

    def blends(x: Images, index: Index) -> Iterator[tuple[Images, Index]]:
        choice = random.integers(seed, index, len(pool), overlays).flatten()
        source = torch.arange(len(x), device=x.device).repeat_interleave(overlays)
        for part in run.chunks(len(source), math.prod(x.shape[1:])):
            i, k = source[part], choice[part]
            blend = input_weight * x[i] + overlay_weight * unit(pool[k], clean.space)
            yield blend.clamp_(low, high), i

    return blends


def entropy(probability: Float[Tensor, "b k"]) -> Float[Tensor, "b"]:
    """Entropy of each distribution, in bits."""
    nats: Tensor = torch.special.entr(probability).sum(1)
    return nats / math.log(2)
