from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from backdoored_digits import TARGET, Scene
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation
from torch import nn

from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.defenses.audits import neural_cleanse
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse, anomaly_index
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Finding, Rule
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.types import MEASUREMENT, Batch

SMALL = NeuralCleanse(epochs=30, samples=64, patience=2, stopping=6)
TASK = Classification(10)
RUN = Run.local(Recipe(epochs=8, lr=0.05), device="cpu")


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


@dataclass
class World:
    clean: Dataset
    model: nn.Module
    sibling: nn.Module
    verdict: Finding
    innocent: Finding


@pytest.fixture(scope="module")
def world(scene: Scene) -> World:
    return World(scene.clean, scene.model, scene.sibling, SMALL.inspect(scene.model, scene.clean, TASK, RUN),
                 SMALL.inspect(scene.sibling, scene.clean, TASK, RUN))


def shown(finding: Finding) -> dict[str, torch.Tensor]:
    """What the audit recovered, by name."""
    return {exhibit.name: exhibit.values for exhibit in finding.exhibits}


def test_the_target_class_has_the_smallest_mask_and_is_named(world: World) -> None:
    assert world.verdict.suspected == (TARGET,)
    assert world.verdict.score == max(world.verdict.per_class) == world.verdict.per_class[TARGET]
    assert world.verdict.paper == Rule(world.verdict.score, 2.0)
    assert world.verdict.paper.flagged


def test_a_clean_sibling_is_less_suspicious_and_its_smallest_mask_is_larger(world: World) -> None:
    assert world.innocent.score < world.verdict.score
    assert shown(world.innocent)["mask"].sum() > 2 * shown(world.verdict)["mask"].sum()


def test_the_recovered_trigger_lies_on_the_patch_and_fools_the_model(world: World) -> None:
    mask, trigger = shown(world.verdict)["mask"], shown(world.verdict)["trigger"]
    assert trigger.shape == (1, 16, 16)
    assert trigger.min() >= 0
    assert trigger.max() <= 1
    assert mask[-5:, -5:].mean() > 3 * mask.mean()
    x = world.clean.fetch(torch.arange(len(world.clean))).x
    assert (world.model((1 - mask) * x + trigger).argmax(1) == TARGET).float().mean() > 0.95


def test_the_model_is_left_alone(world: World) -> None:
    model = build().train()
    model.body[1].eval()  # type: ignore[operator, index, union-attr]
    next(model.parameters()).requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    dataclasses.replace(SMALL, epochs=1).recover(model, world.clean, range(10), RUN)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert flags == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert all(p.grad is None for p in model.parameters())


class _Double(Subset):
    """In double precision the order of sums in a larger batch does not show."""

    def fetch(self, index: torch.Tensor, device: torch.device | str = "cpu") -> Batch:
        batch = super().fetch(index, device)
        return batch._replace(x=batch.x.double())


def test_all_classes_at_once_equal_one_class_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = _Double(world.clean, torch.arange(40))
    model = build().double()
    model.load_state_dict(world.model.state_dict())
    method = NeuralCleanse(epochs=12, batch=20, patience=2, stopping=3, success=0.9)
    together = method.recover(model, clean, range(10), RUN)
    assert together.success.any()
    monkeypatch.setattr(neural_cleanse, "VALUES", {"cpu": 3 * 20 * 256})
    chunked = method.recover(model, clean, range(10), RUN)
    torch.testing.assert_close(chunked.mask, together.mask, rtol=0, atol=1e-4)
    for label in (TARGET, 8):
        alone = method.recover(model, clean, [label], RUN)
        assert alone.success[0] == together.success[label]
        torch.testing.assert_close(alone.mask[0], together.mask[label], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.pattern[0], together.pattern[label], rtol=0, atol=1e-4)


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

    def __init__(self, never: tuple[int, ...] = (), scale: float = 40.0):
        super().__init__()
        self.never, self.scale = list(never), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarters = x.mean(1).unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1)
        logits = self.scale * quarters
        logits[:, self.never] = -50 + 0 * logits[:, self.never]
        return logits


def grey(labels: int = 4) -> Dataset:
    return ArrayDataset(torch.full((8, 1, 8, 8), 100, dtype=torch.uint8), [0, 1, 2, 3] * 2, labels)


PATIENT = NeuralCleanse(epochs=30, batch=8, patience=1)


def test_a_class_without_a_successful_mask_is_not_suspicious() -> None:
    found = PATIENT.recover(_Brightest(never=(2,)), grey(), range(4), RUN)
    assert found.success.tolist() == [True, True, False, True]
    assert found.norm[2] == 64
    finding = PATIENT.inspect(_Brightest(never=(2,)), grey(), Classification(4), RUN)
    assert finding.per_class[2] < 0 < finding.score


@pytest.mark.parametrize("never", [(0, 1), (0, 1, 3)])
def test_a_model_of_which_half_the_classes_have_no_mask_is_not_judged(never: tuple[int, ...]) -> None:
    """One mask of any size among them would have the index 4 / 1.25, above the threshold of 2."""
    with pytest.raises(NotApplicable, match=rf"found a mask for {4 - len(never)} of 4 classes.*needs more than half"):
        PATIENT.inspect(_Brightest(never), grey(), Classification(4), RUN)
    assert anomaly_index(torch.tensor([1023.9, 1024, 1024, 1024]))[0].item() == pytest.approx(4 / 1.2533)


def test_two_classes_are_refused_because_their_index_is_a_constant() -> None:
    assert {round(anomaly_index(torch.tensor([small, 100.0]))[0].item(), 4) for small in (0.1, 9.0, 99.0)} == {0.6745}
    with pytest.raises(NotApplicable, match="2 classes given; Neural Cleanse needs 3 or more"):
        PATIENT.inspect(nn.Identity(), grey(), Classification(2), RUN)


def test_logits_that_are_not_finite_lead_to_no_class() -> None:
    with pytest.raises(NotApplicable, match="found a mask for 0 of 4 classes"):
        PATIENT.inspect(_Brightest(scale=torch.nan), grey(), Classification(4), RUN)


def test_the_cost_follows_success() -> None:
    costs = neural_cleanse._Costs(NeuralCleanse(patience=2, stopping=3, cost=1.0), 1)
    seen = []
    for won in (1, 1, 1, 1, 0, 0, 0, 0):
        costs.update([0], torch.tensor([bool(won)]), torch.tensor([5.0]))
        seen.append(costs.cost.item())
    assert seen == pytest.approx([0, 1, 1, 2, 2, 2 / 2**1.5, 2 / 2**1.5, 2 / 8])
    assert costs.done.item()
    assert costs.best.item() == 5.0


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="above 1"):
        NeuralCleanse(raising=1.0)
    unbounded = ArrayDataset(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1], 2)
    unbounded.space = MEASUREMENT
    with pytest.raises(NotApplicable, match="bounded"):
        NeuralCleanse().inspect(build(), unbounded, TASK, RUN)
