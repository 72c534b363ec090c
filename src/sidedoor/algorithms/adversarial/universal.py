"""Perturbations of classifiers, universal ones above all, and training that withstands perturbations.

Papers: Moosavi-Dezfooli, Fawzi, Fawzi, Frossard, "Universal Adversarial Perturbations", CVPR 2017, arXiv:1610.08401;
Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks", CVPR 2016,
arXiv:1511.04599; Madry, Makelov, Schmidt, Tsipras, Vladu, "Towards Deep Learning Models Resistant to Adversarial
Attacks", ICLR 2018, arXiv:1706.06083. The use of both in a backdoor is Algorithm 2 of Jiang et al., arXiv:2407.10445;
smooth ones are of Zeng, Park, Mao, Jia, "Rethinking the Backdoor Attacks' Triggers", ICCV 2021, arXiv:2104.03413.

Jiang et al. leave bound, passes and the share to be fooled open; the defaults are those of the first paper. Perturbed
images are clipped to [0, 1] wherever a classifier sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from sidedoor.data.base import Dataset
from sidedoor.engine import Objective
from sidedoor.method import Count, Method, NonNegative, Positive, Share
from sidedoor.types import Batch, Images, Trigger, stamp_levels

RIVALS = 9
"""Most classes whose boundaries DeepFool looks at, the most probable ones, as its authors do with many classes."""


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


def predicted(model: nn.Module, x: Images, batch: int = 256) -> Int[Tensor, "b"]:
    """The most probable class of each image."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x, batch)])


def fooled(model: nn.Module, x: Images, u: Float[Tensor, "c h w"]) -> Float[Tensor, "b"]:
    """1 where u changes the predicted class, else 0."""
    return (predicted(model, (x + u).clamp(0, 1)) != predicted(model, x)).float()


def deepfool(model: nn.Module, x: Images, label: Int[Tensor, "b"], iterations: int = 50,
             overshoot: float = 0.02) -> Images:
    """The perturbation of each image that DeepFool finds to leave a class: steps to the nearest linearised boundary.

    An image that is across takes no further step. The result is not clipped.
    """
    r, own = torch.zeros_like(x), label[:, None]
    with torch.no_grad():
        others = model(x).scatter(1, own, -torch.inf)
    rivals = others.topk(min(RIVALS, others.shape[1] - 1)).indices
    for _ in range(iterations):
        moved = (x + (1 + overshoot) * r).requires_grad_(True)
        logits = model(moved)
        inside = logits.argmax(1) == label
        if not inside.any():
            break
        f = logits.gather(1, rivals) - logits.gather(1, own)  # at most 0 inside; 0 on the boundary
        w = torch.stack([torch.autograd.grad(f[:, k].sum(), moved, retain_graph=True)[0]
                         for k in range(f.shape[1])], 1)
        r = r + inside[:, None, None, None] * _to_nearest(f.detach(), w)
    return (1 + overshoot) * r


def deepfool_towards(model: nn.Module, x: Images, wanted: Int[Tensor, "b"], iterations: int = 50,
                     overshoot: float = 0.02) -> Images:
    """The perturbation of each image that steps to the linearised boundary of one class make; it is not clipped."""
    r = torch.zeros_like(x)
    for _ in range(iterations):
        moved = (x + (1 + overshoot) * r).requires_grad_(True)
        logits = model(moved)
        best = logits.argmax(1)
        if (best == wanted).all():
            break
        f = logits.gather(1, wanted[:, None]) - logits.gather(1, best[:, None])
        (w,) = torch.autograd.grad(f.sum(), moved)
        r = r + (best != wanted)[:, None, None, None] * _to_nearest(f.detach(), w[:, None])
    return (1 + overshoot) * r


def _to_nearest(f: Float[Tensor, "b k"], w: Float[Tensor, "b k c h w"]) -> Images:
    """The shortest step at which one of the linear functions f + <w, r> becomes zero."""
    length = w.flatten(2).norm(dim=2).clamp(min=1e-12)
    rows, nearest = torch.arange(len(f), device=f.device), (f.abs() / length).argmin(1)
    # A little more than zero, so that float32 ends on the other side.
    scale = (f[rows, nearest].abs() + 1e-6) / length[rows, nearest].square()
    step: Images = scale[:, None, None, None] * w[rows, nearest]
    return step


@dataclass(frozen=True)
class Steps:
    """How PGD walks: within `epsilon` of the start, `iterations` sign steps of `step`, both in [0, 1] units.

    Args:
        until_crossed: an image stops once its class has changed, for a small perturbation rather than a bad one.
    """

    epsilon: float
    step: float
    iterations: int
    until_crossed: bool = False


def pgd(model: nn.Module, x: Images, label: Int[Tensor, "b"], how: Steps) -> Images:
    """Images near x, and in [0, 1], on which sign steps from x have raised the cross-entropy."""
    moved = x.clamp(0, 1)
    for _ in range(how.iterations):
        moved = moved.detach().requires_grad_(True)
        logits = model(moved)
        walking = logits.argmax(1) == label if how.until_crossed else torch.ones_like(label, dtype=torch.bool)
        if not walking.any():
            break
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, label, reduction="sum"), moved)
        moved = _stepped(moved, gradient * walking[:, None, None, None], x, how)
    return moved.detach()


def ascended(loss: Callable[[Images], Tensor], x: Images, how: Steps, start: Images) -> Images:
    """Images near x, and in [0, 1], on which sign steps from `start` have raised a loss, a scalar."""
    moved = start.clamp(0, 1)
    for _ in range(how.iterations):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved), moved)
        moved = _stepped(moved, gradient, x, how)
    return moved.detach()


def _stepped(moved: Images, gradient: Images, x: Images, how: Steps) -> Images:
    further = moved.detach() + how.step * gradient.sign()
    return torch.min(torch.max(further, x - how.epsilon), x + how.epsilon).clamp(0, 1)


def perturbed(model: nn.Module, data: Dataset, rows: Int[Tensor, "k"], how: Steps, trigger: Trigger,
              batch: int = 256) -> UInt8[Tensor, "k c h w"]:
    """Rows of a data set on which PGD has raised the loss of their labels, then stamped, as files keep them."""
    done = []
    for part in torch.split(rows, batch):
        x, y, index = data.fetch(part, next(model.parameters()).device)
        done.append(stamp_levels(trigger, pgd(model, x, y, how), index, data.space).to(torch.uint8).cpu())
    return torch.cat(done)


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


class Robust(Objective):
    """Train on what PGD makes of each batch (Madry et al. 2018, Eq. 2.1), from a random start within the bound.

    The search sees the model in evaluation mode, so that it does not move running statistics.

    Args:
        loss: (model, batch) -> (b,), such as a task's.
        epsilon: bound, in 8-bit levels; steps are a quarter of it.
        iterations: steps for each batch.
    """

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], epsilon: float = 4.0, iterations: int = 10):
        super().__init__()
        self.loss, self.how = loss, Steps(epsilon / 255, epsilon / 255 / 4, iterations)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        was_training = model.training
        start = batch.x + (torch.rand_like(batch.x) * 2 - 1) * self.how.epsilon
        model.eval()
        with torch.enable_grad():
            worst = ascended(lambda x: self.loss(model, batch._replace(x=x)).sum(), batch.x, self.how, start)
        model.train(was_training)
        return self.loss(model, batch._replace(x=worst)).mean()[None]
