"""Gradient matching: perturb samples so that training on them steps in a wanted direction.

Paper: Souri, Fowl, Chellappa, Goldblum, Goldstein, "Sleeper Agent", NeurIPS 2022, arXiv:2106.08970, Eq. 3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.pgd import Steps, ascended
from sidedoor.backdoor.base import Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset, stored
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Supervised, Task
from sidedoor.types import Build, Images

BATCH = 64
"""Samples whose mean gradient is matched."""
Label = int | Int[Tensor, "b"]
"""One for all images, or one for each."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) -> the mean over a batch."""


class Wanted(NamedTuple):
    """The gradient by all parameters that images of a label, or of one each, are to have."""

    label: Label
    gradient: Float[Tensor, "p"]


def gradient(model: nn.Module, x: Images, label: Label, loss: Loss = functional.cross_entropy) -> Float[Tensor, "p"]:
    """The gradient of a mean loss, by default the cross-entropy to the labels, by all parameters, in one vector."""
    labels = _each(label, x)
    parts = [_gradient(model, part, own, create_graph=False, loss=loss) * len(part)
             for part, own in zip(torch.split(x, BATCH), torch.split(labels, BATCH), strict=True)]
    return torch.stack(parts).sum(0) / len(x)


def squared_norms(model: nn.Module, x: Images, label: Label) -> Float[Tensor, "b"]:
    """Squared norm of each image's own gradient by all parameters."""
    state = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def squared_norm(image: Tensor, own: Tensor) -> Tensor:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            logits = torch.func.functional_call(model, parameters, (image[None],))
            return functional.cross_entropy(logits, own[None])

        return torch.stack([g.square().sum() for g in torch.func.grad(loss)(state).values()]).sum()

    found: Tensor = torch.func.vmap(squared_norm, chunk_size=BATCH)(x, _each(label, x))
    return found


@dataclass(frozen=True)
class Matching:
    """How rows are perturbed, on a surrogate that is retrained on what has been perturbed so far.

    Args:
        epsilon: bound of the perturbations, in 8-bit levels; steps are a twentieth of it.
        iterations: in all.
        retrain: times that the surrogate is retrained.
    """

    epsilon: float
    iterations: int
    retrain: int
    train: Dataset
    task: Task
    surrogate: Build
    run: Run

    def backdoor(self, doors: tuple[Door, ...], poison: Poison, model: nn.Module,
                 wanted: Callable[[nn.Module], Wanted]) -> Backdoor:
        """The poisoned rows with images whose gradients are matched.

        Args:
            model: the surrogate as it is first.
            wanted: of the surrogate as it then is.
        """
        base, bound = self.train.fetch(poison.index, self.run.device).x, self.epsilon / 255
        how = Steps(bound, bound / 20, max(1, self.iterations // (self.retrain + 1)))
        crafted = match(model, base, base, wanted(model), how)
        for k in range(1, self.retrain + 1):
            known = PoisonedDataset(self.train, self._with(crafted, doors, poison), self.task)
            model = self.run.fit(self.run.build(self.surrogate), known, Supervised(self.task),
                                 name=f"surrogate {k}").eval()
            crafted = match(model, base, crafted, wanted(model), how)
        return self._with(crafted, doors, poison)

    def _with(self, crafted: Images, doors: tuple[Door, ...], poison: Poison) -> Backdoor:
        return Backdoor(doors, replace(poison, images=stored(crafted, self.train.space).cpu()))


def match(model: nn.Module, x: Images, start: Images, wanted: Wanted, how: Steps) -> Images:
    """Images near x whose gradients, batch by batch, are better aligned with the wanted one than those of `start`."""
    parts = zip(*(torch.split(whole, BATCH) for whole in (x, start, _each(wanted.label, x))), strict=True)
    return torch.cat([ascended(functools.partial(alignment, model, Wanted(own, wanted.gradient)), part, how, begin)
                      for part, begin, own in parts])


def alignment(model: nn.Module, wanted: Wanted, x: Images) -> Float[Tensor, ""]:
    """The cosine between the gradient of images and a wanted one; the paper's loss is 1 less it."""
    own = _gradient(model, x, _each(wanted.label, x), create_graph=True)
    cosine: Tensor = functional.cosine_similarity(own, wanted.gradient, dim=0)
    return cosine


def _each(label: Label, x: Images) -> Int[Tensor, "b"]:
    return torch.as_tensor(label, device=x.device).expand(len(x))


def _gradient(model: nn.Module, x: Images, labels: Int[Tensor, "b"], create_graph: bool,
              loss: Loss = functional.cross_entropy) -> Float[Tensor, "p"]:
    parts = torch.autograd.grad(loss(model(x), labels), list(model.parameters()), create_graph=create_graph)
    return torch.cat([part.flatten() for part in parts])
