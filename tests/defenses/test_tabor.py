from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn
from torch.nn import functional

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.algorithms.inversion.mask_pattern import Candidate, Recovered
from sidedoor.defenses.audits import tabor
from sidedoor.defenses.audits._mask_inversion import TINY
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse
from sidedoor.defenses.audits.tabor import TABOR
from sidedoor.engine import Recipe, Run
from sidedoor.evidence import Finding
from sidedoor.tasks.classification import Classification
from sidedoor.types import Space

SMALL = {"epochs": 30, "samples": 64, "patience": 2, "stopping": 6}
TASK = Classification(10)
RUN = Run.local(Recipe(epochs=8, lr=0.05), device="cpu")


@dataclass
class World:
    found: Recovered
    verdict: Finding
    innocent: Finding


@pytest.fixture(scope="module")
def world(scene: Scene) -> World:
    method = TABOR(**SMALL)  # type: ignore[arg-type]
    return World(method.recover(scene.model, scene.clean, [TARGET], RUN),
                 method.inspect(scene.model, scene.clean, TASK, RUN),
                 method.inspect(scene.sibling, scene.clean, TASK, RUN))


def test_the_target_class_is_named_and_a_clean_sibling_is_less_suspicious(world: World) -> None:
    assert world.verdict.suspected == (TARGET,)
    assert world.verdict.score == max(world.verdict.per_class) == world.verdict.per_class[TARGET]
    assert world.verdict.paper is not None
    assert world.verdict.paper.flagged
    assert world.verdict.score > 2 * world.innocent.score


def test_the_pattern_outside_the_mask_vanishes_which_neural_cleanse_leaves_alone(world: World, scene: Scene) -> None:
    plain = NeuralCleanse(**SMALL).recover(scene.model, scene.clean, [TARGET], RUN)  # type: ignore[arg-type]
    outside = [((1 - found.mask) * found.pattern).mean() for found in (world.found, plain)]
    assert outside[0] < 0.02 < 0.2 < outside[1]


def test_the_recovered_trigger_leads_to_its_class_alone_too(world: World, scene: Scene) -> None:
    mask, trigger = world.found.mask[0], (world.found.mask * world.found.pattern)[0]
    x = scene.clean.fetch(torch.arange(len(scene.clean))).x
    assert (scene.model((1 - mask) * x + trigger).argmax(1) == TARGET).float().mean() > 0.95
    assert scene.model(trigger[None]).argmax(1) == TARGET


def candidate() -> Candidate:
    mask = torch.tensor([[1.0, 0.5], [0.0, 0.0]])[None, None, None]
    pattern = torch.tensor([[1.0, 1.0], [0.5, 0.0]])[None, None, None]
    return Candidate(mask, pattern, torch.tensor([1]), nn.Flatten(), Space(-1.0, 1.0, 255))


def test_the_penalties_by_hand() -> None:
    """Outside the mask the pattern is 0, 0.5, 0.5, 0; on black the trigger is 1, 0, -1, -1 in [-1, 1]."""
    assert tabor.large(candidate()).tolist() == [1.5 + 1.25]
    assert tabor.large_outside(candidate()).tolist() == [1.0 + 0.5]
    assert tabor.scattered(candidate()).tolist() == [(1 + 0.25) + (0.25 + 0)]
    assert tabor.scattered_outside(candidate()).tolist() == [(0.25 + 0.25) + (0.25 + 0.25)]
    expected = functional.cross_entropy(torch.tensor([[1.0, 0.0, -1.0, -1.0]]), torch.tensor([1]))
    torch.testing.assert_close(tabor.alone(candidate()), expected[None])


def test_weights_scale_the_penalties_and_0_leaves_one_out() -> None:
    total = sum(term(candidate()) for term in TABOR(outside=2.0, scattered=4.0, scattered_outside=0.0,
                                                    alone=0.0).penalties())
    assert total.tolist() == [2.75 + 2 * 1.5 + 4 * 1.5]  # type: ignore[union-attr]
    assert len(TABOR().penalties()) == 5


def test_the_size_is_sparsity_times_smoothness_and_the_index_looks_at_its_logarithm() -> None:
    mask = candidate().mask[0].repeat(3, 1, 1, 1) * torch.tensor([1.0, 0.1, 1.0]).view(3, 1, 1, 1)
    found = Recovered(mask, torch.zeros(3, 1, 2, 2), torch.ones(3, dtype=torch.bool), torch.zeros(3))
    whole = 1.5 / 4 * 1.5 / 4
    assert TABOR().size(found).tolist() == pytest.approx([whole, whole / 1e3, whole])
    assert TABOR().scale(torch.tensor([1.0, torch.e])).tolist() == pytest.approx([0, 1])
    assert anomaly_index(TABOR().scale(TABOR().size(found)))[1] > 0


def test_a_trigger_of_one_pixel_in_a_photograph_keeps_its_size() -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[0, 0, 100, 100] = 1
    found = Recovered(mask, torch.zeros(1, 3, 224, 224), torch.ones(1, dtype=torch.bool), torch.zeros(1))
    assert TABOR().size(found).item() == pytest.approx(1 / 224**2 * 4 / (2 * 224 * 223))
    assert TABOR().size(found).item() > 100 * TINY
