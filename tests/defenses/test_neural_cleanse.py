from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from backdoored_digits import TARGET, Scene
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import nn

from sidedoor.algorithms.anomaly_index import anomaly_index
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Finding, Rule
from sidedoor.method import lasting
from sidedoor.tasks.classification import Classification

SMALL = NeuralCleanse(epochs=30, samples=64, patience=2, stopping=6)
TASK = Classification(10)
RUN = Run.local(Recipe(epochs=8, lr=0.05), device="cpu")


@dataclass
class World:
    clean: Dataset
    model: nn.Module
    sibling: nn.Module
    verdict: Finding
    innocent: Finding
    images: int
    """That the model was shown for the verdict."""


@contextlib.contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """How many images the model, or a copy of it, is shown each time."""
    seen: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def world(scene: Scene) -> World:
    with counted(scene.model) as seen:
        verdict = SMALL.inspect(scene.model, scene.clean, TASK, RUN)
    return World(scene.clean, scene.model, scene.sibling, verdict,
                 SMALL.inspect(scene.sibling, scene.clean, TASK, RUN), sum(seen))


def shown(finding: Finding) -> dict[str, torch.Tensor]:
    """What the audit recovered, by name."""
    return {exhibit.name: exhibit.values for exhibit in finding.exhibits}


def test_the_target_class_has_the_smallest_mask_and_is_named(world: World) -> None:
    assert world.verdict.suspected == (TARGET,)
    assert world.verdict.score == max(world.verdict.per_class) == world.verdict.per_class[TARGET]
    assert world.verdict.paper is not None
    assert world.verdict.paper.threshold == 2.0
    assert world.verdict.paper.flagged


def test_a_clean_sibling_is_less_suspicious_and_its_smallest_mask_is_larger(world: World) -> None:
    assert world.innocent.score < 2 < 4 < world.verdict.score
    assert shown(world.innocent)["mask"].sum() > 2 * shown(world.verdict)["mask"].sum()


def test_the_recovered_trigger_lies_on_the_patch_and_fools_the_model(world: World) -> None:
    mask, trigger = shown(world.verdict)["mask"], shown(world.verdict)["trigger"]
    assert trigger.shape == (1, 16, 16)
    assert trigger.min() >= 0
    assert trigger.max() <= 1
    assert mask[-5:, -5:].mean() > 3 * mask.mean()
    x = world.clean.fetch(torch.arange(len(world.clean))).x
    assert (world.model((1 - mask) * x + trigger).argmax(1) == TARGET).float().mean() > 0.95


def test_with_a_margin_the_target_stays_and_fewer_images_are_looked_at(world: World, scene: Scene) -> None:
    whole = dataclasses.replace(SMALL, batch=8)
    with counted(scene.model) as seen:
        brief = dataclasses.replace(whole, margin=1.25).inspect(scene.model, scene.clean, TASK, RUN)
    assert 2 * sum(seen) < world.images, "which does not depend on the size of batches"
    assert brief.suspected == (TARGET,)
    assert brief.score == max(brief.per_class) == brief.per_class[TARGET]
    assert brief.score > 2 * world.innocent.score
    alone = whole.recover(scene.model, scene.clean, [TARGET], RUN)
    assert shown(brief)["mask"].sum().item() == pytest.approx(alone.norm.item(), rel=0.05)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 1000), min_size=2, max_size=30))
def test_the_index_is_the_distance_below_the_median_in_scaled_mads(norms: list[float]) -> None:
    scale = median_abs_deviation(norms, scale="normal")
    index = anomaly_index(torch.tensor(norms, dtype=torch.float64)).numpy()
    if scale > 1e-6:
        np.testing.assert_allclose(index, (np.median(norms) - norms) / scale, rtol=1e-4, atol=1e-9)
    assert np.isfinite(index).all()


def test_the_index_without_deviation() -> None:
    assert anomaly_index(torch.full((10,), 7.0)).tolist() == [0.0] * 10
    index = anomaly_index(torch.tensor([2.0] + [9.0] * 9))
    assert index[0].item() == pytest.approx(7 / (1.2533 * 0.7))
    assert index[1:].tolist() == [0.0] * 9


