"""Tuned queries: what tells backdoored models from clean ones on models that were not tuned on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.algorithms.shadow_pool import Pool
from sidedoor.algorithms.tuned_queries import Tuning, answers, tuned
from sidedoor.engine import Run
from sidedoor.types import PHOTO

RUN = Run.local(device="cpu")


def pixel_models(count: int, seed: int) -> Pool:
    """Linear models of four pixels; in every second one the first pixel leads to a class, of any, far too much."""
    rng = torch.Generator().manual_seed(seed)
    models = []
    for number in range(count):
        layer = nn.Linear(4, 6)
        layer.weight.data = torch.randn(6, 4, generator=rng)
        layer.bias.data = torch.zeros(6)
        layer.weight.data[number % 5, 0] = 6.0 if number % 2 else 0.0
        models.append(nn.Sequential(nn.Flatten(), layer).requires_grad_(False))
    return Pool(tuple(models), torch.arange(count) % 2 == 1)


def test_unseen_models_are_told_apart_and_queries_stay_in_range() -> None:
    start = torch.full((2, 1, 2, 2), 0.5)
    found = tuned(pixel_models(32, 0), start, nn.Linear(12, 1), Tuning(80, 0.05, 0.05), PHOTO, RUN)
    fresh = pixel_models(40, 1)
    odds = torch.stack([found.suspicion(model) for model in fresh.models])
    assert odds[fresh.backdoored].median() > 0 > odds[~fresh.backdoored].median()
    right = ((odds > 0) == fresh.backdoored).float().mean()
    assert right > 0.8
    assert found.queries.min() >= 0
    assert found.queries.max() <= 1
    assert found.queries[:, 0, 0, 0].max() > 0.6  # the pixel that tells


def test_the_step_that_suits_the_held_out_models_is_taken() -> None:
    """Their labels are the wrong way round, so every step makes it worse for them, and the start is the best."""
    pool = pixel_models(32, 0)
    wrong = pool.backdoored.clone()
    held = torch.arange(32) // 2 % 4 == 3
    wrong[held] = ~wrong[held]
    classifier, start = nn.Linear(12, 1), torch.full((2, 1, 2, 2), 0.5)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    found = tuned(Pool(pool.models, wrong), start, classifier, Tuning(40, 0.05, 0.05), PHOTO, RUN)
    assert torch.equal(found.queries, start)
    assert found.classifier.weight.abs().max() == 0  # type: ignore[operator,union-attr]


def test_neither_the_level_nor_the_size_of_logits_counts_nor_which_class_is_which() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).requires_grad_(False)
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    before = answers(model, x)
    order = torch.tensor([2, 0, 1])
    model[1].weight.data, model[1].bias.data = 3 * model[1].weight[order], 3 * model[1].bias[order] + 7
    torch.testing.assert_close(answers(model, x), before, rtol=1e-4, atol=1e-5)
    assert before.mean().item() == pytest.approx(0, abs=1e-5)
    assert before.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (before.view(5, 3).diff(dim=1) <= 0).all()


def test_smoothness_makes_queries_smooth() -> None:
    """Biases tell the models apart, so that every step is better than the one before, whatever the queries are."""
    start = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False) for _ in range(8)]
    for model in models[1::2]:
        model[1].bias[0] += 3
    pool = Pool(tuple(models), torch.arange(8) % 2 == 1)

    def roughness(smoothness: float) -> float:
        torch.manual_seed(0)
        x = tuned(pool, start, nn.Linear(6, 1), Tuning(40, 0.01, 0.02, smoothness), PHOTO, RUN).queries
        return x.diff(dim=2).abs().mean().item()

    assert roughness(100.0) < 0.7 * roughness(0.0)
