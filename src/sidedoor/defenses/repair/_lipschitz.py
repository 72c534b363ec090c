"""How much each channel can stretch what it is given, for CLP in both of its forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sidedoor.algorithms.pruning.pairs import convolutions_and_norms, outlying
from sidedoor.models.base import Shape


@torch.no_grad()
def outlying_channels(model: nn.Module, shape: Shape) -> dict[str, Tensor]:
    """Batch normalisation -> how many standard deviations of its layer each channel's constant lies above their mean.

    The constant of channel c is the largest singular value of its kernel, as a matrix (inputs, kernel pixels), times
    |weight| / √(variance + eps) of the batch normalisation that takes it.

    Raises:
        NotApplicable: no convolution is followed by batch normalisation.
    """
    found = {}
    for conv, norm in convolutions_and_norms(model, shape):
        layer: Any = model.get_submodule(norm)
        kernel = model.get_submodule(conv).get_parameter("weight").float()
        stretch = torch.linalg.matrix_norm(kernel.flatten(2), 2)
        scale = 1.0 if layer.weight is None else layer.weight.abs()
        found[norm] = outlying(stretch * scale / torch.sqrt(layer.running_var + layer.eps))
    return found
