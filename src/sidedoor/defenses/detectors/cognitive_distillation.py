"""Cognitive Distillation: an input detector that asks how little of an image the model needs for its answer.

Paper: Huang, Ma, Erfani, Bailey, "Distilling Cognitive Backdoor Patterns within an Image", ICLR 2023, arXiv:2301.10908.

A small trigger is enough for the prediction, so the mask of a stamped image is small. The released code has a fixed
cost of the mask, one for small images and one for ImageNet's; ours chooses it so that the masks of clean images keep a
given share of their pixels, without which the score may point either way. A trigger that is all over the image, or
clean images that a small cue decides, leave nothing to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.inversion.cognitive_pattern import PatternSearch, cost_for
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class CognitiveDistillation(InputDetector):
    """Score an input by the share of its pixels that the smallest mask with the same logits leaves out.

    Args:
        keep: share of the pixels that the median mask of clean images keeps.
        samples: clean images on which the cost of the mask is chosen.
        steps: of Adam with betas (0.1, 0.1).
        lr: its learning rate.
        smoothness: weight of the mean squared difference between neighbours in the mask.
    """

    origins: ClassVar[dict[str, str]] = {
        "keep": "ours: in place of a fixed cost, which means something else for every network",
        "samples": "ours: enough for a median", "steps": "paper", "lr": "paper", "smoothness": "release: its README",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 10, "samples": 8}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")
    sign_tested_in: ClassVar[str] = (
        "tests/defenses/test_cognitive_distillation.py::test_an_image_whose_answer_rests_on_few_pixels_is_suspicious")

    keep: Share = 0.3
    samples: Count = 32
    steps: Count = 100
    lr: Positive = 0.1
    smoothness: NonNegative = 10.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to shares of pixels."""
        frozen = run.frozen(model)
        search = PatternSearch(self.steps, self.lr, self.smoothness)
        cost = cost_for(self.keep, frozen, clean, search, self.samples, run)

        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            costs = torch.full((len(x),), cost, device=x.device)
            return 1 - search.masks(frozen, x, index, costs, run).mean((1, 2))

        return detect
