"""Models cut down to what somebody may see of them: their labels, their probabilities, or gradients at their inputs.

Within one process nothing is out of reach: frames and the garbage collector lead to any object. These say what a method
may rely on, and fail loudly where it asks for more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sidedoor.errors import ConfigError

IMPOSSIBLE = -1e4
"""Log-probability of a label that was not given; finite, so that its product with 0 is 0."""


class NotDeclared(ConfigError, AttributeError):
    """Something was asked for that its asker did not declare to need."""


class Restricted(nn.Module):
    """A model that answers and shows nothing else.

    Its answers have the form of the model's: logits where the model gives logits, so that what holds for a model's
    outputs holds for these. It stays in evaluation mode.

    Args:
        answer: x -> output; None: it does not answer.
        declared: what was declared, for messages.
    """

    def __init__(self, answer: Callable[[Tensor], Any] | None, declared: str):
        super().__init__()
        # A function rather than a submodule, which every module shows.
        self._answer, self._declared = answer, declared
        self.training = False

    def forward(self, x: Tensor) -> Any:
        if self._answer is None:
            self._refuse("forward()")
        return self._answer(x)

    def train(self, mode: bool = True) -> Restricted:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Restricted:
        return self

    def _refuse(self, what: str) -> NoReturn:
        raise NotDeclared(f"`{what}` of the model was asked for, but the method declares to need {self._declared}; "
                          "declare what it needs")

    def parameters(self, recurse: bool = True) -> NoReturn:
        self._refuse("parameters()")

    def named_parameters(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("named_parameters()")

    def buffers(self, recurse: bool = True) -> NoReturn:
        self._refuse("buffers()")

    def named_buffers(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("named_buffers()")

    def state_dict(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("state_dict()")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by Python itself, when copying for instance
            raise AttributeError(name)
        self._refuse(name)


def labels_of(model: nn.Module) -> Restricted:
    """Log-probabilities that are 0 for the most probable label and `IMPOSSIBLE` for the others, without a gradient."""

    @torch.no_grad()
    def answer(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        best = logits.argmax(1, keepdim=True)
        return torch.full_like(logits, IMPOSSIBLE, dtype=torch.float32).scatter(1, best, 0.0)

    return Restricted(answer, "the model's labels")


def probabilities_of(model: nn.Module) -> Restricted:
    """Log-probabilities, without a gradient: logits would show more than probabilities do."""

    @torch.no_grad()
    def answer(x: Tensor) -> Tensor:
        return torch.log_softmax(model(x).float(), 1)

    return Restricted(answer, "the model's probabilities")


def outputs_of(model: nn.Module, declared: str) -> Restricted:
    """The outputs of a model whose outputs are images or responses, without a gradient."""
    return Restricted(torch.no_grad()(lambda x: model(x)), declared)


def gradients_of(model: nn.Module) -> Restricted:
    """The model's outputs with their gradient at the input, and at nothing else."""
    frozen = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()}
    return Restricted(functools.partial(_called, model, frozen), "gradients at the model's input")


def _called(model: nn.Module, state: dict[str, Tensor], x: Tensor) -> Any:
    return torch.func.functional_call(model, state, (x,))


def nothing_of(model: nn.Module) -> Restricted:
    """A model that does not even answer."""
    return Restricted(None, "no model")
