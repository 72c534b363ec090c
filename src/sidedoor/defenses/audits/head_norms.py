"""Head norms: a model audit of the last layer's weights alone, of the family of DFBScanner.

Paper: Yu, Fang, Zhang, Tian, Zhu, Zhang, Liu, "Lightweight and Fast Backdoor Model Detection" (DFBScanner), 2026,
arXiv:2605.18907, which combines several indicators of the rows of the last layer. Ours is one of that kind: the length
of each class's row, centred over the classes, since a vector that is added to all rows changes no answer.

Read it as a note and never as a finding: it sees class imbalance. A class with many training rows has a long row,
whether they are poisoned or not: on digits a clean model of which one class was doubled scores 1.09 and 1.16, balanced
clean ones 1.03 to 1.06, and a backdoor of 3 % of the rows 1.04 and 1.06. It shows dirty-label all-to-one backdoors of
high rate; others, and rows that an attacker has clipped, it misses. It names no suspect and has no rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding
from sidedoor.models.base import Head, head
from sidedoor.tasks.task import Task

HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.AdaptiveAvgPool2d, nn.AvgPool2d,
               nn.MaxPool2d)
"""Layers through which the scale of a channel passes unchanged."""


@dataclass(frozen=True)
class HeadNorms(ModelAudit):
    """Compare the lengths of the rows of the last layer's weights."""

    needs: ClassVar[Needs] = Needs(model="weights")

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The longest centred row over the median one, and that of each class.

        Raises:
            NotApplicable: half of the rows are equal.
        """
        rows = _rows(model)
        length = (rows - rows.mean(0)).norm(dim=1)
        median = length.quantile(0.5)
        if median <= 0:
            raise NotApplicable("half of the rows of the model's last layer are equal, so none stands out")
        ratio = length / median
        return Finding(ratio.max().item(), per_class=tuple(ratio.tolist()))


def _rows(model: nn.Module) -> Float[Tensor, "k d"]:
    """The weights of each class, as they act on features of one scale, on the CPU."""
    layer = head(model)
    rows = layer.weight.detach().double().cpu()
    rows = rows if rows.ndim == 2 else rows.sum((2, 3))
    scale = _scale_before(model, layer)
    return rows if scale is None or len(scale) != rows.shape[1] else rows * scale


def _scale_before(model: nn.Module, layer: Head) -> Float[Tensor, "d"] | None:
    """What a batch normalisation scales the inputs of the head by, where one stands before it in its sequence."""
    sequence = next((m for m in model.modules() if isinstance(m, nn.Sequential) and layer in m.children()), None)
    if sequence is None:
        return None
    parts = [*sequence.children()]
    before = [m for m in parts[: parts.index(layer)] if not isinstance(m, HOMOGENEOUS)][-1:]
    if not before or not isinstance(before[0], nn.BatchNorm1d | nn.BatchNorm2d) or not before[0].affine:
        return None
    return torch.as_tensor(before[0].weight).detach().abs().double().cpu()
