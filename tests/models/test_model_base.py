"""The head of any network, the features it sees, and masks on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sidedoor.errors import ConfigError
from sidedoor.models.base import Classifier, Normalize, bake, classifier, head, mask_inputs, penultimate

KEEP = torch.tensor([True, False, True, False, True, True])


class Tokens(nn.Module):
    """A network whose head sees (b, n, d)."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(2)).mean(1)


class Failing(nn.Module):
    """A network that fails after its head."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.out(x.flatten(1))
        raise RuntimeError("after the head")


def linear_net() -> Classifier:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    return classifier(body, 4, 3)


def conv_net() -> Classifier:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return classifier(body, 4, 3)


NETS = pytest.mark.parametrize("build", [linear_net, conv_net])


def step(model: nn.Module) -> None:
    """Two steps of SGD with everything that could move a pruned weight."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        nn.functional.cross_entropy(model(torch.rand(8, 3, 8, 8)), torch.arange(8) % 4).backward()
        optimiser.step()


@given(low=st.floats(0, 1), mean=st.floats(0, 1), std=st.floats(0.1, 2))
@settings(max_examples=20, deadline=None)
def test_normalize_is_affine_a_channel(low: float, mean: float, std: float) -> None:
    x = torch.full((2, 3, 4, 4), low)
    out = Normalize((mean, 0.0, mean), (std, 1.0, std))(x)
    expected = torch.tensor([(low - mean) / std, low, (low - mean) / std])
    torch.testing.assert_close(out, expected[None, :, None, None].expand(2, 3, 4, 4), atol=1e-5, rtol=1e-5)


def test_normalize_makes_grey_images_three_channels() -> None:
    x = torch.rand(2, 1, 4, 4)
    normalize = Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    torch.testing.assert_close(normalize(x), normalize(x.repeat(1, 3, 1, 1)))
    assert normalize(x).shape == (2, 3, 4, 4)


def test_normalize_does_not_write_into_its_input() -> None:
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    Normalize((0.5,) * 3, (0.25,) * 3)(x)
    assert torch.equal(x, before)


def test_head_is_the_last_linear_layer_as_wide_as_the_classes() -> None:
    body = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 7), nn.Conv2d(3, 4, 1))
    assert head(classifier(body, 4, 3)) is body[1]
    assert head(nn.Sequential(classifier(body, 4, 3))) is body[1]  # wrapped, as purifiers do


def test_head_is_a_convolution_where_no_linear_layer_is_as_wide_as_the_classes() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 7))
    assert head(classifier(body, 4, 3)) is body[1]


def test_head_of_a_foreign_network_is_its_last_linear_layer_else_its_last_convolution() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3), nn.Conv2d(3, 4, 1))
    assert head(net) is net[1]
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    assert head(convolutions) is convolutions[1]


def test_head_says_what_it_found_instead() -> None:
    body = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Linear(5, 7))
    with pytest.raises(ConfigError, match=r"Linear with 7 outputs and Conv2d with 5 outputs last; .* with 4 outputs"):
        head(classifier(body, 4, 3))
    with pytest.raises(ConfigError, match="found no Linear or Conv2d"):
        head(nn.ReLU())


@NETS
def test_penultimate_gives_what_the_head_saw(build: object) -> None:
    model = build()  # type: ignore[operator]
    x = torch.rand(5, 3, 8, 8)
    logits, features = penultimate(model, x)
    layer = head(model)
    torch.testing.assert_close(features @ layer.weight.flatten(1).T + layer.bias, logits)
    torch.testing.assert_close(logits, model(x))
    torch.testing.assert_close(features, model.body[:2](model.normalize(x)).mean((2, 3)))


@NETS
def test_penultimate_keeps_gradients_only_where_they_are_enabled(build: object) -> None:
    model = build()  # type: ignore[operator]
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    _, features = penultimate(model, x)
    (gradient,) = torch.autograd.grad(features.sum(), x)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        assert not penultimate(model, x)[1].requires_grad


def test_penultimate_leaves_no_hook_behind_even_after_an_error() -> None:
    model = linear_net()
    penultimate(model, torch.rand(1, 3, 8, 8))
    assert not head(model)._forward_pre_hooks
    failing = Failing()
    with pytest.raises(RuntimeError, match="after the head"):
        penultimate(failing, torch.rand(1, 1, 2, 2))
    assert not failing.out._forward_pre_hooks


def test_penultimate_refuses_tokens_and_heads_that_are_not_called() -> None:
    with pytest.raises(ConfigError, match=r"shape \(2, 3, 4\); expected \(b, d\)"):
        penultimate(Tokens(), torch.rand(2, 3, 2, 2))
    idle = nn.Identity()
    idle.out = nn.Linear(4, 3)
    with pytest.raises(ConfigError, match="without calling its head"):
        penultimate(idle, torch.rand(2, 3, 2, 2))


@NETS
def test_masked_inputs_have_no_influence_and_stay_pruned_under_sgd(build: object) -> None:
    model = build()  # type: ignore[operator]
    layer = head(model)
    mask_inputs(layer, KEEP)
    before = layer.weight.detach().clone()
    step(model)
    weight = layer.weight.detach()
    assert (weight[:, ~KEEP] == 0).all()
    assert (weight[:, KEEP] != before[:, KEEP]).any()
    x = torch.rand(2, 6, 3, 3) if isinstance(layer, nn.Conv2d) else torch.rand(2, 6)
    other = x.clone()
    other[:, ~KEEP] += 10
    assert torch.equal(layer(x), layer(other))


@NETS
def test_a_second_mask_replaces_the_first(build: object) -> None:
    model = build()  # type: ignore[operator]
    layer = head(model)
    original = layer.weight.detach().clone()
    mask_inputs(layer, KEEP)
    mask_inputs(layer, ~KEEP)
    assert torch.equal(layer.weight[:, ~KEEP], original[:, ~KEEP])
    assert (layer.weight[:, KEEP] == 0).all()
    mask_inputs(layer, torch.ones_like(KEEP))
    assert torch.equal(layer.weight, original)


@NETS
def test_bake_gives_plain_keys_and_the_same_outputs(build: object) -> None:
    model = build()  # type: ignore[operator]
    keys, x = set(model.state_dict()), torch.rand(2, 3, 8, 8)
    mask_inputs(head(model), KEEP)
    step(model)
    assert set(model.state_dict()) != keys
    masked = model(x)
    bake(model)
    assert set(model.state_dict()) == keys
    assert torch.equal(model(x), masked)
    fresh = build()  # type: ignore[operator]
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), masked)


def test_bake_leaves_other_parametrisations_alone() -> None:
    model = linear_net()
    nn.utils.parametrizations.weight_norm(model.body[0])
    keys = set(model.state_dict())
    mask_inputs(head(model), KEEP)
    bake(model)
    assert set(model.state_dict()) == keys


@pytest.mark.parametrize("keep", [torch.ones(5, dtype=torch.bool), torch.ones(6), torch.ones(1, 6, dtype=torch.bool)])
def test_masks_that_do_not_fit_are_refused(keep: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"expected one of torch\.bool with 6 entries"):
        mask_inputs(head(linear_net()), keep)
