"""What every explainer is: a saliency map for each image, from as much of the model as it declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.defenses.base import Needs
from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Task
from sidedoor.types import Images


@dataclass(frozen=True)
class Explainer(Method, ABC):
    """Says how much each pixel of an image speaks for a class.

    Attributes:
        needs: how much of the model it is given: "probabilities", "gradients" or "weights".
        tasks: the kinds of task whose models it explains.
    """

    needs: ClassVar[Needs]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)

    @abstractmethod
    def saliency(self, model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b h w"]:
        """A map for each image, of its size, without a graph; higher is more salient, and only the order counts.

        A map depends on its own image alone. The maps of one call are computed together, so give no more images than
        the memory holds; methods that ask about changed copies have a `batch` of their own.

        Args:
            model: in evaluation mode, as `needs` says.
            target: the class of each image that is to be explained.

        Raises:
            NotApplicable: the network lacks what the method looks at.
            CannotComplete: a package that the method needs is not installed.
        """


def one_channel(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """The largest absolute value over the channels, as in Simonyan et al. 2014."""
    largest: Tensor = maps.detach().abs().amax(1)
    return largest


def log_probability(model: nn.Module) -> Callable[[Images], Float[Tensor, "b k"]]:
    """What methods ask about that see probabilities only; the same whether the model gives logits or these.

    The logit of one class, which released code asks about, is nothing that such a model shows.
    """
    @torch.no_grad()
    def answer(x: Images) -> Float[Tensor, "b k"]:
        return torch.log_softmax(model(x).float(), 1)

    return answer
