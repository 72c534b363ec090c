"""Linear models of random weights, of which some lean to a class whatever they see."""

from __future__ import annotations

import torch
from torch import nn

from sidedoor.algorithms.shadow_pool import Pool
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")
TASK = Classification(8)
BLANK = ArrayDataset(torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8,
                                   generator=torch.Generator().manual_seed(0)), [0, 1, 2, 3] * 5, 8)


def leaning(count: int, seed: int, bias: float) -> list[nn.Module]:
    """Models with a bias for a class, each for another one."""
    rng = torch.Generator().manual_seed(seed)
    models = []
    for number in range(count):
        layer = nn.Linear(16, 8)
        layer.weight.data = 0.15 * torch.randn(8, 16, generator=rng)
        layer.bias.data = torch.zeros(8)
        layer.bias.data[(number + seed) % 8] = bias
        models.append(nn.Sequential(nn.Flatten(), layer).requires_grad_(False))
    return models


def pool(count: int) -> Pool:
    """Clean ones and leaning ones in turns."""
    turns = zip(leaning(count // 2, seed=0, bias=0.0), leaning(count // 2, seed=5, bias=2.0), strict=True)
    return Pool(tuple(model for pair in turns for model in pair), torch.arange(count) % 2 == 1)
