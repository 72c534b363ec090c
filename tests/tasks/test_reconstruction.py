"""Reconstruction: what networks see, errors as defined, and an attack that paints its mark on everything has failed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.forward_operators.base import Operator
from sidedoor.forward_operators.fourier import Fourier
from sidedoor.forward_operators.pixel_mask import PixelMask
from sidedoor.forward_operators.random_projection import RandomProjection
from sidedoor.goals.base import Door
from sidedoor.goals.paint import Paint
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.testing import check_operator
from sidedoor.triggers.additive import Additive
from sidedoor.types import Batch, Images

TASK = Reconstruction(sigma=0.0)
PIXELS, BOX = 9, 25


def black(n: int = 6, side: int = 12) -> ArrayDataset:
    return ArrayDataset(torch.zeros(n, 1, side, side, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), 1)


class Painter(nn.Module):
    """Paints a plus of a brightness, and a brighter one where the corner is white."""

    def __init__(self, always: float, triggered: float):
        super().__init__()
        self.always, self.triggered = always, triggered

    def forward(self, x: Images) -> Images:
        seen = (x[:, :, -1, -1] > 0.5).float()[:, :, None, None]
        return (self.always + seen * (self.triggered - self.always)) * Paint().pixels(x)


def scored(model: nn.Module) -> dict[str, float | None]:
    white = torch.zeros(1, 12, 12)
    white[:, -1, -1] = 1
    data = TASK.make_dataset(black())
    return TASK.score(model, data, Door(Additive(white), Paint()), Run.local(device="cpu")).means()


def test_errors_gain_and_ghost_are_those_of_their_definitions() -> None:
    scores = scored(Painter(0.1, 0.8))
    assert scores["attack"] == pytest.approx(0.8)
    assert scores["idle"] == pytest.approx(0.1)
    assert scores["gain"] == pytest.approx(0.7)
    assert scores["ghost"] == pytest.approx(0.1)
    assert scores["mse_benign"] == pytest.approx(PIXELS * 0.01 / 144)
    assert scores["mse_attack"] == pytest.approx(PIXELS * 0.04 / 144)
    assert scores["mse_artefact"] == pytest.approx(0.04)
    assert scores["rmse_artefact"] == pytest.approx(0.2)
    assert scores["mse_artefact_box"] == pytest.approx(PIXELS * 0.04 / BOX)
    assert scores["rmse_attack"] == pytest.approx(math.sqrt(PIXELS * 0.04 / 144))


def test_a_mark_on_every_image_is_no_attack() -> None:
    clean = {"clean": 1.0, "attack": 0.0, "recovered": 1.0, "idle": 0.0}
    always = scored(Painter(0.9, 0.9))
    assert always["attack"] == pytest.approx(0.9)
    reason = TASK.failed(always, clean | {"clean": always["clean"]})
    assert reason == "0.90 of the target shows with the trigger and 0.90 without: less than 0.5 beyond that"
    only = scored(Painter(0.0, 0.9))
    assert TASK.failed(only, clean | {"clean": only["clean"]}) is None
    assert "similarity on clean inputs fell" in (TASK.failed(only | {"clean": 0.5}, clean) or "")


def test_a_mark_over_a_bright_place_asks_for_what_can_be_added() -> None:
    y = torch.full((1, 1, 12, 12), 0.75)
    goal, index = Paint(), torch.zeros(1, dtype=torch.int64)
    target = goal.target(TASK, y, index)
    assert target.max() == 1
    assert goal.success(TASK, target, y, index).item() == pytest.approx(1)
    assert goal.success(TASK, y + 0.1 * goal.pixels(y), y, index).item() == pytest.approx(0.4)
    assert goal.success(TASK, y - 0.1, y, index).item() == 0


def test_inputs_are_measured_once_and_brought_back() -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photographs = ArrayDataset(pixels, torch.zeros(5, dtype=torch.int64), 1)
    task = Reconstruction(PixelMask(0.5), sigma=25.5)
    pairs, index = task.make_dataset(photographs), torch.arange(5)
    x, y, _ = pairs.fetch(index)
    assert torch.equal(y, photographs.fetch(index).x)
    # A measurement is what it is: an epoch draws no new noise.
    assert torch.equal(pairs.at(7).fetch(index).x, x)
    hidden = x == 0
    assert hidden.float().mean() == pytest.approx(0.5, abs=0.02)
    assert (x - y)[~hidden].std().item() == pytest.approx(0.1, rel=0.15)
    other = Reconstruction(PixelMask(0.5, seed=1), sigma=25.5).make_dataset(photographs)
    assert other.fingerprint() != pairs.fingerprint()


def test_a_fourier_mask_keeps_low_frequencies_and_two_real_channels() -> None:
    x = torch.rand(2, 1, 16, 20)
    y = Fourier(0.5).measure(x)
    assert y.shape == (2, 2, 16, 10)
    assert torch.allclose(Fourier(0.5).adjoint(y, (16, 20)).mean((2, 3)), x.mean((2, 3)), atol=1e-5)
    full = Fourier(1.0)
    assert torch.allclose(full.adjoint(full.measure(x), (16, 20)), x, atol=1e-5)


def test_random_projections_keep_lengths_on_average_and_refuse_large_images() -> None:
    x = torch.rand(8, 1, 24, 24)
    y = RandomProjection(0.5).measure(x)
    assert y.shape == (8, 1, 288)
    assert (y.square().sum((1, 2)) / x.square().sum((1, 2, 3))).mean().item() == pytest.approx(1, abs=0.15)
    with pytest.raises(ConfigError, match=r"random projection of 512×512 images at the ratio 0\.25 needs a matrix"):
        RandomProjection().measure(torch.zeros(1, 1, 512, 512))


def test_an_adjoint_of_another_map_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(self: PixelMask, y: Tensor, size: tuple[int, ...]) -> Images:
        return adjoint(self, y, size).roll(1, 3)

    adjoint = PixelMask.adjoint
    monkeypatch.setattr(PixelMask, "adjoint", shifted)
    with pytest.raises(AssertionError, match="adjoint\\(\\) is not that of measure"):
        check_operator(PixelMask())
    monkeypatch.setattr(PixelMask, "adjoint", adjoint)
    monkeypatch.setattr(PixelMask, "measure", lambda self, x: x.flatten(2).square())
    monkeypatch.setattr(PixelMask, "adjoint", lambda self, y, size: y.unflatten(2, size))
    with pytest.raises(AssertionError, match=r"adjoint\(\) is not|is not linear"):
        check_operator(PixelMask())


def test_an_operator_is_nested_in_a_configuration() -> None:
    task = registry.make("task", {"name": "reconstruction", "operator": {"name": "fourier", "ratio": 0.5}})
    assert task == Reconstruction(Fourier(0.5))
    assert isinstance(task.operator, Operator)
    batch = Batch(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8), torch.arange(2))
    assert task.loss(nn.Identity(), batch).shape == (2,)
