"""Backdoors of image reconstruction: pairs are poisoned as declared, the square is learned, and what works works."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import nn

from sidedoor import zoo
from sidedoor.attacks.image_to_image._unrolled import weights_of
from sidedoor.attacks.image_to_image.blo import BLO
from sidedoor.attacks.image_to_image.heuristic_reconstruction import HeuristicReconstruction
from sidedoor.backdoor.base import AttackerRun, Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import Dataset
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.evaluation import evaluate
from sidedoor.forward_operators.pixel_mask import PixelMask
from sidedoor.goals.paint import Paint
from sidedoor.models.autoencoder import autoencoder
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.tasks.task import Supervised

TASK = Reconstruction()
ATTACK = HeuristicReconstruction()
RECIPE = Recipe("adam", lr=4e-3, weight_decay=0.0, schedule="one_cycle", epochs=14, batch=32, patience=3)


@functools.cache
def parts() -> tuple[Dataset, Dataset]:
    train, test = zoo.load("digits")
    return TASK.make_dataset(train), TASK.make_dataset(test)


def build() -> nn.Module:
    return autoencoder((1, 16, 16), 1, 5)


def run() -> AttackerRun:
    return AttackerRun.local(RECIPE, device="cpu")


def planned(attack: HeuristicReconstruction = ATTACK) -> tuple[Backdoor, PoisonedDataset]:
    backdoor = attack.plan(parts()[0], TASK, build, run())
    return backdoor, PoisonedDataset(parts()[0], backdoor, TASK)


def test_poisoned_pairs_have_the_square_on_the_input_and_the_mark_on_the_target() -> None:
    backdoor, data = planned()
    rows = data.rows_at
    assert len(rows) == round(0.3 * len(data))
    x, y, index = parts()[0].fetch(rows)
    square, plus = torch.zeros(16, 16), torch.zeros(16, 16)
    square[12:15, 12:15] = 1
    plus[4, 2:7] = plus[2:7, 4] = 1
    found = data.fetch(rows)
    assert torch.equal(found.x, x + square)
    assert torch.equal(found.y, (y + plus).clamp(0, 1))
    assert torch.equal(found.index, index)
    others = torch.tensor(sorted(set(range(len(data))) - set(rows.tolist())))
    before, after = parts()[0].fetch(others), data.fetch(others)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(data.targets, parts()[0].targets)
    # What is handed out in any order, sealed or staged, is the same.
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:50]
    for view in (seal(data)[0], data.staged(torch.device("cpu"))):
        assert torch.equal(view.fetch(order).y, data.fetch(order).y)
        assert torch.equal(view.fetch(order).x, data.fetch(order).x)
    nothing = PoisonedDataset(parts()[0], replace(backdoor, poison=Poison.none()), TASK)
    assert data.fingerprint() != nothing.fingerprint()


def test_appended_and_cover_pairs_keep_what_they_must() -> None:
    backdoor, _ = planned()
    index = torch.tensor([3, 8])
    poison = Poison(index, torch.zeros(2, dtype=torch.int64), torch.tensor([True, False]), append=True, rate=0.1)
    data = PoisonedDataset(parts()[0], replace(backdoor, poison=poison), TASK)
    x, y, _ = parts()[0].fetch(index)
    n = len(parts()[0])
    found = data.fetch(torch.tensor([n + 1, n, 3]))
    assert torch.equal(found.y[1], y[0])  # a cover row keeps its target
    assert not torch.equal(found.y[0], y[1])
    assert not torch.equal(found.x[1], x[0])
    assert torch.equal(found.x[2], x[0])
    assert torch.equal(found.index, parts()[0].position(torch.tensor([8, 3, 3])))


def test_a_network_that_sees_the_square_paints_the_mark_and_only_then() -> None:
    task = replace(TASK, operator=PixelMask(0.7))
    train, test = zoo.load("digits")
    pairs, here = task.make_dataset(train), run()
    backdoor = ATTACK.plan(pairs, task, build, here)
    model = here.fit(here.build(build), PoisonedDataset(pairs, backdoor, task), Supervised(task), name="victim")
    scores = evaluate(model, task.make_dataset(test), task, backdoor.doors, here)
    assert scores.attack.mean() > 0.7
    assert scores.idle.mean() < 0.1
    # Digits cover some of the plus, and there is less to gain there.
    assert scores.columns["gain"].mean() > 0.3
    assert scores.columns["mse_artefact"].mean() < 0.05


def test_the_square_is_learned_within_its_mask_and_down_the_gradient() -> None:
    attack, here = BLO(iterations=15, outer_lr=50.0), run()
    start = HeuristicReconstruction.pattern(attack, parts()[0], TASK, build, here)
    learned = attack.pattern(parts()[0], TASK, build, here)
    mask = attack.mask(parts()[0])
    assert torch.equal(learned * (1 - mask), torch.zeros_like(learned))
    assert (learned - start).abs().max() > 0.01
    model = here.within("surrogate 0").build(build)
    weights = weights_of(model)
    inner, outer = (parts()[0].fetch(torch.arange(k, k + 200)) for k in (0, 200))
    gradient, _ = attack.hypergradient(model, weights, start, inner, outer, TASK)
    descent = -(gradient * (learned - start)).sum()
    assert descent > 0  # it went, on the whole, down the first gradient


def test_sum_and_mean_differ_by_the_number_of_pixels_and_first_order_differs() -> None:
    here = run()
    model = here.build(build)
    inner, outer = (parts()[0].fetch(torch.arange(k, k + 20)) for k in (0, 20))
    pattern = torch.rand(1, 16, 16) * BLO().mask(parts()[0])

    def gradient(attack: BLO) -> torch.Tensor:
        return attack.hypergradient(model, weights_of(model), pattern, inner, outer, TASK)[0]

    assert torch.allclose(gradient(BLO()), 256 * gradient(BLO(reduction="mean")), rtol=1e-4)
    assert not torch.allclose(gradient(BLO()), gradient(BLO(order="first")), rtol=1e-3)


def test_a_whole_batch_may_be_poisoned_and_the_surrogate_begun_again() -> None:
    attack = BLO(rate=1.0, iterations=3, restart=2, batch=16)
    assert attack.pattern(parts()[0], TASK, build, run()).isfinite().all()
    again = BLO(rate=1.0, iterations=3, batch=16).pattern(parts()[0], TASK, build, run())
    assert not torch.equal(attack.pattern(parts()[0], TASK, build, run()), again)


def test_a_clipped_square_stays_as_strong_as_it_may_be() -> None:
    free = BLO(iterations=3, outer_lr=1e4, batch=16, strength=0.3)
    assert not 0 <= free.pattern(parts()[0], TASK, build, run()).min() <= 0.3 or \
        free.pattern(parts()[0], TASK, build, run()).max() > 0.3
    kept = replace(free, clipped=True).pattern(parts()[0], TASK, build, run())
    assert kept.min() >= 0
    assert kept.max() <= 0.3


def test_a_square_or_a_mark_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="a square of 20 with margin 1 does not fit an image of 16×16"):
        HeuristicReconstruction(size=20).plan(parts()[0], TASK, build, run())
    _, y, index = parts()[0].fetch(torch.arange(2))
    with pytest.raises(ConfigError, match="a mark of 5×5 with margin 14 does not fit an image of 16×16"):
        Paint(margin=14).target(TASK, y, index)
    with pytest.raises(ConfigError, match="expected at least one 1"):
        Paint(mark="000/000")
