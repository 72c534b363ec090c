"""TOG object fabrication: universal perturbations that make a detector see objects where none are.

Paper: Chow, Liu, Loper, Bae, Gursoy, Truex, Wei, Wu, "Adversarial Objectness Gradient Attacks in Real-time Object
Detection Systems", TPS-ISA 2020. Its use in a backdoor is section 5.2 of Jiang et al.,
arXiv:2407.10445, with 50 passes over 12,800 images, ε = 8/255 and steps of 10⁻⁴.

Ours takes fewer images and larger steps, so that the perturbation reaches its bound all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.method import Count, Method, Positive
from sidedoor.object_detectors.base import Detector
from sidedoor.types import Images


@dataclass(frozen=True)
class Fabrication(Method):
    """How such a perturbation is made.

    Args:
        epsilon: bound of every value, in 8-bit levels.
        step: of each sign step, in 8-bit levels.
        passes: over the images.
        batch: images a step.
    """

    epsilon: Positive = 8.0
    step: Positive = 0.5
    passes: Count = 10
    batch: Count = 20

    def make(self, detector: Detector, images: Images, rng: torch.Generator) -> Float[Tensor, "c h w"]:
        """u for a detector in evaluation mode and images in [0, 1], from a random start within the bound.

        Every step lowers the cross-entropy of the objectness of all candidates to one.
        """
        epsilon, step = self.epsilon / 255, self.step / 255
        u = (torch.rand(images.shape[1:], generator=rng) * 2 - 1).to(images.device) * epsilon
        for _ in range(self.passes):
            order = torch.randperm(len(images), generator=rng).to(images.device)
            for rows in torch.split(order, self.batch):
                u = u.detach().requires_grad_(True)
                logits = detector.objectness((images[rows] + u).clamp(0, 1))
                empty = functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="sum")
                (gradient,) = torch.autograd.grad(empty, u)
                u = (u.detach() - step * gradient.sign()).clamp(-epsilon, epsilon)
        return u.detach()
