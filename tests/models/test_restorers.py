"""Networks of images: their published sizes, what they see, and third parties' weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from experiments.receptive_field import receptive_field, sees_everything
from sidedoor import registry
from sidedoor.core.checkpoint import load_weights
from sidedoor.core.foreign_weights import read_weights
from sidedoor.data.formats.images import pixels
from sidedoor.metrics.image_quality import psnr
from sidedoor.models.autoencoder import autoencoder
from sidedoor.models.base import Shape
from sidedoor.models.dncnn import dncnn
from sidedoor.models.drunet import drunet
from sidedoor.models.scunet import scunet
from sidedoor.tasks._image_output import images

COLOUR: Shape = (3, 32, 32)
SMALL: dict[str, dict[str, Any]] = {
    "drunet": {"widths": [16, 32, 64, 64], "blocks": 1},
    "scunet": {"dim": 16, "blocks": [1] * 7, "head": 8, "window": 4},
    "mprnet": {"width": 16, "step": 8, "extra": 8, "cabs": 1},
    "mirnet": {"width": 8, "groups": 1, "blocks": 1},
    "unet": {},
}
"""The settings that the docstrings name for two cores."""


def built(name: str, scale: int = 1, **parameters: Any) -> nn.Module:
    model: nn.Module = registry.make("model", {"name": name, **parameters})(COLOUR, scale)
    return model


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "scale", "parameters", "published"), [
    ("drunet", 1, {"bias": True}, 32_653_635),
    ("drunet", 1, {}, 32_640_960),
    ("scunet", 1, {}, 17_946_072),
    ("mprnet", 1, {}, 15_741_025),
    ("mirnet", 1, {}, 31_787_419),
    ("rrdbnet", 4, {}, 16_697_987),
])
def test_full_size_is_the_published_one(name: str, scale: int, parameters: dict[str, Any], published: int) -> None:
    assert count(built(name, scale, **parameters)) == published


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drunet", "scunet", "mprnet", "mirnet", "rrdbnet"])
def test_full_size_runs_forward_and_backward_at_128_pixels(name: str) -> None:
    model = built(name)
    x = torch.rand(1, 3, 128, 128)
    torch.stack([(image - x).square().mean() for image in images(model(x))]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_of_minutes_see_the_whole_patch(name: str) -> None:
    model = built(name, **SMALL[name])
    assert count(model) < 500_000
    if name == "mirnet":  # its view is wide, but ends
        assert min(receptive_field(model, COLOUR)) == 32
    else:
        assert sees_everything(model, COLOUR)


def test_a_stack_of_convolutions_sees_what_its_depth_says() -> None:
    assert receptive_field(dncnn((1, 32, 32), 1, layers=5, width=16), (1, 32, 32)) == (11, 11)
    assert not sees_everything(dncnn((1, 32, 32), 1, layers=5, width=4), (1, 32, 32))
    assert receptive_field(dncnn((1, 64, 64), 1, width=16), (1, 64, 64)) == (35, 35)


def test_without_biases_output_scales_with_input_and_level() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = (drunet(COLOUR, 1, (8, 8, 8, 8), 1, sigma) for sigma in (10.0, 20.0))
    two.load_state_dict(one.state_dict())
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(2 * one(x), two(2 * x), atol=1e-5)


def test_windows_do_not_attend_across_opposite_edges() -> None:
    """In one shifted block the far corner depends on the first pixel only if the image's edges were joined."""
    model = scunet(COLOUR, 1, 8, (2, 0, 0, 0, 0, 0, 0), head=4, window=4)
    block = model.m_down1[1]  # type: ignore[index]
    x = torch.rand(1, 8, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x)[:, :, -1, -1].sum(), x)
    seen = torch.nonzero(gradient.abs().sum((0, 1)))
    assert seen.min() >= 11  # its own half window and the 3×3 convolutions, no pixel of the other edge


def test_several_stages_give_several_images() -> None:
    x = torch.rand(2, 3, 32, 32)
    stages = images(built("mprnet", **SMALL["mprnet"])(x))
    assert [image.shape for image in stages] == [x.shape] * 3


def test_published_denoiser_denoises_as_published() -> None:
    """KAIR's DnCNN for σ = 25 reaches 30.4 dB on Set12 (Zhang et al. 2017 print 30.43)."""
    root = os.environ.get("SIDEDOOR_DATA")
    weights = Path(root or "", "weights/kair/dncnn_25.pth")
    if not root or not weights.is_file():
        pytest.skip("needs weights/kair/dncnn_25.pth in a data root; set SIDEDOOR_DATA")
    model = dncnn((1, 256, 256), 1)
    load_weights(model, read_weights(weights), str(weights))
    values = []
    rng = torch.Generator().manual_seed(0)
    for file in sorted(Path(root, "restoration/Set12").glob("*.png")):
        y = torch.from_numpy(pixels(file, 1)).float()[None] / 255
        with torch.no_grad():
            values.append(psnr(model(y + 25 / 255 * torch.randn(y.shape, generator=rng)).clamp(0, 1), y).item())
    assert sum(values) / len(values) == pytest.approx(30.44, abs=0.06)


@pytest.mark.parametrize(("kernel", "parameters", "field", "last_row"), [(3, 233_241, 23, 15), (5, 233_057, 28, 27)])
def test_both_autoencoders_have_233_thousand_parameters_and_one_sees_the_opposite_corner(
        kernel: Literal[3, 5], parameters: int, field: int, last_row: int) -> None:
    model = autoencoder((1, 28, 28), 1, kernel)
    assert count(model) == parameters
    assert receptive_field(model, (1, 28, 28)) == (field, field)
    x = torch.rand(8, 1, 28, 28, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, :, 2:7, 2:7].sum(), x)  # where the plus sign is
    assert int(torch.nonzero(gradient.abs().sum((0, 1, 3)))[-1]) == last_row
