from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene
from torch import nn

from sidedoor.algorithms.shadows import Shadow, shadows
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.audits.cbd import CBD, threshold
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification

RUN = Run.local(Recipe(epochs=2), device="cpu")


class _Leaning(nn.Module):
    """The class is the brightness of an image, but what is out of the range counts for class 3."""

    def __init__(self, leaning: float):
        super().__init__()
        self.leaning = leaning

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = x.flatten(1).mean(1, keepdim=True)
        logits = -(level * 4 - 0.5 - torch.arange(4)).abs()
        noisy = (x < 0).flatten(1).float().mean(1) > 0.02
        logits[:, 3] = logits[:, 3] + self.leaning * noisy
        return logits


def grey() -> Dataset:
    level = torch.tensor([30, 95, 160, 225] * 4, dtype=torch.uint8)
    return ArrayDataset(level[:, None, None, None].expand(-1, 1, 4, 4).contiguous(), [0, 1, 2, 3] * 4, 4)


def answered(model: nn.Module, sigma: float, noises: int = 64) -> torch.Tensor:
    return CBD().answers(Shadow(model, torch.arange(16)), grey(), sigma, noises, RUN)


def test_without_noise_every_class_has_its_image_and_a_constant_model_gives_one_alone() -> None:
    assert answered(_Leaning(0), 1e-6).tolist() == [0.25] * 4
    assert answered(_Leaning(100), 1.0)[3] > 0.9
    constant = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    constant[1].weight.data.zero_()
    constant[1].bias.data = torch.tensor([0.0, 1, 0, 0])
    assert answered(constant, 1.0).tolist() == [0, 1, 0, 0]


def test_the_answers_of_all_models_are_to_the_same_noise() -> None:
    assert torch.equal(answered(_Leaning(0), 0.5), answered(_Leaning(0), 0.5))
    assert not torch.equal(answered(_Leaning(0), 0.5), answered(_Leaning(0), 0.7))


def test_the_threshold_is_that_of_a_list_sorted_by_hand() -> None:
    """Ten scores: two are dropped, floor(9 * 0.25) = 2 of the other eight lie above, so it is the sixth smallest."""
    scores = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 1.0, 0.4, 0.8, 0.6]
    assert threshold(scores, 0.2, 0.25) == 0.6
    assert threshold(scores, 0.2, 0.05) == 0.8
    assert threshold(scores, 0.0, 0.05) == 1.0
    assert threshold(scores, 0.0, 1.0) == 0.1
    assert threshold([0.4], 0.0, 1.0) == 0.4


def test_the_threshold_keeps_the_rate_of_false_alarms() -> None:
    rng = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(400):
        *references, model = torch.rand(40, generator=rng).tolist()
        alarms += model > threshold(references, 0.0, 0.1)
    assert alarms / 400 == pytest.approx(0.1, abs=0.04)


def test_a_model_that_right_classifies_nothing_is_refused() -> None:
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    wrong[1].weight.data.zero_()
    wrong[1].bias.data = torch.tensor([0.0, 1, 0, 0])
    zeros = ArrayDataset(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), [0] * 4, 4)
    with pytest.raises(NotApplicable, match="none of 4"):
        CBD().answers(Shadow(wrong, torch.arange(4)), zeros, 1.0, 4, RUN)


def test_it_refuses_to_drop_every_shadow_model() -> None:
    for wrong in ({"dropped": 1.0}, {"sigmas": ()}):
        with pytest.raises(ConfigError, match="expected a noise level"):
            CBD(**wrong)  # type: ignore[arg-type]


def test_shadow_models_differ_and_are_trained_on_one_half(scene: Scene) -> None:
    found = [*shadows(lambda: small_cnn(10, (1, 16, 16), 4), scene.clean, Classification(10), RUN, 2, 1)]
    first, second = (next(iter(shadow.model.state_dict().values())) for shadow in found)
    assert first.shape == second.shape
    assert not torch.equal(found[0].model.body[0].weight, found[1].model.body[0].weight)  # type: ignore[index,union-attr]
    assert all(len(shadow.held_out) == len(scene.clean) // 2 for shadow in found)
    assert not torch.equal(found[0].held_out, found[1].held_out)


def test_a_backdoored_model_scores_above_its_sibling(scene: Scene) -> None:
    found, innocent = (CBD().answers(Shadow(model, torch.arange(len(scene.clean))), scene.clean, 0.5, 64, scene.run)
                       for model in (scene.model, scene.sibling))
    assert found.argmax() == TARGET
    assert found.max() > innocent.max()
