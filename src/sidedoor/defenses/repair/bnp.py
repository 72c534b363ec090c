"""BNP: a repair that cuts off channels whose clean inputs differ from what batch normalisation remembers of training.

Paper: Zheng, Tang, Li, Liu, "Pre-activation Distributions Expose Backdoor Neurons", NeurIPS 2022.

The running statistics of a channel come from the poisoned training data, the statistics of clean images do not know the
poison. Channels where the two normal distributions have a divergence KL(clean, remembered) =
log(σ₂ / σ₁) + (σ₁² + (μ₁ - μ₂)²) / (2 σ₂²) - 1/2 beyond u standard deviations above the mean of the layer lose their
weight; the bias stays, as in the authors' code.

Only the running statistics know the poison, so any honest training in between hides it, and so does rare poison.
BackdoorBench's version is another formula, with the logarithm of the variances. In a layer of c channels none can lie
above (c - 1) / √c standard deviations. Where none does, the model stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sidedoor.algorithms.optim.batch_norm import batch_norms
from sidedoor.algorithms.pruning.gates import prune
from sidedoor.algorithms.pruning.pairs import outlying, require_width
from sidedoor.core.logs import warn_once
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.method import NonNegative
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class BNP(Repair):
    """Prune channels of batch normalisation that clean images contradict.

    Args:
        u: standard deviations above the mean of a layer beyond which a channel goes.
    """

    needs: ClassVar[Needs] = Needs(model="weights", clean="images")
    origins: ClassVar[dict[str, str]] = {"u": "release: 3"}

    u: NonNegative = 3.0

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = run.placed(copy.deepcopy(model)).eval()
        found = {name: outlying(value) for name, value in divergences(repaired, clean, run).items()}
        require_width([len(z) for z in found.values()], self.u)
        gone = {name: z > self.u for name, z in found.items()}
        if not any(channels.any() for channels in gone.values()):
            warn_once(f"{type(self).__name__} prunes nothing: no channel lies {self.u:g} standard deviations above the "
                      "mean of its layer")
        prune(repaired, gone, biases=False)
        return repaired


def divergences(model: nn.Module, clean: Dataset, run: Run) -> dict[str, Tensor]:
    """Batch normalisation -> the divergence of each channel.

    Raises:
        NotApplicable: the model has no batch normalisation with weights and running statistics.
    """
    known = {id(m) for m in batch_norms(model) if m.affine and m.running_mean is not None}
    layers = {name: module for name, module in model.named_modules() if id(module) in known}
    if not layers:
        raise NotApplicable(f"{type(model).__name__} has no batch normalisation with weights and running statistics")
    moments = _moments(model, layers, clean, run)
    found = {}
    for name, (mean, variance) in moments.items():
        layer = layers[name]
        mean, clean_variance = mean.to(layer.get_buffer("running_mean")), variance.to(layer.get_buffer("running_var"))
        kept, first = layer.get_buffer("running_var") + layer.eps, clean_variance + layer.eps
        away = (mean - layer.get_buffer("running_mean")).square()
        found[name] = 0.5 * torch.log(kept / first) + (first + away) / (2 * kept) - 0.5
    return found


def _moments(model: nn.Module, layers: dict[str, nn.Module], clean: Dataset, run: Run) \
        -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance of each layer's input over images and places, of those that the model calls."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, given: seen.__setitem__(name, given[0].transpose(0, 1).flatten(1))

    def rows(batch: Batch) -> dict[str, Tensor]:
        model(batch.x)
        count = len(batch.x)
        parts = {name: values.float().reshape(len(values), count, -1) for name, values in seen.items()}
        return {f"{kind}/{name}": value for name, values in parts.items() for kind, value in
                (("mean", values.mean(2).T), ("square", values.square().mean(2).T))}

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        table = run.per_sample(model, clean, rows)
    finally:
        for handle in handles:
            handle.remove()
    means = {name: table[f"mean/{name}"].double().mean(0) for name in layers if f"mean/{name}" in table}
    return {name: (mean, (table[f"square/{name}"].double().mean(0) - mean.square()).clamp(min=0))
            for name, mean in means.items()}
