"""DF-TND: a data-free model audit that excites penultimate units from noise and looks at whose logit rises.

Paper: Wang, Zhang, Liu, Chen, Xiong, Wang, "Practical Detection of Trojan Neural Networks: Data-Limited and Data-Free
Cases", ECCV 2020, arXiv:2007.15802.

From random images a sparse mask, a pattern and a weighting of the penultimate units are made that excite these most; in
a backdoored model the way to do so is the trigger, and the logit of its target rises most. The paper compares the rise
with a threshold that it sets by hand for each model (100), and its release starts from ten images that it ships; ours
starts from uniform noise and divides the largest rise by the median size of the rises, and has no rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.universal_towards import box
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.models.base import penultimate
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space


@dataclass(frozen=True)
class DFTND(ModelAudit):
    """Excite penultimate units from noise by sparse perturbations and compare how the logits rise.

    Args:
        images: random images to start from.
        steps: of Adam.
        lr: of Adam.
        sparsity: weight of the share of the image that a mask covers, beside the excitation in multiples of that of the
            random images.
    """

    origins: ClassVar[dict[str, str]] = {
        "images": "release: ten images", "steps": "release", "lr": "release: steps of 0.1",
        "sparsity": "ours: the release's 1e-6 to 1e-3 is for a sum over pixels",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 50}
    needs: ClassVar[Needs] = Needs(model="weights")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_tnd.py::test_the_class_of_the_unit_that_rises_most_is_found"

    images: Count = 10
    steps: Count = 1000
    lr: Positive = 0.1
    sparsity: NonNegative = 10.0

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest mean rise of a logit over the median size of all, and that of each class; its class is suspected.

        Raises:
            NotApplicable: the images have no bounded range, or no logit moves.
        """
        rise = self.rises(run.frozen(model), clean, run)
        size = rise.abs().quantile(0.5)
        if size <= 0:
            raise NotApplicable("most logits do not move when penultimate units are excited, so none stands out")
        ratio, best = rise / size, int(rise.argmax())
        return Finding(ratio[best].item(), suspected=(best,), per_class=tuple(ratio.tolist()))

    def rises(self, model: nn.Module, clean: Dataset, run: Run) -> Float[Tensor, "k"]:
        """By how much each logit rises on average over the images, on the CPU."""
        space, rng = box(clean), run.rng("noise")
        noise = torch.rand(self.images, *clean.shape, generator=rng).to(run.device)
        x = noise * (space.high - space.low) + space.low
        with torch.no_grad():
            before, features = penultimate(model, x)
        level = features.abs().mean().clamp(min=1e-6)
        mask, pattern = (torch.randn(self.images, count, *clean.shape[1:], generator=rng).to(run.device)
                         .requires_grad_(True) for count in (1, clean.shape[0]))
        weights = torch.zeros_like(features).requires_grad_(True)
        leaves = [mask, pattern, weights]
        optimiser = torch.optim.Adam(leaves, lr=self.lr)
        with run.progress.task("excitation", self.steps) as advance:
            for _ in range(self.steps):
                with run.autocast():
                    _, excited = penultimate(model, _stamped(x, mask, pattern, space))
                gain = (weights.softmax(1) * (excited.float() - features)).sum() / level
                loss = self.sparsity * mask.sigmoid().mean((1, 2, 3)).sum() - gain
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                    leaf.grad = gradient
                optimiser.step()
                advance()
        with torch.no_grad():
            after: Tensor = model(_stamped(x, mask, pattern, space))
        return (after - before).float().mean(0).cpu()


def _stamped(x: Images, mask: Float[Tensor, "b 1 h w"], pattern: Images, space: Space) -> Images:
    share = mask.sigmoid()
    return (1 - share) * x + share * (pattern.sigmoid() * (space.high - space.low) + space.low)