class _Brightest(nn.Module):
    """Sees the class of the brightest quarter of an image; of some classes it is never persuaded."""

    def __init__(self, never: tuple[int, ...] = (), scale: float = 40.0, classes: int = 4):
        super().__init__()
        self.never, self.scale, self.classes = list(never), scale, classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = x.mean(1).unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1)
        logits = self.scale * quarters[:, : self.classes]
        logits[:, self.never] = -50 + 0 * logits[:, self.never]
        return logits


def grey(labels: int = 4) -> Dataset:
    return ArrayDataset(torch.full((8, 1, 8, 8), 100, dtype=torch.uint8), [n % labels for n in range(8)], labels)


PATIENT = NeuralCleanse(epochs=30, batch=8, patience=1)


def test_the_score_is_the_median_norm_over_the_smallest_and_the_paper_has_the_index() -> None:
    norm = PATIENT.recover(_Brightest(), grey(), range(4), RUN).norm
    finding = PATIENT.inspect(_Brightest(), grey(), Classification(4), RUN)
    assert finding.per_class == pytest.approx((np.median(norm) / norm).tolist())
    assert finding.score == max(finding.per_class)
    assert finding.paper == Rule(anomaly_index(norm).max().item(), 2.0)


def test_a_class_without_a_successful_mask_is_not_suspicious() -> None:
    found = PATIENT.recover(_Brightest(never=(2,)), grey(), range(4), RUN)
    assert found.success.tolist() == [True, True, False, True]
    assert found.norm[2] == 64
    finding = PATIENT.inspect(_Brightest(never=(2,)), grey(), Classification(4), RUN)
    assert min(finding.per_class) == finding.per_class[2] < 1 < finding.score
    assert finding.paper is not None


@pytest.mark.parametrize("never", [(0, 1), (0, 1, 3)])
def test_where_half_the_classes_have_no_mask_the_paper_is_silent_and_the_score_is_no_constant(never: tuple[int, ...]) \
        -> None:
    """One mask of any size among them would have the index 4 / 1.25, above the threshold of 2."""
    norm = PATIENT.recover(_Brightest(never), grey(), range(4), RUN).norm
    assert [n for n in range(4) if norm[n] == 64] == list(never)
    finding = PATIENT.inspect(_Brightest(never), grey(), Classification(4), RUN)
    assert finding.paper is None
    assert finding.suspected == ()
    assert finding.score == pytest.approx((np.median(norm) / norm.min()).item())
    assert anomaly_index(torch.tensor([1023.9, 1024, 1024, 1024]))[0].item() == pytest.approx(4 / 1.2533)


def test_two_classes_have_a_score_and_no_index() -> None:
    assert {round(anomaly_index(torch.tensor([small, 100.0]))[0].item(), 4) for small in (0.1, 9.0, 99.0)} == {0.6745}
    scores = []
    for never in ((), (1,)):
        finding = PATIENT.inspect(_Brightest(never, classes=2), grey(2), Classification(2), RUN)
        assert finding.paper is None
        assert finding.suspected == ()
        scores.append(finding.score)
    assert scores[1] > 1.5 * scores[0] > 1.5


def test_without_any_mask_nothing_is_said() -> None:
    with pytest.raises(NotApplicable, match=r"99% of the images, for none of 4 classes; give more epochs"):
        PATIENT.inspect(_Brightest(scale=torch.nan), grey(), Classification(4), RUN)


def test_a_mask_that_vanishes_has_a_finite_score() -> None:
    """Where a model gives one class for everything, that class needs no mask at all."""
    finding = dataclasses.replace(PATIENT, epochs=100, lr=0.5).inspect(_Brightest(never=(0, 1, 2)), grey(),
                                                                       Classification(4), RUN)
    assert finding.per_class[3] == finding.score > 1e3


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in ({"raising": 1.0}, {"lowering": 1.0}, {"margin": 1.0}):
        with pytest.raises(ConfigError, match="above 1"):
            NeuralCleanse(**wrong)  # type: ignore[arg-type]


def test_the_margin_came_later_and_is_no_part_of_keys_at_its_default() -> None:
    assert "margin" not in lasting(NeuralCleanse())
    assert lasting(NeuralCleanse(margin=1.25))["margin"] == 1.25
