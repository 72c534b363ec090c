"""Gradient matching: perturb samples so that training on them steps in a wanted direction.

Paper: Souri, Fowl, Chellappa, Goldblum, Goldstein, "Sleeper Agent", NeurIPS 2022, arXiv:2106.08970, Eq. 3.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.pgd import Steps, ascended
from sidedoor.types import Images

BATCH = 64
"""Samples whose mean gradient is matched."""


class Wanted(NamedTuple):
    """The gradient by all parameters that images of a label are to have."""

    label: int
    gradient: Float[Tensor, "p"]


def gradient(model: nn.Module, x: Images, label: int) -> Float[Tensor, "p"]:
    """The gradient of the mean cross-entropy to one label by all parameters, in one vector."""
    parts = [_gradient(model, part, label, create_graph=False) * len(part) for part in torch.split(x, BATCH)]
    return torch.stack(parts).sum(0) / len(x)


def squared_norms(model: nn.Module, x: Images, label: int) -> Float[Tensor, "b"]:
    """Squared norm of each image's own gradient by all parameters."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def squared_norm(image: Tensor) -> Tensor:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            logits = torch.func.functional_call(model, parameters, (image[None],))
            return functional.cross_entropy(logits, torch.tensor([label], device=x.device))

        return torch.stack([g.square().sum() for g in torch.func.grad(loss)(state).values()]).sum()

    found: Tensor = torch.func.vmap(squared_norm, chunk_size=BATCH)(x)
    return found


def match(model: nn.Module, x: Images, start: Images, wanted: Wanted, how: Steps) -> Images:
    """Images near x whose gradients, batch by batch, are better aligned with the wanted one than those of `start`."""
    aligned = functools.partial(alignment, model, wanted)
    return torch.cat([ascended(aligned, part, how, begin) for part, begin in
                      zip(torch.split(x, BATCH), torch.split(start, BATCH), strict=True)])


def alignment(model: nn.Module, wanted: Wanted, x: Images) -> Float[Tensor, ""]:
    """The cosine between the gradient of images and a wanted one; the paper's loss is 1 less it."""
    own = _gradient(model, x, wanted.label, create_graph=True)
    cosine: Tensor = functional.cosine_similarity(own, wanted.gradient, dim=0)
    return cosine


def _gradient(model: nn.Module, x: Images, label: int, create_graph: bool) -> Float[Tensor, "p"]:
    loss = functional.cross_entropy(model(x), torch.full((len(x),), label, device=x.device))
    parts = torch.autograd.grad(loss, list(model.parameters()), create_graph=create_graph)
    return torch.cat([part.flatten() for part in parts])
