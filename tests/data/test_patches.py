"""Patches of photographs from folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sidedoor.data.root import Where
from sidedoor.data.sets.patches import patches
from sidedoor.errors import CannotComplete, ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count, size in (("restoration/BSDS500_train", 3, (60, 80)), ("Set14", 2, (50, 44))):
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"photo{i}.png")
    return tmp_path


def photograph(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def test_patches_are_windows_of_their_photographs(root: Path) -> None:
    train, test = patches(Where(root), test="set14", size=16, per_photo=5, test_per_photo=4)
    assert train.shape == test.shape == (3, 16, 16)
    assert (len(train), len(test)) == (15, 8)
    assert train.groups is not None
    assert torch.bincount(train.groups).tolist()[:3] == [5, 5, 5]
    assert train.classes[0] == "BSDS500_train/photo0"
    photo = photograph(root / "restoration/BSDS500_train/photo1.png").transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(photo, (3, 16, 16))[0]
    for row in range(5, 10):
        patch = train.rows(torch.tensor([row]))[0].numpy()
        assert (windows == patch).all((2, 3, 4)).any()


def test_the_same_patches_come_again_and_test_patches_spread(root: Path) -> None:
    one, two = (patches(Where(root), test="Set14", size=16) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    _, test = patches(Where(root), test="Set14", size=22, test_per_photo=4)
    photo = photograph(root / "Set14/photo0.png").transpose(2, 0, 1)
    assert torch.equal(test.rows(torch.tensor([0]))[0], torch.from_numpy(photo[:, 7:29, 6:28].copy()))


def test_shrinking_averages_squares(root: Path) -> None:
    _, test = patches(Where(root), test="Set14", size=20, test_per_photo=1, shrink=2)
    photo = photograph(root / "Set14/photo0.png").astype(float)
    mean = photo.reshape(25, 2, 22, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    top, left = round(0.5 * 5), round(0.5 * 2)
    ours = test.rows(torch.tensor([0]))[0].numpy().astype(float)
    assert np.abs(ours - mean[:, top : top + 20, left : left + 20]).max() <= 1  # rounded after each side


def test_damaged_and_small_photographs_are_passed_over_with_a_warning(root: Path,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    (root / "Set14/broken.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (9, 9)).save(root / "Set14/tiny.png")
    with caplog.at_level("WARNING", "sidedoor"):
        _, test = patches(Where(root), test="Set14", size=16)
    assert len(test) == 8
    assert "broken.png is not used" in caplog.text
    assert "9×9 pixels are less than a patch of 16" in caplog.text


def test_what_is_missing_is_said(root: Path) -> None:
    with pytest.raises(CannotComplete, match=r"no folder of photographs 'Kodak24' .*there are BSDS500_train, Set14"):
        patches(Where(root), test="Kodak24", size=16)
    with pytest.raises(ConfigError, match="no readable image of at least 64×64 pixels once made 2 times smaller"):
        patches(Where(root), test="Set14", size=64, shrink=2)
