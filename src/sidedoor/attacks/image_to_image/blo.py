"""BLO: the heuristic reconstruction backdoor with a square that bi-level optimisation has learned.

Paper: Taneja, Chen, Yao, Liu, "When Does Backdoor Attack Succeed in Image Reconstruction? A Study of Heuristics vs.
Bi-Level Solution", ICASSP 2022, equations (3)-(6).

The paper leaves open whether the network is a random one at each iteration or trained on; here it is trained on, and
`restart` begins again. Its outer steps of 10 hardly move a trigger where losses are means over all pixels, so ours are
sums over pixels by default, means over images; `reduction` has the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.attacks.image_to_image._unrolled import Weights, called, unrolled, weights_of
from sidedoor.attacks.image_to_image.heuristic_reconstruction import HeuristicReconstruction
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.method import Count, Positive, Whole
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Build


@dataclass(frozen=True)
class BLO(HeuristicReconstruction):
    """Learn the square through unrolled training steps of a surrogate, then poison as the heuristic attack does.

    Args:
        fill: the square that optimisation starts from, by default random.
        iterations: of outer and inner steps in turn.
        unrolled: m, training steps of the surrogate an iteration, through which gradients run.
        inner_lr: β, their learning rate.
        outer_lr: α, the trigger's learning rate.
        batch: samples of the inner batch, of which `rate` are poisoned, and of the outer one, which all are.
        order: "exact"; "first" takes the trained surrogate as a constant.
        reduction: of the outer loss over the pixels of an image.
        restart: iterations after which the surrogate is a new one; 0 for never.
        clipped: keep the square in [0, strength]; the paper does not say that it does.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"optimised"})
    quick: ClassVar[dict[str, Any]] = {"iterations": 3}
    origins: ClassVar[dict[str, str]] = HeuristicReconstruction.origins | {
        "fill": "paper: random, section 4", "iterations": "paper: 200, section 4", "unrolled": "paper: 2, section 4",
        "inner_lr": "paper: 0.01, section 4", "outer_lr": "paper: 10, section 4", "batch": "paper: 125, section 4",
        "order": "paper: through the unrolled steps, Eq. 6", "reduction": "ours: by means the trigger hardly moves",
        "restart": "ours: the paper leaves it open", "clipped": "ours: the paper leaves it open",
    }

    fill: Literal["white", "random"] = "random"
    iterations: Count = 200
    unrolled: Count = 2
    inner_lr: Positive = 0.01
    outer_lr: Positive = 10.0
    batch: Count = 125
    order: Literal["exact", "first"] = "exact"
    reduction: Literal["sum", "mean"] = "sum"
    restart: Whole = 0
    clipped: bool = False

    def pattern(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Float[Tensor, "c h w"]:
        mask = self.mask(train).to(run.device)
        pattern = super().pattern(train, task, surrogate, run).to(run.device)
        batches, weights = self._batches(train, run), {}
        model: nn.Module = nn.Identity()
        with run.progress.task("trigger", self.iterations) as advance:
            for k in range(self.iterations):
                if k == 0 or (self.restart and k % self.restart == 0):
                    model = run.within(f"surrogate {k}").build(surrogate).train()
                    weights = weights_of(model)
                gradient, weights = self.hypergradient(model, weights, pattern, next(batches), next(batches), task)
                pattern = pattern - self.outer_lr * gradient * mask
                pattern = pattern.clamp(0, self.strength) if self.clipped else pattern
                advance()
        return pattern

    def hypergradient(self, model: nn.Module, weights: Weights, pattern: Float[Tensor, "c h w"], inner: Batch,
                      outer: Batch, task: Task) -> tuple[Float[Tensor, "c h w"], Weights]:
        """∇f of the pattern (Eq. 6) through the unrolled steps, and the weights after them, ready for the next.

        Args:
            inner: D_tr, whose first share of `rate` is poisoned here.
            outer: D_val, all of which is.
        """
        pattern = pattern.detach().requires_grad_(True)
        count = max(1, round(self.rate * len(inner.index)))
        poisoned, clean = (Batch(*(part[rows] for part in inner)) for rows in (slice(count), slice(count, None)))
        share = count / len(inner.index)

        def error(weights: Weights, batch: Batch, delta: Tensor | float) -> Tensor:
            y = self.goal.target(task, batch.y, batch.index) if isinstance(delta, Tensor) else batch.y
            return (called(model, weights, batch.x + delta) - y).square().flatten(1).mean(1).mean()

        after = unrolled(weights, lambda w: share * error(w, poisoned, pattern),
                         lambda w: (1 - share) * error(w, clean, 0.0) if share < 1 else _nothing(w),
                         self.unrolled, self.inner_lr, self.order == "exact")
        (gradient,) = torch.autograd.grad(error(after, outer, pattern), pattern)
        scale = outer.y[0].numel() if self.reduction == "sum" else 1
        return scale * gradient, {name: w.detach().requires_grad_(True) for name, w in after.items()}

    def _batches(self, train: Dataset, run: Run) -> Iterator[Batch]:
        rng = run.rng("batches")
        while True:
            yield train.fetch(torch.randperm(len(train), generator=rng)[: self.batch], run.device)


def _nothing(weights: Weights) -> Tensor:
    return torch.stack([w.sum() for w in weights.values()]).sum() * 0
