"""Spectral signatures: poisoned digits stand out, while they are a minority of their class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import ArrayDataset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.filters.base import standardised
from sidedoor.defenses.filters.spectral_signatures import SpectralSignatures, signature
from sidedoor.engine import Recipe, Run
from sidedoor.method import lasting
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

TASK = Classification(10)


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


def test_poisoned_rows_of_a_backdoored_set_score_highest() -> None:
    splits, run = digits(Where(None)), Run.local(Recipe(epochs=10), device="cpu")
    backdoor = BadNets(rate=0.02).plan(splits.train, TASK, build, AttackerRun.of(run))
    data = PoisonedDataset(splits.train, backdoor, TASK)
    view, order = seal(data)
    truth = data.is_poisoned()[order]

    victim = run.fit(run.build(build), view, Supervised(TASK), name="victim")
    assert TASK.score(victim, splits.test, backdoor.doors[0], run).means()["attack"] > 0.8  # the premise

    scores = SpectralSignatures().score(view, TASK, build, run)
    assert scores.shape == (len(view),)
    assert roc_auc_score(truth, scores) > 0.9
    in_target = view.targets == 0
    assert roc_auc_score(truth[in_target], scores[in_target]) > 0.9


def test_the_signature_is_the_squared_projection_on_numpys_first_singular_vector() -> None:
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = features.numpy() - features.numpy().mean(0)
    first = np.linalg.svd(centred, full_matrices=False)[2][0]
    np.testing.assert_allclose(signature(features).numpy(), (centred @ first) ** 2, rtol=1e-9)


def test_the_released_code_projects_what_it_did_not_centre() -> None:
    """Rows that lie far out and rows near the centre change places; the direction is that of the centred ones."""
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    first = np.linalg.svd(features.numpy() - features.numpy().mean(0), full_matrices=False)[2][0]
    released = signature(features, centring=False)
    np.testing.assert_allclose(released.sqrt().numpy(), np.abs(features.numpy() @ first), rtol=1e-9)
    assert not torch.equal(released.argsort(), signature(features).argsort())


def test_the_projection_is_chosen_by_the_option_and_left_out_of_keys_at_its_default() -> None:
    rows = torch.arange(60)
    images = torch.randint(0, 256, (60, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data, run = ArrayDataset(images, rows % 2, 2), Run.local(Recipe(epochs=1), device="cpu")
    found = [SpectralSignatures(how).score(data, Classification(2), lambda: small_cnn(2, (1, 16, 16), 4), run)
             for how in ("centred", "uncentred")]
    assert not torch.allclose(*found)
    assert torch.equal(SpectralSignatures().score(data, Classification(2), lambda: small_cnn(2, (1, 16, 16), 4), run),
                       found[0])
    assert lasting(SpectralSignatures()) == {}
    assert lasting(SpectralSignatures("uncentred")) == {"projection": "uncentred"}


def test_more_features_than_rows_is_no_obstacle() -> None:
    features = torch.randn(5, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, largest, _ = np.linalg.svd(features.numpy() - features.numpy().mean(0))
    assert signature(features).sum().item() == pytest.approx(largest[0] ** 2)


def test_classes_of_different_scale_are_pooled_on_one_scale() -> None:
    scores, labels = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(100)
    both = standardised(torch.cat([scores, scores * 1000 + 5]), torch.cat([labels // 100, labels // 100 + 1]))
    torch.testing.assert_close(both[:100], both[100:])


def test_a_minority_far_out_scores_high_though_it_inflates_the_spread() -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(100, 4, generator=rng, dtype=torch.float64)
    features[:20, 0] += 10
    scores = standardised(signature(features), torch.zeros(100, dtype=torch.int64))
    assert scores[:20].min() > scores[20:].max()
    assert scores[:20].mean() > 10  # a mean and standard deviation would give 2 at most


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_class_of_few_or_equal_rows_is_not_suspicious_and_not_nan(rows: int) -> None:
    scores = signature(torch.ones(rows, 3, dtype=torch.float64))
    assert standardised(scores, torch.zeros(rows, dtype=torch.int64)).tolist() == [0.0] * rows
