"""UAP: a targeted universal adversarial perturbation of the clean network, the trigger of I2I.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
Algorithm 1.

The start is uniform within the bound, whose range the paper leaves open. Its loop as printed makes one step more than
`iterations`; ours makes as many as it says. The samples come one after another, so the last one weighs most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.method import Count, Positive
from sidedoor.trigger_designs.base import Design, Setting
from sidedoor.triggers.additive import Additive
from sidedoor.triggers.base import Trigger


@dataclass(frozen=True)
class UAP(Design):
    """Descend by sign steps on the distance between the clean network's output and the backdoor target.

    Args:
        epsilon: bound of every value, in 8-bit levels.
        step: s, in 8-bit levels.
        samples: |S|, images of the training set.
        iterations: I, steps on each image.
    """

    origins: ClassVar[dict[str, str]] = {
        "epsilon": "paper: 15, section 6.1.3", "step": "paper: 5, section 6.1.3", "samples": "paper: 10, section 6.1.3",
        "iterations": "paper: 20, section 6.1.3",
    }

    epsilon: Positive = 15.0
    step: Positive = 5.0
    samples: Count = 10
    iterations: Count = 20

    def make(self, setting: Setting) -> Trigger:
        return Additive(self.pattern(setting))

    def pattern(self, setting: Setting) -> Float[Tensor, "c h w"]:
        """t."""
        run, rng, epsilon = setting.run, setting.run.rng("uap"), self.epsilon / 255
        rows = torch.randperm(len(setting.train), generator=rng)[: self.samples]
        t = ((torch.rand(setting.train.shape, generator=rng) * 2 - 1) * epsilon).to(run.device)
        model = setting.model().eval()
        for row in rows:
            x, y, index = setting.train.fetch(row[None], run.device)
            target = setting.goal.target(setting.task, y, index)
            for _ in range(self.iterations):
                t.requires_grad_(True)
                output = model(x + t)
                output = output[0] if isinstance(output, tuple | list) else output
                loss = torch.linalg.vector_norm(output - target)  # L_t, Eq. (3)
                (gradient,) = torch.autograd.grad(loss, t)
                t = (t.detach() - self.step / 255 * gradient.sign()).clamp(-epsilon, epsilon)
        return t
