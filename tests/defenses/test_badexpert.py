from __future__ import annotations

import pytest
import torch
from backdoored_digits import Scene
from detection import auroc

from sidedoor.defenses.detectors.badexpert import BaDExpert, suspicion


def test_suspicion_needs_a_sure_expert_and_a_doubting_repaired_model() -> None:
    expert, repaired = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    found = suspicion(expert, repaired).tolist()
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert found[2] == pytest.approx(1 / 3)
    assert suspicion(torch.tensor([0.5]), torch.tensor([0.25])).item() == pytest.approx(1 / (1 + min(1.0, 2.0)))
    assert suspicion(torch.tensor([0.9]), torch.tensor([0.3])).item() == pytest.approx(1 / (1 + min(0.6 / 0.9, 0.5)))


def test_the_expert_forgets_clean_images_and_keeps_the_backdoor(scene: Scene) -> None:
    expert = BaDExpert().expert(scene.model, scene.clean, scene.task, scene.run)
    accuracy, success = scene.numbers(expert)
    assert accuracy < 0.4
    assert success > 0.8
    assert len(scene.run.history["expert"]) < 50  # it stopped by itself
    assert scene.numbers(scene.model)[0] > 0.9


def test_the_repaired_model_keeps_clean_images_and_forgets_the_backdoor(scene: Scene) -> None:
    accuracy, success = scene.numbers(BaDExpert().repaired(scene.model, scene.clean, scene.task, scene.run))
    assert accuracy > 0.9
    assert success < 0.7


def test_stamped_digits_are_found(scene: Scene) -> None:
    assert auroc(scene, scene.model, BaDExpert(repair_epochs=4)) > 0.8
