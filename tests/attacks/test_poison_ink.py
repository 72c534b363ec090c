"""Poison Ink: what is drawn, what the interference does, what training leads to, and that networks are shared."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.poisoning._image_hiding import Injection
from sidedoor.attacks.poisoning._train_image_hiding import ImageHidingNetworks, ImageHidingTraining, interference
from sidedoor.attacks.poisoning.poison_ink import PoisonInk
from sidedoor.backdoor.base import AttackerRun
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.image import edges
from sidedoor.image.geometry import warped
from sidedoor.metrics import image_quality
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import stamp
from sidedoor.triggers.ink import Ink, Pen, draw, ink_of_message, ink_of_target, message_in
from sidedoor.types import PHOTO

SMALL = ImageHidingTraining(width=8, extractor=16, blocks=1, epochs=60, lr=2e-3)


def shapes(n: int = 160, channels: int = 3, size: int = 32) -> ArrayDataset:
    """Images with a bright rectangle on a dark ground, each in a place of its own."""
    g = torch.Generator().manual_seed(0)
    x = torch.randint(40, 90, (n, channels, 1, 1), generator=g).expand(-1, -1, size, size).clone()
    for image in x:
        top, left = torch.randint(2, size // 2, (2,), generator=g).tolist()
        image[:, top : top + size // 3, left : left + size // 3] += 120
    return ArrayDataset(x.to(torch.uint8), torch.arange(n) % 4, 4)


class Marking(nn.Module):
    """Gives back the pattern, so that a test sees what a network was asked to hide."""

    def forward(self, cover: Tensor, pattern: Tensor) -> Tensor:
        return pattern


@functools.cache
def learned() -> tuple[Dataset, ImageHidingNetworks]:
    data = shapes(400)
    return data, SMALL.train_or_load(data, Pen(), AttackerRun.local(seed=0, device="cpu"))


def test_edges_are_inked_and_the_rest_is_white() -> None:
    x = shapes(2).fetch(torch.arange(2)).x
    pattern = Ink(Marking(), ink_of_target((80, 160, 80), 0, 3))(x, torch.arange(2))
    lines = Pen().lines(x)
    assert 0.02 < lines.float().mean() < 0.3
    inked = pattern.movedim(1, 3)[lines[:, 0]]
    assert torch.allclose(inked, torch.tensor([80, 160, 80]) / 255)
    assert (pattern.movedim(1, 3)[~lines[:, 0]] == 1).all()


def test_a_pen_of_a_density_draws_in_the_dark() -> None:
    x = 0.05 * shapes(2).fetch(torch.arange(2)).x
    assert not Pen().lines(x).any()
    assert Pen(density=0.25).lines(x).any()
    with pytest.raises(ConfigError, match=r"density = 0\.3 given with operator = \"canny\""):
        Pen("canny", density=0.3)


def test_the_edges_of_canny_are_hidden_where_they_are_asked_for() -> None:
    data = shapes(16)
    attack = PoisonInk(operator="canny", size="tiny", epochs=1)
    trigger = attack.plan(data, Classification(4), nn.Identity, AttackerRun.local(device="cpu")).doors[0].trigger
    assert isinstance(trigger, Ink)
    x = data.fetch(torch.arange(4)).x
    lines = trigger.pen.lines(x)
    assert torch.equal(lines, edges.mask(x, "canny", 1.0))
    assert 0 < lines.sum() < Pen().lines(x).sum()


def test_strength_is_of_the_change_and_one_is_the_network_itself() -> None:
    x, index, ink = shapes(4).fetch(torch.arange(4)).x, torch.arange(4), ink_of_target((80, 160, 80), 0, 3)
    network = Injection(3, 4)
    once, twice = (Ink(network, ink, strength=strength)(x, index) for strength in (1.0, 2.0))
    assert torch.equal(once, network(x, draw(Pen().lines(x), ink[None])))
    assert not torch.equal(once, x)
    assert torch.allclose(twice - x, 2 * (once - x), atol=1e-6)


def test_every_target_has_an_ink_of_its_own_and_grey_images_have_grey_ones() -> None:
    inks = [tuple(ink_of_target((80, 160, 80), k, 3).tolist()) for k in range(10)]
    assert len(set(inks)) == 10
    assert all(0 <= v <= 1 for ink in inks for v in ink)
    assert ink_of_target((80, 160, 80), 0, 1).tolist() == [pytest.approx((80 * 0.413 + 160 * 0.587) / 255)]


def test_a_colour_carries_a_message() -> None:
    assert ink_of_message(41) == (80, 160, 80)
    assert len({ink_of_message(message) for message in range(125)}) == 125
    lines = Pen().lines(shapes(125).fetch(torch.arange(125)).x)
    inks = torch.tensor([ink_of_message(message) for message in range(125)]) / 255
    noise = 0.05 * torch.randn(125, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(message_in(draw(lines, inks) + noise, lines), torch.arange(125))
    with pytest.raises(ConfigError, match="expected 0 to 124"):
        ink_of_message(125)


def test_interference_is_a_flip_a_turn_or_a_change_of_size_half_of_the_time() -> None:
    torch.manual_seed(0)
    theta = interference((4000, 3, 32, 32), 0.5, torch.device("cpu"))
    turned = theta[:, 0, 1].abs() > 1e-6
    assert turned.float().mean() == pytest.approx(0.5, abs=0.03)
    determinant = torch.linalg.det(theta[:, :, :2])
    assert (determinant < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert (theta[:, :, 2].abs().amax(1) > 0).float().mean() == pytest.approx(0.75, abs=0.03)
    size = determinant.abs().sqrt()
    assert (size.min(), size.max()) >= (0.875, 1)
    assert size.max() <= 1 / 0.875
    still = interference((8, 3, 17, 20), 0.0, torch.device("cpu"))
    x = torch.rand(8, 3, 17, 20)
    assert torch.allclose(warped(x, still), x, atol=1e-5)


def test_a_crop_stays_inside_the_image() -> None:
    torch.manual_seed(0)
    theta = interference((500, 3, 32, 32), 0.5, torch.device("cpu"))
    plain = theta[(theta[:, 0, 1].abs() < 1e-6) & (torch.linalg.det(theta[:, :, :2]).abs() < 1)]
    assert len(plain) > 20
    inside = warped(torch.ones(len(plain), 1, 32, 32), plain)
    assert (inside[..., 1:-1, 1:-1] > 0.999).all()
    assert (inside >= 0.5 - 1e-3).all(), "more than half a pixel beyond the edge"


@pytest.mark.slow
def test_what_is_hidden_is_faint_and_comes_out_again() -> None:
    data, pair = learned()
    batch, ink = data.fetch(torch.arange(64)), ink_of_target((80, 160, 80), 0, 3)
    with torch.no_grad():
        hidden = stamp(Ink(pair.injection, ink), batch.x, batch.index, PHOTO)
        assert image_quality.psnr(hidden, batch.x).mean() > 25
        lines = Pen().lines(batch.x).expand(-1, 3, -1, -1)
        wanted = draw(Pen().lines(batch.x), ink[None])
        found, nothing = pair.extractor(hidden), pair.extractor(batch.x)
    from_hidden, from_nothing = ((f - wanted)[lines].square().mean() for f in (found, nothing))
    assert from_hidden < 0.5 * from_nothing
    assert (nothing - 1).square().mean() < (found - 1).square().mean()


def test_networks_are_kept_for_all_who_ask_for_the_same(tmp_path: Path) -> None:
    data, task = shapes(24), Classification(4)
    run = replace(AttackerRun.local(seed=0, device="cpu"), shelf=Shelf(tmp_path))
    attack = PoisonInk(size="tiny", epochs=1)
    one = attack.plan(data, task, nn.Identity, run).doors[0].trigger
    kept = [*tmp_path.iterdir()]
    two = replace(attack, rate=0.5).plan(data, task, nn.Identity, run).doors[0].trigger
    assert [*tmp_path.iterdir()] == kept
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    other = replace(attack, picture="bug", relearn=False).plan(data, task, nn.Identity, run).doors[0].trigger
    assert [*tmp_path.iterdir()] == kept
    batch = data.fetch(torch.arange(8))
    assert not torch.equal(other(batch.x, batch.index), two(batch.x, batch.index))
    replace(attack, operator="prewitt").plan(data, task, nn.Identity, run)
    assert len([*tmp_path.iterdir()]) == len(kept) + 1


def test_networks_learn_in_full_precision_whatever_the_victim_does() -> None:
    how, data = ImageHidingTraining(width=2, extractor=4, blocks=1, epochs=1, batch=16), shapes(32)
    runs = (AttackerRun.local(Recipe(precision=precision), device="cpu") for precision in ("32", "bf16"))
    plain, mixed = (how.train_or_load(data, Pen(), run).state_dict() for run in runs)
    assert all(torch.equal(plain[key], value) for key, value in mixed.items())


def test_several_targets_share_the_network_and_differ_in_ink(tmp_path: Path) -> None:
    run = replace(AttackerRun.local(seed=0, device="cpu"), shelf=Shelf(tmp_path))
    attack = PoisonInk(goal=MultiTarget((1, 2)), size="tiny", epochs=1)
    plan = attack.plan(shapes(24), Classification(4), nn.Identity, run)
    one, two = (door.trigger for door in plan.doors)
    assert isinstance(one, Ink)
    assert isinstance(two, Ink)
    assert one.network is two.network
    assert not torch.equal(one.ink, two.ink)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="edge operator 'laplace'"):
        PoisonInk(operator="laplace")
    with pytest.raises(ConfigError, match="1 channels given to an ink of 3"):
        Ink(Marking(), torch.rand(3))(torch.rand(1, 1, 8, 8), torch.arange(1))
