"""Guided backpropagation through any network whose activations are ReLUs, as modules or as functions."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sidedoor.errors import NotApplicable
from sidedoor.types import Images

_RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_, Tensor.relu, Tensor.relu_)


@torch.enable_grad()
def guided_gradient(model: nn.Module, x: Images, target: Int[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
    """The gradient of the class's logit at the pixels, of which each ReLU passes the positive part alone.

    Raises:
        NotApplicable: the network calls no ReLU, or does not go on with what it gives.
    """
    image = x.detach().requires_grad_()
    with _Guided() as guided:
        output = model(image)
    if not guided.calls:
        found = sorted({type(module).__name__ for module in model.modules()
                        if type(module).__module__ == "torch.nn.modules.activation"})
        raise NotApplicable(f"{type(model).__name__} calls no ReLU, whose gradient guided backpropagation cuts "
                            f"({', '.join(found) or 'no activation'} found); choose gradient or integrated_gradients")
    with torch.no_grad():
        if not torch.allclose(model(x), output, rtol=1e-3, atol=1e-4):
            raise NotApplicable(f"{type(model).__name__} changes tensors in place by a ReLU and drops what it returns, "
                                "so that guided backpropagation cannot follow it")
    (gradient,) = torch.autograd.grad(output.gather(1, target[:, None]).sum(), image)
    return gradient


class _Guided(TorchFunctionMode):
    """Within the block every ReLU is a guided one, and none works in place.

    Attributes:
        calls: of a ReLU so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _RELUS:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return _GuidedReLU.apply(args[0] if args else kwargs["input"])


class _GuidedReLU(torch.autograd.Function):
    """ReLU whose gradient passes where both it and the output are positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        passed: Tensor = gradients[0].clamp(min=0) * (y > 0)
        return passed
