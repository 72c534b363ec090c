from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from backdoored_digits import Scene
from sklearn.metrics import roc_auc_score
from torch import nn

from sidedoor import engine
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.detectors.strip import Strip, entropy
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch

TASK = Classification(10)
RUN = Run.local(Recipe(epochs=8, lr=0.05), device="cpu")


@dataclass
class World:
    clean: Dataset
    model: nn.Module
    sibling: nn.Module
    test: Batch
    stamped: torch.Tensor

    def auroc(self, model: nn.Module, method: Strip) -> float:
        detect = method.fit(model, self.clean, TASK, RUN)
        scores = torch.cat([detect(self.test.x, self.test.index), detect(self.stamped, self.test.index)])
        return float(roc_auc_score([0] * len(self.test.y) + [1] * len(self.test.y), scores))


@pytest.fixture(scope="module")
def world(scene: Scene) -> World:
    eligible = scene.door.goal.eligible(TASK, scene.test.targets)
    batch = scene.test.fetch(torch.nonzero(eligible)[:150, 0])
    stamped = stamp(scene.door.trigger, batch.x, batch.index, scene.test.space)
    return World(scene.clean, scene.model, scene.sibling, batch, stamped)


def test_stamped_inputs_keep_a_low_entropy_in_a_backdoored_model_only(world: World) -> None:
    assert world.auroc(world.model, Strip(overlays=20)) > 0.9
    assert world.auroc(world.sibling, Strip(overlays=20)) < 0.7


def test_entropy_in_bits() -> None:
    assert entropy(torch.full((1, 8), 1 / 8)).item() == pytest.approx(3)
    assert entropy(torch.tensor([[0.0, 1.0, 0.0]])).item() == 0
    assert entropy(torch.tensor([[0.5, 0.25, 0.25]])).item() == pytest.approx(1.5)


class _Answer(nn.Module):
    """Logits that depend on the brightness of the first pixel: uniform where it is 0, sure of class 0 where it is 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1, 0, 0] * torch.tensor([[1000.0, 0, 0, 0, 0]])


def grey(value: int, count: int = 4) -> ArrayDataset:
    return ArrayDataset(torch.full((count, 3, 4, 6), value, dtype=torch.uint8), [0] * count, 5)


@pytest.mark.parametrize(("value", "bits"), [(0, math.log2(5)), (255, 0.0)])
def test_suspicion_is_minus_the_entropy_of_the_blends(value: int, bits: float) -> None:
    detect = Strip(overlays=3).fit(_Answer(), grey(value), Classification(5), RUN)
    score = detect(torch.zeros(2, 3, 4, 6), torch.arange(2))
    assert score.tolist() == pytest.approx([-bits, -bits], abs=1e-6)


class _Record(nn.Module):
    """Keeps what it is shown."""

    seen: list[torch.Tensor] = []  # noqa: RUF012 - shared with the copy that the detector makes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return x.flatten(1)[:, :5]


def test_inputs_are_added_and_saturate_and_weights_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Record, "seen", [])
    x, index = torch.full((2, 3, 4, 6), 0.75), torch.arange(2)
    Strip(overlays=2).fit(_Record(), grey(102), Classification(5), RUN)(x, index)
    Strip(2, 0.5, 0.5).fit(_Record(), grey(102), Classification(5), RUN)(x, index)
    added, averaged = _Record.seen
    torch.testing.assert_close(added, torch.ones(4, 3, 4, 6))
    torch.testing.assert_close(averaged, torch.full((4, 3, 4, 6), 0.575))


def test_no_forward_pass_exceeds_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Record, "seen", [])
    monkeypatch.setattr(engine, "AT_ONCE", {"cpu": 5 * 72})
    Strip(overlays=4).fit(_Record(), grey(10), Classification(5), RUN)(torch.rand(3, 3, 4, 6), torch.arange(3))
    assert [len(x) for x in _Record.seen] == [5, 5, 2]


def test_a_score_belongs_to_the_image_and_its_index(world: World) -> None:
    x, index = world.test.x[:30], world.test.index[:30]
    detect = Strip(overlays=8).fit(world.model, world.clean, TASK, RUN)
    scores = detect(x, index)
    order = torch.randperm(30)
    torch.testing.assert_close(detect(x[order], index[order]), scores[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([detect(x[:7], index[:7]), detect(x[7:], index[7:])]), scores,
                               rtol=1e-4, atol=1e-5)
    again = Strip(overlays=8).fit(world.model, world.clean, TASK, RUN)
    assert torch.equal(again(x, index), scores)
    assert not torch.allclose(detect(x, index + 1), scores, atol=1e-3)
    other = Strip(overlays=8).fit(world.model, world.clean, TASK, Run.local(seed=1, device="cpu"))
    assert not torch.allclose(other(x, index), scores, atol=1e-3)


def test_the_model_is_left_alone_and_its_mode_does_not_matter(world: World) -> None:
    model = copy.deepcopy(world.model).train()
    state = copy.deepcopy(model.state_dict())
    x, index = world.test.x[:10], world.test.index[:10]
    scores = Strip(overlays=4).fit(model, world.clean, TASK, RUN)(x, index)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(scores, Strip(overlays=4).fit(world.model, world.clean, TASK, RUN)(x, index))
    assert not scores.requires_grad
