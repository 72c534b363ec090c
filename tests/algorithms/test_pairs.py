"""Which batch normalisation takes the output of which convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidedoor import registry
from sidedoor.algorithms.pruning.pairs import convolutions_and_norms, outlying, require_width
from sidedoor.errors import NotApplicable

SHAPE = (3, 32, 32)


@pytest.mark.parametrize(("reference", "count"), [
    ({"name": "small_cnn", "width": 4}, 3), ({"name": "resnet18", "width": 4}, 20),
    ({"name": "vgg19_bn", "width": 4}, 16), ({"name": "preact_resnet18", "width": 4}, 9),
    ({"name": "cifar_resnet", "depth": 8}, 7)],
    ids=lambda value: value.get("name", "") if isinstance(value, dict) else "")
def test_pairs_follow_the_data(reference: dict[str, Any], count: int) -> None:
    model = registry.make("model", reference)(10, SHAPE).eval()
    pairs = convolutions_and_norms(model, SHAPE)
    assert len(pairs) == count
    for conv, norm in pairs:
        assert model.get_submodule(conv).out_channels == model.get_submodule(norm).num_features
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_sum_comes_from_no_convolution() -> None:
    """In a pre-activation block conv1 feeds bn2; bn1 takes the sum of the block before, whatever is registered last."""
    model = registry.make("model", {"name": "preact_resnet18", "width": 4})(10, SHAPE).eval()
    first, *others = convolutions_and_norms(model, SHAPE)
    assert first == ("body.0", "body.1.bn1")  # the stem, which feeds the first block alone
    assert others == [(f"body.{n}.conv1", f"body.{n}.bn2") for n in range(1, 9)]


def test_a_network_without_pairs_is_refused() -> None:
    model = registry.make("model", {"name": "vit", "depth": 1, "width": 48})(10, SHAPE).eval()
    with pytest.raises(NotApplicable, match="no convolution that is followed by batch normalisation"):
        convolutions_and_norms(model, SHAPE)


def test_outlying_counts_unbiased_standard_deviations() -> None:
    values = torch.tensor([0.0] * 24 + [1.0])
    assert outlying(values)[-1].item() == pytest.approx(24 / 5)  # (c - 1) / √c, the most there can be
    assert torch.equal(outlying(torch.ones(3)), torch.zeros(3))
    assert torch.equal(outlying(torch.ones(1)), torch.zeros(1))


def test_narrow_layers_are_refused() -> None:
    require_width([4, 11], 3.0)
    with pytest.raises(NotApplicable, match="10 channels"):
        require_width([4, 10], 3.0)
