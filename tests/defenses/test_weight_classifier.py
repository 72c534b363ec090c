"""Weight classifier: statistics that no permutation of hidden channels changes, and a rule learned from a pool."""

from __future__ import annotations

import pytest
import torch
from shadow_toys import BLANK, RUN, TASK
from torch import nn

from sidedoor.algorithms.shadow_pool import Pool
from sidedoor.defenses.audits import weight_classifier
from sidedoor.defenses.audits.weight_classifier import WeightClassifier, classified, features
from sidedoor.errors import NotApplicable
from sidedoor.metrics.statistics import auroc
from sidedoor.models.small_cnn import small_cnn


def network(seed: int, heavy: float = 1.0) -> nn.Module:
    """A small network, one class of whose head has heavier weights."""
    torch.manual_seed(seed)
    model = small_cnn(4, (1, 16, 16), 4).eval().requires_grad_(False)
    model.body[-1].weight[2] *= heavy  # type: ignore[index,union-attr]
    return model


def test_permuted_channels_change_nothing_and_other_weights_do() -> None:
    model, other = network(0), network(1)
    body = model.body
    assert isinstance(body, nn.Sequential)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(body[1], name).copy_(torch.rand(4, generator=torch.Generator().manual_seed(len(name))) + 0.5)
    before, order = features(model), torch.tensor([2, 0, 3, 1])
    x = torch.rand(3, 1, 16, 16)
    answer = model(x)
    for tensor in (body[0].weight, *(getattr(body[1], name) for name in ("weight", "bias", "running_mean",
                                                                        "running_var"))):
        tensor.copy_(tensor[order])
    assert not torch.allclose(model(x), answer)  # the premise: halfway it is another network
    body[4].weight.copy_(body[4].weight[:, order])
    torch.testing.assert_close(model(x), answer)
    torch.testing.assert_close(features(model), before)
    assert (features(other) - before).abs().max() > 1e-3


def test_what_all_logits_share_changes_nothing() -> None:
    model = network(0)
    before = features(model)
    model.body[-1].weight += 0.1 * torch.arange(16)  # type: ignore[index,union-attr]
    torch.testing.assert_close(features(model), before, rtol=1e-4, atol=1e-4)


def test_models_of_a_heavy_class_score_above_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shadows = tuple(network(seed, 4.0 if seed % 2 else 1.0) for seed in range(24))
    pool = Pool(shadows, torch.arange(24) % 2 == 1)
    monkeypatch.setattr(weight_classifier, "shadow_pool", lambda *_: pool)
    dirty, clean = ([WeightClassifier().inspect(network(seed, heavy), BLANK, TASK, RUN) for seed in range(50, 54)]
                    for heavy in (4.0, 1.0))
    scores = (torch.tensor([found.score for found in part]).numpy() for part in (dirty, clean))
    assert auroc(*scores) == 1.0
    assert sum(found.paper is not None and found.paper.flagged for found in dirty) >= 3
    assert sum(found.paper is not None and found.paper.flagged for found in clean) <= 1


def test_features_that_do_not_vary_say_nothing() -> None:
    labels = torch.tensor([False, True] * 4)
    same = torch.ones(8, 3, dtype=torch.double)
    assert classified(same, labels, 5 * same[:2]).tolist() == [0.0, 0.0]
    told = torch.cat([same, labels.double()[:, None]], 1)
    found = classified(told, labels, torch.tensor([[9.0, 9, 9, 1], [9, 9, 9, 0]], dtype=torch.double))
    assert found[0] > 0.5
    assert found[1] < -0.5


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(NotApplicable):
        features(nn.Sequential(nn.Flatten()))
