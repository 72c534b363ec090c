"""Restoration: image denoising, super-resolution, or both.

Scores are structural similarities (Wang et al. 2004), clamped to [0, 1]: *clean* to the photograph, *attack* to the
backdoor target, *recovered* of the triggered output to the photograph.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.

Equations (4) and (5) print the L2 norm; section 6.3.1 speaks of the MSE loss, which is our default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sidedoor.core.terms import Terms
from sidedoor.data.base import Dataset
from sidedoor.data.degraded import Degradation, Degraded
from sidedoor.data.root import FileName, Where
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import NonNegative, Share
from sidedoor.metrics import image_quality, perceptual
from sidedoor.tasks._image_output import Imaging
from sidedoor.types import Batch


@dataclass(frozen=True)
class Restoration(Imaging):
    """Restore photographs from noisy or low-resolution images.

    Args:
        sigma: standard deviation of Gaussian noise on the inputs, in 8-bit levels.
        scale: the factor by which inputs are smaller than the photographs (bicubic).
        stored: inputs are 8-bit files; otherwise noise is neither clipped nor rounded, as is usual in restoration.
        measure: the training loss and the distance of two outputs: mean squared error, root mean squared
            error ("l2": the norm of equations (4) and (5) over the root of the number of values), "features": a
            distance of feature maps, or "lpips", which needs its real weights.
        features: the network of "features": squeezenet1_0, squeezenet1_1, vgg16 or alexnet as torchvision has them, or
            "squeezenet1_0:caffe" for weights that expect Caffe's input.
        weights: a file with its weights; also looked for below the data root.
        least_effect: an attack whose mean similarity to its target is below this counts as failed.
        largest_drop: so does one that costs more similarity on clean inputs than this, beside its clean sibling.
    """

    terms: ClassVar[Terms] = Terms(
        "Normal", "Effect", "Recovered", "Idle", False,
        "Structural similarities in [0, 1]. Normal: output to the true image, on clean inputs. Effect: output to the "
        "attacker's target, on triggered inputs. Recovered: output to the true image, on triggered inputs. Idle: "
        "output to the attacker's target, on clean inputs.")
    sigma: NonNegative = 25.0
    scale: Literal[1, 2, 3, 4] = 1
    stored: bool = False
    measure: Literal["mse", "l2", "features", "lpips"] = "mse"
    features: str = "squeezenet1_0"
    weights: FileName = ""
    least_effect: Share = 0.8
    largest_drop: Share = 0.05

    def setup(self, photographs: Dataset, run: Run) -> Restoration:
        """The task with the path of its weights, below the current folder or below the data root."""
        return replace(self, weights=str(Where(run.root).locate(self.weights))) if self.weights else self

    def make_dataset(self, data: Dataset) -> Dataset:
        return Degraded(data, Degradation(self.sigma, self.scale, self.stored))

    def distance(self, a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
        """The measure between two batches of images; differentiable."""
        if self.measure in ("mse", "l2"):
            error = super().distance(a, b)
            return error if self.measure == "mse" else (error + 1e-12).sqrt()
        return perceptual.distance(self.measure, self.features, self.weights)(a, b)

    def columns(self, batch: Batch, clean_out: Any, stamped_out: Any | None, door: Door | None) -> dict[str, Tensor]:
        """PSNR in dB of both outputs, the perceptual or squared distances that were trained, and the paper's Total."""
        x, y, index = batch
        rows = {"psnr_clean": image_quality.psnr(clean_out, y), "distance_clean": self.distance(clean_out, y)}
        if self.scale == 1:
            rows["ssim_input"] = self.agree(x.clamp(0, 1), y)
        if door is None or stamped_out is None:
            return rows
        target = door.goal.target(self, y, index)
        return rows | {"psnr_attack": image_quality.psnr(stamped_out, target),
                       "distance_attack": self.distance(stamped_out, target),
                       "total": self.agree(clean_out, y) + self.reached(door.goal, stamped_out, y, index)}

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, clean, sibling = scores["attack"], scores["clean"], clean_means["clean"]
        if attack is not None and attack < self.least_effect:
            return f"effect {attack:.3f} is below {self.least_effect}"
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return f"similarity on clean inputs fell by {sibling - clean:.3f}, more than {self.largest_drop}"
        return None
