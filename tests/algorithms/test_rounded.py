"""Networks with the rounding of deployed ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.algorithms.rounded import bf16, int8


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()


def test_eight_bits_are_left_of_weights_and_activations() -> None:
    model, x = network(), torch.rand(64, 2, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = int8(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for place in (0, 3):
        weight, own = rounded[place].weight.detach(), model[place].weight.detach()
        for row, given in zip(weight, own, strict=True):
            whole = row / (given.abs().max() / 127)
            assert (whole - whole.round()).abs().max() < 1e-4
            assert whole.abs().max() <= 127.001
            assert (row - given).abs().max() <= given.abs().max() / 254 + 1e-7
    assert len(torch.unique(rounded[0].weight[0])) > 10
    seen: list[torch.Tensor] = []
    rounded[3].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        out = rounded(x)
        scale = model[:3](x).max() / 255
        whole = seen[0] / scale
        assert (whole - whole.round()).abs().max() < 1e-3
        assert whole.min() == 0
        assert whole.max() > 250
        assert (out - model(x)).abs().max() < 0.03
        assert (out - model(x)).abs().max() > 0


def test_beyond_what_calibration_has_seen_it_saturates() -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)).eval()
    layer[1].weight.data.fill_(1.0)
    with torch.no_grad():
        seen = torch.tensor([-1.0, 3.0]).reshape(2, 1, 1, 1)
        out = int8(layer, seen)(torch.tensor([-5.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1, 1))
    assert out[:, 0].tolist() == pytest.approx([-1.0, 0.0, 1.0, 3.0], abs=4 / 255)
    assert out[1, 0].item() == 0.0
    with torch.no_grad():  # of the first layer all images are known: black and white belong to them
        out = int8(layer, seen / 10)(torch.tensor([-0.1, 0.5, 1.0, 9.0]).reshape(4, 1, 1, 1))
    assert out[:, 0].tolist() == pytest.approx([-0.1, 0.5, 1.0, 1.0], abs=1.1 / 255)


def test_gradients_pass_the_rounding_of_integers() -> None:
    model, x = network(), torch.rand(8, 2, 4, 4)

    def gradient(of: nn.Module) -> torch.Tensor:
        given = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(of(given)[:, 0].sum(), given)
        return found.flatten()

    exact, rounded = gradient(model), gradient(int8(model, x))
    assert exact.norm() > 0
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.98


def test_bfloat16_keeps_eight_significant_bits() -> None:
    model, x = network(), torch.rand(8, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(bf16(model)[0].weight, model[0].weight.bfloat16().float())
        whole = bf16(model)(x)
        by_hand = nn.functional.conv2d(x.bfloat16().float(), model[0].weight.bfloat16().float(), model[0].bias,
                                       padding=1).relu().flatten(1).bfloat16().float()
        assert torch.allclose(whole, by_hand @ model[3].weight.bfloat16().float().T + model[3].bias, atol=1e-5)
