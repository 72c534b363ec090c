"""DeepFool: short steps to the nearest linearised boundary of a classifier.

Paper: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: A Simple and Accurate Method to Fool Deep Neural Networks", CVPR
2016, arXiv:1511.04599.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.types import Images

RIVALS = 9
"""Most classes whose boundaries DeepFool looks at, the most probable ones, as its authors do with many classes."""


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
