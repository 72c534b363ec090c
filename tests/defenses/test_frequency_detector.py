from __future__ import annotations

import numpy as np
import pytest
import torch
from backdoored_digits import Scene
from detection import auroc
from scipy.fft import dctn
from sklearn.metrics import roc_auc_score
from torch import nn

from sidedoor.data.base import Dataset, stored, unit
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.defenses.detectors._perturbations import PERTURBATIONS
from sidedoor.defenses.detectors.frequency_detector import FAINT, FrequencyDetector, FrequencyNetwork
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")


def test_the_coefficients_are_those_of_scipy() -> None:
    x = torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    expected = np.log(np.abs(dctn(x.numpy(), axes=(2, 3), norm="ortho")) + FAINT)
    torch.testing.assert_close(FrequencyNetwork((3, 16, 8)).coefficients(x), torch.from_numpy(expected), rtol=1e-3,
                               atol=1e-3)


@pytest.fixture(scope="module")
def stripes() -> tuple[Dataset, Dataset]:
    return tuple(toy(Where(None), train=200, test=100))  # type: ignore[return-value]


def test_a_kind_of_perturbation_that_it_was_not_trained_on_is_found(stripes: tuple[Dataset, Dataset]) -> None:
    kinds = tuple(name for name in PERTURBATIONS if name != "coloured_block")
    clean, test = stripes
    detect = FrequencyDetector(20, kinds).fit(nn.Identity(), clean, Classification(4), RUN)
    x, _, index = test.fetch(torch.arange(100))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        perturbed = unit(stored(PERTURBATIONS["coloured_block"](x), test.space), test.space)
    scores = torch.cat([detect(x, index), detect(perturbed, index)])
    assert roc_auc_score([0] * 100 + [1] * 100, scores.numpy()) > 0.8


def test_stamped_digits_are_found_without_a_look_at_the_model(scene: Scene) -> None:
    assert auroc(scene, scene.model, FrequencyDetector(20)) > 0.9


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_changes_every_image(name: str, stripes: tuple[Dataset, Dataset]) -> None:
    x = 0.9 * stripes[1].fetch(torch.arange(64)).x
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        changed = (PERTURBATIONS[name](x) != x).flatten(1)
    assert changed.any(1).float().mean() > 0.9
    if "block" in name:
        assert changed.float().mean() < 0.2
    if name == "white_block":
        assert 3 <= changed.sum(1).min() <= changed.sum(1).max() <= 3 * 25


def test_what_it_cannot_be_trained_on(stripes: tuple[Dataset, Dataset]) -> None:
    with pytest.raises(ConfigError, match="unknown perturbation 'sparkle'"):
        FrequencyDetector(perturbations=("sparkle",))
    with pytest.raises(ConfigError, match="unknown perturbation ''"):
        FrequencyDetector(perturbations=())
    small, _ = toy(Where(None), train=20, test=4, size=7)
    with pytest.raises(NotApplicable, match="7×7"):
        FrequencyDetector().fit(nn.Identity(), small, Classification(4), RUN)
