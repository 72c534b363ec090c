"""Universal adversarial perturbations of classifiers: one change that fools on most images.

Papers: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal Adversarial Perturbations", CVPR 2017, arXiv:1610.08401.
The use of these and of PGD in a backdoor is Algorithm 2 of Jiang et al., arXiv:2407.10445; smooth ones are of Zeng,
Park, Mao, Jia, "Rethinking the Backdoor Attacks' Triggers", ICCV 2021, arXiv:2104.03413.

Jiang et al. leave bound, passes and the share to be fooled open; the defaults are those of the first paper. Perturbed
images are clipped to [0, 1] wherever a classifier sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from sidedoor.algorithms.adversarial.deepfool import deepfool, deepfool_towards, fooled, predicted
from sidedoor.algorithms.adversarial.pgd import Steps, pgd
from sidedoor.method import Count, Method, NonNegative, Positive, Share
from sidedoor.types import Images


@dataclass(frozen=True)
class Universal(Method):
    """How a universal perturbation of a classifier is made.

    Args:
        epsilon: bound of every value, in 8-bit levels.
        passes: most passes over the images.
        enough: a pass ends the search once this share of them is fooled.
        inner: what sends one image across the boundary: "deepfool", or "pgd" with steps of a tenth of the bound.
        overshoot: DeepFool's; its perturbation is so much longer than a linear network would need.
        iterations: most steps of the inner attack.
    """

    epsilon: Positive = 10.0
    passes: Count = 10
    enough: Share = 0.8
    inner: Literal["deepfool", "pgd"] = "deepfool"
    overshoot: NonNegative = 0.02
    iterations: Count = 50

    def make(self, model: nn.Module, images: Images) -> Float[Tensor, "c h w"]:
        """u of Algorithm 2, for a classifier in evaluation mode and images in [0, 1]."""
        epsilon, u = self.epsilon / 255, torch.zeros_like(images[0])
        before = predicted(model, images)
        for _ in range(self.passes):
            for image, label in zip(images, before, strict=True):
                x = (image + u).clamp(0, 1)[None]
                if predicted(model, x)[0] == label:
                    u = (u + self._crossing(model, x, label[None])[0]).clamp(-epsilon, epsilon)
            if fooled(model, images, u).mean() >= self.enough:
                break
        return u

    def towards(self, model: nn.Module, images: Images, label: int, shaped: Callable[[Tensor], Tensor]) \
            -> Float[Tensor, "c h w"]:
        """A perturbation that leads to one class: DeepFool's steps to it, image after image.

        Args:
            shaped: gives the perturbation its form after every step, such as a bound or a filter.
        """
        u, wanted = torch.zeros_like(images[0]), torch.tensor([label], device=images.device)
        for _ in range(self.passes):
            for image in images:
                x = (image + u).clamp(0, 1)[None]
                if predicted(model, x) != wanted:
                    u = shaped(u + deepfool_towards(model, x, wanted, self.iterations, self.overshoot)[0])
            if (predicted(model, (images + u).clamp(0, 1)) == wanted).float().mean() >= self.enough:
                break
        return u

    def _crossing(self, model: nn.Module, x: Images, label: Int[Tensor, "b"]) -> Images:
        if self.inner == "deepfool":
            return deepfool(model, x, label, self.iterations, self.overshoot)
        epsilon = self.epsilon / 255
        return pgd(model, x, label, Steps(epsilon, epsilon / 10, self.iterations, until_crossed=True)) - x


def smooth(u: Float[Tensor, "c h w"], sigma: float, span: float) -> Float[Tensor, "c h w"]:
    """A perturbation after a Gaussian of `sigma` pixels, mirrored at the edges, scaled to run from 0 to `span`."""
    reach = min(round(2.5 * sigma), min(u.shape[1:]) - 1)
    low: Tensor = gaussian_blur(u, [2 * reach + 1] * 2, [sigma] * 2)
    return (low - low.min()) / (low.max() - low.min()).clamp(min=1e-12) * span


@dataclass(frozen=True)
class Targeted(Method):
    """How a universal perturbation that leads to one class is made: sign steps of a tenth of its bound over batches.

    Args:
        epsilon: bound of every value, in 8-bit levels.
        passes: over the images.
        batch: images a step.
    """

    epsilon: Positive = 10.0
    passes: Count = 10
    batch: Count = 50

    def make(self, model: nn.Module, images: Images, label: int, rng: torch.Generator) -> Float[Tensor, "c h w"]:
        """u, for a classifier in evaluation mode and images in [0, 1]."""
        epsilon, u = self.epsilon / 255, torch.zeros_like(images[0])
        for _ in range(self.passes):
            for rows in torch.split(torch.randperm(len(images), generator=rng).to(images.device), self.batch):
                u = u.detach().requires_grad_(True)
                wanted = torch.full_like(rows, label)
                loss = functional.cross_entropy(model((images[rows] + u).clamp(0, 1)), wanted)
                (gradient,) = torch.autograd.grad(loss, u)
                u = (u.detach() - 0.1 * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
        return u.detach()
