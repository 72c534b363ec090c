from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from backdoored_digits import Scene
from detection import auroc
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.ibd_psc import IBDPSC, amplified, error_of
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(2), Run.local(device="cpu")


class Chain(nn.Module):
    """Class 1 where the first pixel, after batch normalisations that change nothing, is above 1; a second pixel above
    0.5 makes it class 0 in any case.
    """

    def __init__(self, layers: int, limit: float = 1.0):
        super().__init__()
        self.layers = nn.Sequential(*(nn.BatchNorm2d(1, eps=0.0) for _ in range(layers)))
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.layers(x[:, :, :1, :1]).flatten()
        sure = 1e3 * (x[:, 0, 0, 1] > 0.5)
        return torch.stack([20 * (self.limit - value) + sure, torch.zeros_like(value)], 1)


def clean() -> ArrayDataset:
    """First pixels from 0.1 to 0.9, all of class 0."""
    pixels = np.zeros((81, 1, 1, 2), dtype=np.uint8)
    pixels[:, 0, 0, 0] = (np.arange(10, 91) * 2.55).round()
    return ArrayDataset(pixels, [0] * 81, 2)


def test_the_clean_error_grows_with_every_layer_and_the_model_is_left_alone() -> None:
    model = Chain(8).eval()
    state = copy.deepcopy(model.state_dict())
    errors = [error_of(amplified(model, count, 1.5), clean(), TASK, RUN) for count in range(1, 9)]
    assert errors == sorted(errors)
    assert errors[1] < 0.6 < errors[2]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_models_begin_with_the_first_that_misclassifies_enough() -> None:
    assert IBDPSC().amplifications(Chain(8).eval(), clean(), TASK, RUN) == [(k, 1.5) for k in (3, 4, 5, 6, 7)]


def test_without_further_layers_the_factor_is_raised() -> None:
    found = IBDPSC(models=3).amplifications(Chain(4).eval(), clean(), TASK, RUN)
    assert found == [(3, 1.5), (4, 1.5), (4, pytest.approx(1.65))]
    one = IBDPSC(models=2).amplifications(Chain(1).eval(), clean(), TASK, RUN)
    assert one == [(1, pytest.approx(1.5**3)), (1, pytest.approx(1.1 * 1.5**3))]


def test_inputs_whose_prediction_stays_score_near_one() -> None:
    detect = IBDPSC().fit(Chain(8), clean(), TASK, RUN)
    score = detect(torch.tensor([[[[0.8, 0.0]]], [[[0.8, 1.0]]]]), torch.arange(2))
    assert score[0] < 0.05
    assert score[1] > 0.95


def test_it_is_not_applicable_without_batch_norm_or_where_amplification_does_nothing() -> None:
    with pytest.raises(NotApplicable, match="no batch normalisation"):
        IBDPSC().fit(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), clean(), TASK, RUN)
    with pytest.raises(NotApplicable, match=r"rate of 0\.00"):
        IBDPSC().fit(Chain(1, limit=1e6), clean(), TASK, RUN)
    with pytest.raises(ConfigError, match="above 1"):
        IBDPSC(factor=1.0)


def test_stamped_digits_keep_their_prediction(scene: Scene) -> None:
    assert auroc(scene, scene.model, IBDPSC()) > 0.6
