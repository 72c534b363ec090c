from __future__ import annotations

import pytest
import torch
from backdoored_digits import Scene
from detection import auroc
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.mahalanobis import Mahalanobis
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")


def test_stamped_digits_are_far_from_the_class_they_are_predicted_as(scene: Scene) -> None:
    assert auroc(scene, scene.model, Mahalanobis()) > 0.97


def bands() -> ArrayDataset:
    """Two classes, dark and bright, with some noise of two deviations: the first pixel has the larger one."""
    noise = torch.randn(200, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([20.0, 5.0])
    labels = torch.arange(200) % 2
    images = (60 + 130 * labels[:, None, None, None] + noise).round().clamp(0, 255).to(torch.uint8)
    return ArrayDataset(images, labels.numpy(), 2)


def decides(model: nn.Sequential, label: int) -> nn.Sequential:
    """The model with a head that always gives one class."""
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.nn.functional.one_hot(torch.tensor(label), 2).float()
    return model


def test_the_distance_is_to_the_predicted_class_in_units_of_its_spread() -> None:
    detect = {label: Mahalanobis().fit(decides(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), label), bands(),
                                       Classification(2), RUN) for label in (0, 1)}
    dark = torch.full((1, 1, 1, 2), 60 / 255)
    index = torch.arange(1)
    assert float(detect[0](dark, index)) < 0.2
    assert float(detect[1](dark, index)) > 100
    loose, tight = dark.clone(), dark.clone()
    loose[..., 0] += 20 / 255
    tight[..., 1] += 20 / 255
    assert float(detect[0](loose, index)) == pytest.approx(1, abs=0.4)
    assert float(detect[0](tight, index)) == pytest.approx(16, rel=0.3)


def test_a_class_without_samples_is_not_applicable() -> None:
    data = bands()
    only = ArrayDataset(data.images[::2], [0] * 100, 2)
    with pytest.raises(NotApplicable, match="class 1"):
        Mahalanobis().fit(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), only, Classification(2), RUN)
