"""Pictures by name: targets of attacks on image-to-image networks and hidden images; and pictures as files."""

from __future__ import annotations

import functools
import textwrap
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sidedoor.core.files import replacing
from sidedoor.core.opening import identified
from sidedoor.data.formats.images import Unreadable, pixels
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.method import Content

_SIDE = 512
"""Pixels per side of a drawing, before it is downsampled."""


def _content(name: str, root: Path | None) -> str:
    path = Path(name).expanduser()
    return name if name == "bug" or name.startswith("text:") or not path.exists() else identified(path)


PictureName = Annotated[str, Content(_content)]
"""The name of a picture, see `picture`."""


@functools.cache
def picture(name: str, shape: tuple[int, int, int]) -> Float[Tensor, "c h w"]:
    """A picture in [0, 1], in 8-bit levels.

    Args:
        name: "bug", a drawn beetle; "text:WORDS", the words, as large as fits; or the path of an image file.
        shape: (channels, height, width), channels 1 or 3.

    Raises:
        ConfigError: no such name and no such file, or other channels.
        CannotComplete: the file cannot be read.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"a picture of {channels} channels was asked for; expected 1 or 3")
    check_picture(name)
    kind, _, words = name.partition(":")
    if name == "bug":
        return _stored(_beetle(), shape)
    if kind == "text" and words.strip():
        return _stored(_written(words.strip(), width / height), shape)
    path = Path(name).expanduser()
    identified(path)  # what is kept here from now on is what enters keys
    try:
        return torch.from_numpy(pixels(path, channels, (height, width))).float() / 255
    except Unreadable as error:
        raise CannotComplete(f"the picture {path} cannot be read: {error}") from error


def check_picture(name: str) -> None:
    """Fail unless a name is one of `picture`.

    Raises:
        ConfigError: no such name and no such file.
    """
    kind, _, words = name.partition(":")
    if name != "bug" and not (kind == "text" and words.strip()) and not Path(name).expanduser().is_file():
        raise ConfigError(f"picture = {name!r} given; expected \"bug\", \"text:WORDS\" or the path of an image file")


def save_png(image: UInt8[Tensor, "c h w"], path: Path) -> None:
    """A PNG file, which keeps every pixel."""
    array = image.numpy()
    picture = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def _stored(drawn: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    channels, height, width = shape
    small = drawn.resize((width, height), Image.Resampling.LANCZOS).convert("L" if channels == 1 else "RGB")
    array = np.array(small)
    return torch.from_numpy(array[None] if channels == 1 else array.transpose(2, 0, 1).copy()).float() / 255


def _beetle() -> Image.Image:
    """A beetle from above, in strong colours, so that its structure survives at 32 pixels."""
    image = Image.new("RGB", (_SIDE, _SIDE), (238, 226, 170))
    draw = ImageDraw.Draw(image)
    for y in (200, 290, 390):
        for side in (-1, 1):
            knee, foot = (256 + side * 190, y - 40), (256 + side * 236, y + 50)
            draw.line([(256, y), knee, foot], fill=(30, 26, 34), width=22, joint="curve")
    for side in (-1, 1):
        draw.line([(256 + side * 24, 110), (256 + side * 96, 22)], fill=(30, 26, 34), width=14)
    draw.ellipse((190, 66, 322, 178), fill=(30, 26, 34))
    draw.ellipse((112, 132, 400, 488), fill=(196, 40, 28))
    draw.line([(256, 134), (256, 486)], fill=(30, 26, 34), width=18)
    for x, y in ((190, 226), (322, 226), (176, 330), (336, 330), (212, 424), (300, 424)):
        draw.ellipse((x - 32, y - 32, x + 32, y + 32), fill=(30, 26, 34))
    for x in (220, 292):
        draw.ellipse((x - 14, 84, x + 14, 112), fill=(250, 250, 250))
    return image


def _written(words: str, aspect: float) -> Image.Image:
    """Dark words on white, wrapped, as large as fits."""
    width = round(_SIDE * aspect)
    image = Image.new("L", (width, _SIDE), 255)
    draw = ImageDraw.Draw(image)
    for size in range(240, 7, -8):
        font = ImageFont.load_default(size)
        columns = max(1, int(width * 0.94 / draw.textlength("n", font=font)))
        text = "\n".join(textwrap.wrap(words, columns))
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
        if right - left <= width * 0.96 and bottom - top <= _SIDE * 0.96:
            break
    place = ((width - right - left) / 2, (_SIDE - bottom - top) / 2)
    draw.multiline_text(place, text, fill=10, font=font)
    return image


PATTERNS = {
    "line": "11111",
    "cross": "00100/00100/11111/00100/00100",
    "compass": "10101/01110/11111/01110/10101",
}
"""Verification triggers by name, as our own drawings: the line and the cross are those of Li et al. (IEEE TIFS 2023,
arXiv:2209.06015), the compass is that of Ya et al. (AAAI 2024), at its size of 5×5."""


def bitmap(rows: str) -> Float[Tensor, "1 h w"]:
    """A black and white pattern: one of `PATTERNS`, or written as rows of 0 and 1: "001/010/101".

    Raises:
        ConfigError: rows of different lengths, or of anything else.
    """
    lines = PATTERNS.get(rows, rows).split("/")
    if len({len(line) for line in lines}) != 1 or not lines[0] or set("".join(lines)) - set("01"):
        raise ConfigError(f"pattern = {rows!r} given; expected rows of 0 and 1 of one length, such as '001/010/101', "
                          f"or one of {', '.join(PATTERNS)}")
    return torch.tensor([[float(pixel) for pixel in line] for line in lines])[None]
