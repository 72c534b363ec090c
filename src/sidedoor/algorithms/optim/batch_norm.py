"""Ways to pass a batch through a network without moving the running statistics of its batch normalisation.

All are context managers, since the training loop puts the model into training mode at the start of every epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of batch normalisation, in the order of registration."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the whole network is in evaluation mode, dropout included."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block batch normalisation uses its running statistics, and leaves them alone."""
    training = [layer for layer in batch_norms(model) if layer.training]
    try:
        for layer in training:
            layer.eval()
        yield
    finally:
        for layer in training:
            layer.train()


@contextlib.contextmanager
def without_updates(model: nn.Module) -> Iterator[None]:
    """Within the block batch normalisation in training mode uses the statistics of the batch, and keeps none."""
    # Not by a momentum of 0: that still counts the batch.
    tracking = [layer for layer in batch_norms(model) if layer.training and layer.track_running_stats]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
