"""Boxes drawn on pictures, with a legend: those of trackers on their frames. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Box = Sequence[float]
"""(left, top, right, bottom) in pixels."""
Colour = tuple[int, int, int]
TRUTH: Colour = (255, 255, 255)
CLEAN: Colour = (86, 180, 233)
ATTACKED: Colour = (240, 110, 0)
TRIGGER: Colour = (240, 228, 66)
"""Apart for colour-blind eyes, too."""
_HALO: Colour = (0, 0, 0)
_PAPER, _INK = (250, 250, 250), (30, 30, 30)


def framed(pixels: npt.NDArray[np.uint8], boxes: Mapping[Colour, Box], *, least: int = 0, largest: int = 0) \
        -> Image.Image:
    """A (c, h, w) frame, grey or RGB, with boxes drawn on it; one that is not finite is left out.

    Args:
        boxes: by colour, the last on top.
        least: smaller frames are enlarged by a whole factor until they are at least so wide; 0: as they are.
        largest: larger ones are reduced until no side has more pixels; 0: as they are.
    """
    planes = np.repeat(pixels, 3, axis=0) if len(pixels) == 1 else pixels
    picture = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    factor = float(max(1, math.ceil(least / picture.width)))
    if largest and max(picture.size) > largest:
        factor = largest / max(picture.size)
    if factor != 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    draw, thick = ImageDraw.Draw(picture), 2 if picture.width >= 200 else 1
    for colour, box in boxes.items():
        if all(map(math.isfinite, box)):
            left, top, right, bottom = (value * factor for value in box)
            inner = (left, top, max(left, right - 1), max(top, bottom - 1))
            draw.rectangle((inner[0] - 1, inner[1] - 1, inner[2] + 1, inner[3] + 1), outline=_HALO, width=thick + 2)
            draw.rectangle(inner, outline=colour, width=thick)
    return picture


def with_legend(picture: Image.Image, entries: Mapping[str, Colour], said: str) -> Image.Image:
    """The picture above a legend: a line of words, then the colours with their names in as many lines as it takes."""
    font, line = ImageFont.load_default(11), 15
    ruler = ImageDraw.Draw(picture)
    places, x, y = list[tuple[int, int]](), 6, line + 3
    for name in entries:
        wide = 22 + math.ceil(ruler.textlength(name, font=font))
        if x > 6 and x + wide > picture.width:
            x, y = 6, y + line
        places.append((x, y))
        x += wide
    page = Image.new("RGB", (picture.width, picture.height + y + line + 2), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    draw.text((6, picture.height + 2), said, fill=_INK, font=font)
    for (x, y), (name, colour) in zip(places, entries.items(), strict=True):
        top = picture.height + y
        draw.rectangle((x, top + 2, x + 9, top + 11), fill=colour, outline=_HALO)
        draw.text((x + 14, top), name, fill=_INK, font=font)
    return page
