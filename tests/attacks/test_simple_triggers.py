"""Triggers that Poison Ink is compared with: the published figures of their strength, and what they do to a pixel."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

from sidedoor import zoo
from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.attacks.poisoning.ftrojan import FTrojan
from sidedoor.attacks.poisoning.lsb import LSB
from sidedoor.attacks.poisoning.sig import SIG
from sidedoor.attacks.poisoning.spm import SPM
from sidedoor.backdoor.base import AttackerRun
from sidedoor.bench.spec import Spec
from sidedoor.data.base import ArrayDataset
from sidedoor.data.pictures import bitmap, save_png
from sidedoor.errors import ConfigError
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import lasting
from sidedoor.metrics import image_quality
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.triggers.frequency import Frequency
from sidedoor.triggers.low_bits import LowBits
from sidedoor.types import PHOTO

GREY = torch.full((2, 3, 32, 32), 128 / 255)
INDEX = torch.arange(2)


def trigger(attack: Attack, shape: tuple[int, int, int] = (3, 32, 32)) -> Trigger:
    data = ArrayDataset(torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % 10, 10)
    run = AttackerRun.local(device="cpu")
    return attack.plan(data, Classification(10), torch.nn.Identity, run).doors[0].trigger


def psnr(error: Tensor) -> float:
    return 10 * math.log10(1 / error.square().mean().item())


def test_a_quarter_of_the_pixels_are_six_levels_brighter() -> None:
    change = 255 * (trigger(SPM())(GREY, INDEX) - GREY)
    assert change[0, 0, ::2, ::2].unique().tolist() == pytest.approx([6])
    assert (change != 0).float().mean() == 0.25
    assert psnr(change / 255) == pytest.approx(48.1308 - 10 * math.log10(9), abs=1e-3)


def test_the_lowest_bits_are_the_message() -> None:
    x = torch.randint(0, 256, (4, 3, 16, 20), generator=torch.Generator().manual_seed(0)) / 255
    levels = (stamp(LowBits((1, 1, 1, 0, 0, 1, 0, 0)), x, torch.arange(4), PHOTO) * 255).round().long()
    assert (levels % 2)[1, 2, 5].tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0]
    assert torch.equal(levels // 2, (x * 255).round().long() // 2)
    assert LSB()._bits(0) == (1, 1, 1, 0, 0, 1, 0, 0)
    assert LSB()._bits(1) == (1, 1, 1, 0, 0, 1, 0, 1)


def test_ftrojan_raises_the_coefficients_that_the_paper_names() -> None:
    change = trigger(FTrojan())(GREY, INDEX)[0].double().numpy() - GREY[0].double().numpy()
    red, green, blue = (255 * dctn(plane, norm="ortho") for plane in change)
    expected = np.zeros((32, 32))
    expected[15, 15] = expected[31, 31] = 20
    # U and V are raised alike, and come back as red, green and blue by BT.601.
    for plane, weight in ((red, 1.140), (green, -0.395 - 0.581), (blue, 2.032)):
        assert np.allclose(plane, weight * expected, atol=1e-4)
    grey = trigger(FTrojan(), (1, 32, 32))(GREY[:, :1], INDEX)[0, 0] - GREY[0, 0]
    assert np.allclose(grey.numpy() * 255, idctn(expected, norm="ortho"), atol=1e-4)


def opencv_from_ycrcb(grey: Any, cr: Any, cb: Any) -> Any:
    """Eight bits by the integers of OpenCV's documentation: 14 bits of fraction, half a unit added, shifted."""
    cr, cb, half = cr - 128, cb - 128, 1 << 13
    return np.clip([grey + ((22987 * cr + half) >> 14), grey + ((-5636 * cb - 11698 * cr + half) >> 14),
                    grey + ((29049 * cb + half) >> 14)], 0, 255)


def released_ftrojan(image: Any) -> Any:
    """(3, 32, 32) levels: OpenCV's YCrCb in 8 bits, a coefficient transform, its inverse, fractions cut off."""
    red, green, blue, half = *image, 1 << 13
    grey = (4899 * red + 9617 * green + 1868 * blue + half) >> 14
    planes = []
    for plane in (((red - grey) * 11682 + half) >> 14, ((blue - grey) * 9241 + half) >> 14):
        coefficients = dctn(np.clip(plane + 128, 0, 255).astype(float), norm="ortho")
        coefficients[15, 15] += 20
        coefficients[31, 31] += 20
        planes.append(np.clip(np.floor(idctn(coefficients, norm="ortho") + 1e-9), 0, 255).astype(np.int64))
    return opencv_from_ycrcb(grey, *planes)


def test_ftrojan_as_released_is_what_opencvs_integers_and_scipys_transform_make() -> None:
    levels = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    levels[:10] = levels[:10] // 8 + 100  # of half of the images nothing is clipped
    index = torch.arange(20)
    found = stamp(trigger(FTrojan(space="YCrCb")), levels / 255, index, PHOTO)
    expected = np.stack([released_ftrojan(image) for image in levels.numpy()])
    assert np.array_equal((found * 255).round().long().numpy(), expected)
    assert psnr(found[:10] - levels[:10] / 255) < psnr(
        stamp(trigger(FTrojan()), levels[:10] / 255, index[:10], PHOTO) - levels[:10] / 255) - 0.5
    assert lasting(FTrojan()).keys() == lasting(FTrojan(space="YCrCb")).keys() - {"space"}


def test_a_wave_is_as_strong_as_published_before_it_is_clipped() -> None:
    assert psnr(trigger(SIG())(GREY, INDEX) - GREY) == pytest.approx(25.12, abs=0.005)


