"""Networks that hide pictures: sizes as published, and what they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.attacks.poisoning import _stegastamp
from sidedoor.attacks.poisoning._image_hiding import Critic, Extractor, Injection, _instance
from sidedoor.attacks.poisoning._stegastamp import Decoder, Encoder


@pytest.mark.parametrize(("network", "parameters"), [
    (lambda: Injection(3), 16_665_737), (lambda: Extractor(3), 2_777_859), (lambda: Critic(3), 1_555_585),
    (lambda: _stegastamp.Critic(3), 25_105), (lambda: Encoder((3, 32, 32), 20), 1_047_011),
    (lambda: Decoder((3, 32, 32), 20), 756_538),
    (lambda: Encoder((3, 224, 224), 100), 16_185_827), (lambda: Decoder((3, 224, 224), 100), 16_526_218)])
def test_parameters_are_as_many_as_published(network: type[nn.Module], parameters: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == parameters


@pytest.mark.parametrize("side", [28, 32, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_keep_it(side: int, channels: int) -> None:
    x = torch.rand(2, channels, side, side)
    hidden = Injection(channels, 4)(x, x)
    assert hidden.shape == x.shape
    assert (hidden.min(), hidden.max()) >= (0, 0)
    assert hidden.max() <= 1
    assert Extractor(channels, 4, 1)(x).shape == x.shape
    assert Critic(channels, 4)(x).shape == (2, 1, -(-side // 16), -(-side // 16))
    shape = (channels, side, side)
    assert Encoder(shape, 5)(x, torch.ones(2, 5)).shape == x.shape
    assert Decoder(shape, 5)(x).shape == (2, 5)
    assert _stegastamp.Critic(channels)(x).shape == (2,)


def test_training_starts_near_the_cover() -> None:
    torch.manual_seed(0)
    x = torch.rand(8, 3, 32, 32)
    assert (Injection(3, 8)(x, torch.ones_like(x)) - x).abs().mean() < 0.06


def test_groups_of_one_channel_are_torchs_instance_normalisation() -> None:
    x = torch.rand(4, 8, 6, 7) * 3 + 1
    ours, theirs = _instance(8), nn.InstanceNorm2d(8, affine=True)
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.arange(8.0))
            norm.bias.copy_(-torch.arange(8.0))
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_one_step_of_the_full_networks_reaches_every_parameter() -> None:
    x = torch.rand(2, 3, 32, 32)
    pair = nn.ModuleList([Injection(3), Extractor(3)])
    pair[1](pair[0](x, 1 - x)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters())
