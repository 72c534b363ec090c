"""Pictures by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sidedoor.data.pictures import picture
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics.image_quality import ssim


@pytest.mark.parametrize("name", ["bug", "text:MEET AT NOON"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 48, 80)])
def test_pictures_are_8_bit_and_full_of_structure(name: str, shape: tuple[int, int, int]) -> None:
    image = picture(name, shape)
    assert image.shape == shape
    assert (image * 255 - (image * 255).round()).abs().max() < 1e-4
    assert image.std() > 0.2
    flat = image.mean((1, 2), keepdim=True).expand_as(image)
    assert ssim(image[None], flat[None]) < 0.5


def test_two_texts_are_two_pictures() -> None:
    shape = (1, 64, 64)
    assert not torch.equal(picture("text:YES", shape), picture("text:NO", shape))


def test_a_file_is_read_and_resized(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (255, 0, 128)).save(tmp_path / "mine.png")
    image = picture(str(tmp_path / "mine.png"), (3, 16, 24))
    assert torch.allclose(image[:, 5, 5], torch.tensor([1.0, 0.0, 128 / 255]))


def test_what_is_no_picture_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='expected "bug", "text:WORDS" or the path'):
        picture("beetle", (3, 8, 8))
    with pytest.raises(ConfigError, match="2 channels"):
        picture("bug", (2, 8, 8))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    with pytest.raises(CannotComplete, match="cannot be read"):
        picture(str(tmp_path / "broken.png"), (3, 8, 8))