@pytest.mark.parametrize("attack", [SPM, LSB, FTrojan])
def test_targets_have_triggers_of_their_own(attack: type[Attack]) -> None:
    data = ArrayDataset(torch.full((20, 3, 32, 32), 100, dtype=torch.uint8), torch.arange(20) % 10, 10)
    plan = attack(goal=MultiTarget((0, 1, 2))).plan(data, Classification(10), lambda: torch.nn.Identity(),
                                                    AttackerRun.local(device="cpu"))
    stamped = [stamp(door.trigger, GREY, INDEX, PHOTO) for door in plan.doors]
    assert len(stamped) == 3
    assert not any(torch.equal(a, b) for i, a in enumerate(stamped) for b in stamped[:i])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected between 0 and 255"):
        LSB(message=256)
    with pytest.raises(ConfigError, match="expected bits"):
        LowBits((1, 2))
    with pytest.raises(ConfigError, match="at least 2 pixels"):
        Frequency(window=1)


INK_PATCH = "001/010/101"
"""The BadNets patch of the comparisons in Poison Ink."""


def test_a_patch_may_be_written_as_rows_and_grows_with_the_targets() -> None:
    plan = BadNets(goal=MultiTarget(tuple(range(5))), pattern=INK_PATCH).plan(
        ArrayDataset(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 10, 10), Classification(10),
        lambda: torch.nn.Identity(), AttackerRun.local(device="cpu"))
    first, fifth = (plan.doors[k].trigger(torch.zeros(1, 1, 8, 8), INDEX[:1])[0, 0] for k in (0, 4))
    assert first[5:, 5:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert first.sum() == 4
    assert torch.equal(fifth[2:, 2:], torch.kron(first[5:, 5:], torch.ones(2, 2)))
    for wrong in ("01/1", "", "012/010", "circle"):
        with pytest.raises(ConfigError, match="rows of 0 and 1"):
            bitmap(wrong)


@pytest.mark.parametrize(("name", "lit", "shape"), [("line", 5, (1, 5)), ("cross", 9, (5, 5)), ("compass", 17, (5, 5))])
def test_verification_triggers_have_names_and_look_the_same_from_every_side(
        name: str, lit: int, shape: tuple[int, int]) -> None:
    pattern = bitmap(name)[0]
    assert tuple(pattern.shape) == shape
    assert pattern.sum() == lit
    assert torch.equal(pattern, pattern.flip(0).flip(1))
    assert name == "line" or torch.equal(pattern, pattern.T)
    stamped = trigger(BadNets(pattern=name), (3, 8, 8))(torch.zeros(1, 3, 8, 8), INDEX[:1])
    assert torch.equal(stamped[0, 1, 8 - shape[0] :, 3:], pattern)
    assert stamped.sum() == 3 * lit


def test_a_picture_may_be_the_patch(tmp_path: Path) -> None:
    drawing = torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_png(drawing, tmp_path / "sticker.png")
    attack = BadNets(size=5, margin=1, picture=str(tmp_path / "sticker.png"))
    stamped = trigger(attack)(GREY, INDEX)
    assert torch.equal(stamped[:, :, -6:-1, -6:-1], (drawing / 255).expand(2, -1, -1, -1))
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[-6:-1, -6:-1] = False
    assert torch.equal(stamped[..., outside], GREY[..., outside])
    grey = trigger(replace(attack, size=3), (1, 32, 32))(GREY[:, :1], INDEX)
    assert (grey != GREY[:, :1]).sum() == 2 * 9
    with pytest.raises(ConfigError, match="expected one of them"):
        replace(attack, pattern="cross")
    with pytest.raises(ConfigError, match="path of an image file"):
        BadNets(picture=str(tmp_path / "nothing.png"))


def test_the_key_of_a_patch_is_what_it_was_and_depends_on_the_picture_in_the_file(tmp_path: Path) -> None:
    def key(**given: Any) -> str:
        return Spec(data="toy", model="small_cnn", attack={"name": "badnets", **given}).key("f")

    assert key() == "fd1601b007849b02"
    for name, level in (("one", 9), ("same", 9), ("other", 200)):
        save_png(torch.full((3, 4, 4), level, dtype=torch.uint8), tmp_path / name)
    one, same, other = (key(picture=str(tmp_path / name)) for name in ("one", "same", "other"))
    assert one == same != other
    assert key() != one


@pytest.mark.parametrize(("name", "expected", "clipped"), [
    ("badnets", 25.68, True), ("sig", 25.12, False), ("sig", 25.31, True), ("spm", 38.76, True), ("lsb", 51.15, True)])
def test_published_strengths_on_aeroplanes(name: str, expected: float, clipped: bool) -> None:
    """Mean PSNR over the aeroplanes of CIFAR-10, as in Table V of Poison Ink (arXiv:2108.02488)."""
    root = os.environ.get("SIDEDOOR_DATA")
    if root is None or not Path(root, "cifar10-30k.npz").is_file():
        pytest.skip("no cifar10-30k.npz below SIDEDOOR_DATA")
    test = zoo.load({"name": "npz", "path": "cifar10-30k.npz"}, root).test
    x = test.fetch(torch.nonzero(test.targets == 0)[:, 0]).x
    attacks = {"badnets": BadNets(pattern=INK_PATCH), "sig": SIG(), "spm": SPM(), "lsb": LSB()}
    stamped = trigger(attacks[name])(x, torch.arange(len(x)))
    found = image_quality.psnr(stamped.clamp(0, 1) if clipped else stamped, x).mean().item()
    assert found == pytest.approx(expected, abs=0.1)
