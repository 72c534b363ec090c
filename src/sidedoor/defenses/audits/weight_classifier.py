"""Weight classifier: a model audit by a linear classifier of weight statistics, fitted to clean and backdoored shadows.

Paper: Huster, Lin, Stefanescu, Ekwedike, Chadha, "Solving Trojan Detection Competitions with Linear Weight
Classification", 2024, arXiv:2411.03445.

The paper standardises weights, subtracts those of a reference network, aligns networks by sorting or by permutations
and selects; it is given up to a thousand models of the suspect's kind. Ours has a small pool, so each layer is
described by numbers that no permutation of hidden channels changes: quantiles of its weights and of the norms of its
rows, in units of their own size, the share of its largest singular values, and quantiles of the parameters and
statistics of batch normalisation. The classifier is ridge regression, its strength chosen by leaving one model out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidedoor.algorithms.shadow_pool import shadow_pool
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding, Rule
from sidedoor.method import Count
from sidedoor.models.base import head
from sidedoor.tasks.task import Task

QUANTILES = 16
"""Of what describes a layer."""
SINGULAR = 8
"""Values that describe a layer, the largest."""
STRENGTHS = (1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)
"""Of ridge regression, for standardised features."""


@dataclass(frozen=True)
class WeightClassifier(ModelAudit):
    """Classify the statistics of a model's weights by those of shadow models.

    Args:
        shadows: clean shadow models, and as many backdoored ones.
        steps: of training each.
    """

    origins: ClassVar[dict[str, str]] = {
        "shadows": "ours: trained in seconds; the paper's competitions give hundreds to a thousand",
        "steps": "ours: enough for two hundred small images",
    }
    quick: ClassVar[dict[str, Any]] = {"shadows": 2, "steps": 20}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled", shadows=True)
    sign_tested_in: ClassVar[str] = \
        "tests/defenses/test_weight_classifier.py::test_models_of_a_heavy_class_score_above_others"

    shadows: Count = 12
    steps: Count = 150

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The classifier's value, 1 for a backdoored shadow model and -1 for a clean one; flagged above 0.

        Raises:
            NotApplicable: shadow models like this one cannot be made, or it has no layer to describe.
        """
        pool = shadow_pool(model, clean, task, run, self.shadows, self.steps)
        known = torch.stack([features(shadow) for shadow in pool.models])
        value = classified(known, pool.backdoored, features(model)[None])[0].item()
        return Finding(value, Rule(value, 0.0))


@torch.no_grad()
def features(model: nn.Module) -> Float[Tensor, "d"]:
    """A model's weights described so that permutations of hidden channels change nothing, on the CPU."""
    found = [part for module in model.modules() for part in _described(module, head(model))]
    if not found:
        raise NotApplicable(f"{type(model).__name__} has no linear, convolutional or normalising layer to describe")
    return torch.cat(found)


@torch.no_grad()
def _described(layer: nn.Module, last: nn.Module) -> Iterator[Float[Tensor, "_"]]:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        rows = layer.weight.double().cpu().flatten(1)
        if layer is last:
            rows = rows - rows.mean(0)  # what all logits share decides nothing
        size = rows.square().mean().sqrt().clamp(min=1e-12)
        values = torch.linalg.svdvals(rows)
        largest = values[:SINGULAR] / values.sum().clamp(min=1e-12)
        norms = rows.norm(dim=1)
        yield from (_quantiles(rows.flatten() / size), _quantiles(norms / norms.mean().clamp(min=1e-12)), largest)
    elif isinstance(layer, _BatchNorm) and layer.affine and layer.running_mean is not None:
        for values in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            if values is not None:
                yield _quantiles(values.double().cpu())


def _quantiles(values: Float[Tensor, "n"]) -> Float[Tensor, "q"]:
    place = torch.linspace(0, 1, QUANTILES, dtype=torch.double) * (len(values) - 1)
    ordered, below = values.sort().values, place.long()
    return torch.lerp(ordered[below], ordered[(below + 1).clamp(max=len(values) - 1)], place - below)


def classified(known: Float[Tensor, "n d"], labels: Tensor, asked: Float[Tensor, "m d"]) -> Float[Tensor, "m"]:
    """Ridge regression of labels 1 and -1, on features standardised by the known models."""
    from sklearn.linear_model import RidgeCV

    mean, spread = known.mean(0), known.std(0)
    varies = spread > 1e-9 * (1 + mean.abs())
    if not varies.any():
        return torch.zeros(len(asked), dtype=known.dtype)
    given, new = (((part - mean) / spread)[:, varies].numpy() for part in (known, asked))
    found = RidgeCV(STRENGTHS).fit(given, labels.double().numpy() * 2 - 1)
    return torch.as_tensor(found.predict(new))
