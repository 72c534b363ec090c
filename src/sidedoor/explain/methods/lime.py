"""LIME: a sparse linear model of a class's log-probability in the segments of an image.

Paper: Ribeiro, Singh, Guestrin, "'Why Should I Trust You?': Explaining the Predictions of Any Classifier", KDD 2016,
arXiv:1602.04938.

Computed by captum, on segments by quickshift, whose kernel is small enough for images of 32 pixels a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.engine import seeded
from sidedoor.explain.base import Explainer, log_probability
from sidedoor.explain.library import captum
from sidedoor.method import Bounds, Count, Positive, Share
from sidedoor.types import Images


@dataclass(frozen=True)
class Lime(Explainer):
    """Fill random segments, fit a lasso to what the model says, and keep the largest coefficients with their signs.

    Args:
        samples: changed copies of each image.
        features: segments that are kept; all others get 0.
        kernel: standard deviation of quickshift's density in pixels, from 1; segments grow with it.
        reach: largest distance within a segment, in pixels and colours.
        fill: value of the pixels of a segment that is taken away.
        batch: changed copies in one pass.
        seed: of the draws, which are the same for all images.
    """

    origins: ClassVar[dict[str, str]] = {
        "samples": "release: 1000 (GLBW)", "features": "release: 9 (GLBW)",
        "kernel": "ours: the smallest that quickshift takes", "reach": "ours: for images of 32 pixels a side",
        "fill": "ours: grey, as occlusion", "batch": "ours: memory", "seed": "ours: fixed",
    }
    quick: ClassVar[dict[str, Any]] = {"samples": 40}
    needs: ClassVar[Needs] = Needs(model="probabilities")

    samples: Count = 1000
    features: Count = 9
    kernel: Annotated[float, Bounds(1.0, 100.0)] = 1.0
    reach: Positive = 4.0
    fill: Share = 0.5
    batch: Count = 500
    seed: int = 0

    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        method = captum("lime").Lime(log_probability(model))
        # captum fits one linear model a call.
        maps = [self._of_one(method, x[k : k + 1], int(target[k])) for k in range(len(x))]
        return torch.stack(maps)

    def _of_one(self, method: Any, x: Float[Tensor, "1 c h w"], target: int) -> Float[Tensor, "h w"]:
        segments = self._segments(x)
        with seeded(self.seed, x.device):
            weights = method.attribute(x, self.fill, target, feature_mask=segments[None, None], n_samples=self.samples,
                                       perturbations_per_eval=self.batch, return_input_shape=False)[0].to(x)
        kept = weights.abs().topk(min(self.features, len(weights))).indices
        sparse: Tensor = torch.zeros_like(weights).index_copy(0, kept, weights[kept])
        return sparse[segments]

    def _segments(self, x: Float[Tensor, "1 c h w"]) -> Int[Tensor, "h w"]:
        from skimage.segmentation import quickshift

        image = x[0].detach().cpu().double()
        colours = image.mean(0, keepdim=True).expand(3, -1, -1) if len(image) != 3 else image  # which it needs
        found = quickshift(np.ascontiguousarray(colours.permute(1, 2, 0).numpy()), kernel_size=self.kernel,
                           max_dist=self.reach, rng=0)
        return torch.from_numpy(found.astype(np.int64)).to(x.device)
