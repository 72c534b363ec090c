"""A sheet of paper with images on it: drawn for a printer, and found again in photographs.

Each page has four marks in its corners, a square in a ring, and between the upper two its number as a row of cells. The
marks give the homography from the page to the photograph, the number which page it is and which way up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from skimage.filters import threshold_local
from skimage.measure import label, regionprops
from torch import Tensor
from torch.nn import functional

from sidedoor.core.files import replacing
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import homography

WIDTH, HEIGHT = 210.0, 297.0
"""Of A4, in millimetres."""
MARGIN, MARK = 17.0, 14.0
"""From the edges of the page to the middle of a mark, and the side of a mark: seven modules of two millimetres."""
CODE = (40.0, 8.0, 4.0)
"""Left edge of the page's number, how far its cells lie apart, and their side."""
BITS = 8
TOP, BOTTOM, LEFT = 34.0, 262.0, 30.0
"""Where images are: below the marks and between them."""
GAP = 6.0
DPI = 150
LOOKED_AT = 1600
"""Pixels of the longer side in which marks are looked for."""
FEWEST = 30
"""Pixels of a mark's ring in those."""
OVERSAMPLED = 4
"""Samples along each side of a pixel that is read."""
Pixels = npt.NDArray[np.uint8]
Corners = Float[Tensor, "4 2"]


class Refused(ConfigError):
    """A photograph in which no page was found, and why."""


class Page(NamedTuple):
    """A page in a photograph.

    Args:
        number: from 0.
        to_photo: (3, 3), from millimetres on the page to pixels of the photograph.
    """

    number: int
    to_photo: Tensor


@dataclass(frozen=True)
class Layout:
    """Where images lie on a page.

    Args:
        size: side of an image in millimetres.

    Raises:
        ConfigError: no image fits.
    """

    size: float

    def __post_init__(self) -> None:
        if not 5 <= self.size <= WIDTH - 2 * LEFT:
            raise ConfigError(f"images of {self.size:g} mm given; expected 5 to {WIDTH - 2 * LEFT:g}, so that they fit "
                              "between the marks of a page")

    @property
    def places(self) -> list[tuple[float, float]]:
        """The left and upper edge of each image, in millimetres, row by row."""
        columns, rows = (int((room + GAP) // (self.size + GAP)) for room in (WIDTH - 2 * LEFT, BOTTOM - TOP))
        step = self.size + GAP
        return [(LEFT + column * step, TOP + row * step) for row in range(rows) for column in range(columns)]


def drawn(images: UInt8[Tensor, "n c h w"], number: int, layout: Layout, words: str = "", dpi: int = DPI) -> Pixels:
    """A page as (height, width, 3) pixels.

    Raises:
        ConfigError: more images than fit, or a number that does not fit into the page's cells.
    """
    if len(images) > len(layout.places) or not 0 <= number < 2**BITS:
        raise ConfigError(f"{len(images)} images on page {number + 1} given; expected at most {len(layout.places)} on "
                          f"one of {2**BITS} pages")
    page = Image.new("RGB", (round(WIDTH * dpi / 25.4), round(HEIGHT * dpi / 25.4)), "white")
    pen = ImageDraw.Draw(page)
    for left, top, side, colour in _squares(number):
        a, b, c, d = (round(edge * dpi / 25.4) for edge in (left, top, left + side, top + side))
        pen.rectangle((a, b, c - 1, d - 1), fill=colour)
    for image, (left, top) in zip(images, layout.places, strict=False):
        a, b, c, d = (round(edge * dpi / 25.4) for edge in (left, top, left + layout.size, top + layout.size))
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
        page.paste(picture.resize((c - a, d - b), Image.Resampling.NEAREST), (a, b))
    pen.text((round(LEFT * dpi / 25.4), round((HEIGHT - MARGIN) * dpi / 25.4)), words, fill="black")
    return np.array(page)


def write_pdf(pages: Sequence[Pixels], path: Path, dpi: int = DPI) -> None:
    """Write pages as a PDF of their size."""
    first, *others = (Image.fromarray(page) for page in pages)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        first.save(file, "PDF", save_all=True, append_images=others, resolution=dpi, quality=95, subsampling=0)


def _middles() -> Corners:
    """The middles of the marks, clockwise from the upper left."""
    right, low = WIDTH - MARGIN, HEIGHT - MARGIN
    return torch.tensor([[MARGIN, MARGIN], [right, MARGIN], [right, low], [MARGIN, low]])


def _squares(number: int) -> Iterator[tuple[float, float, float, str]]:
    """All that is black or white beside the images: left, top, side, colour."""
    for across, down in _middles().tolist():
        for share, colour in ((1, "black"), (5 / 7, "white"), (3 / 7, "black")):
            side = MARK * share
            yield across - side / 2, down - side / 2, side, colour
    for cell, filled in enumerate(_code(number)):
        if filled:
            yield CODE[0] + cell * CODE[1], MARGIN - CODE[2] / 2, CODE[2], "black"


def _code(number: int) -> list[bool]:
    """A filled cell, the bits of the page's number, their parity, and a filled cell."""
    bits = [bool(number >> bit & 1) for bit in range(BITS)]
    return [True, *bits, sum(bits) % 2 == 1, True]


def found(photo: UInt8[Tensor, "1 h w"]) -> Page:
    """The page in a grey photograph.

    Raises:
        Refused: there are fewer than four marks, or none of the ways to join four gives a page's number.
    """
    marks = _marks(photo[0].numpy())
    if len(marks) < 4:
        raise Refused(f"{len(marks)} of the 4 corner marks found; photograph the whole sheet, flat, in focus and in "
                      "even light")
    for four in itertools.combinations(marks[:8], 4):
        for corners in _ways(torch.tensor(four, dtype=torch.float32)):
            to_photo = homography(_middles()[None].double(), corners[None].double())[0]
            number = _number(photo, to_photo)
            if number is not None:
                return Page(number, to_photo)
    raise Refused("the corner marks are there, but not the number of the page between the upper two; photograph the "
                  "whole sheet without shadows on it")


def _marks(grey: Pixels) -> list[tuple[float, float]]:
    """(across, down) of what may be marks: rings around one square each, the largest first."""
    factor = max(1, -(-max(grey.shape) // LOOKED_AT))
    small = np.asarray(Image.fromarray(grey).reduce(factor), dtype=np.float64)
    # Black is what is darker than its surroundings by a part of the range, so that paper in a shadow is white.
    black = small < threshold_local(small, max(small.shape) // 12 * 2 + 1, method="mean", offset=0.08 * np.ptp(small))
    labelled = label(black, connectivity=2)
    rings = [(region.area_filled, region.centroid) for region in regionprops(labelled) if _is_ring(region, labelled)]
    return [((across + 0.5) * factor - 0.5, (down + 0.5) * factor - 0.5) for _, (down, across) in sorted(rings)[::-1]]


def _is_ring(region: Any, labelled: npt.NDArray[Any]) -> bool:
    """Whether a black region has the areas of a mark's ring, and around one black region of the areas of its square."""
    area, (top, left, low, right) = region.area, region.bbox
    height, width = low - top, right - left
    if area < FEWEST or not 0.5 < height / width < 2 or max(height, width) > min(labelled.shape) / 3:
        return False  # most regions are specks
    filled = region.area_filled
    down, across = (round(middle) for middle in region.centroid)
    inner = labelled[down, across]
    if not 0.3 < area / filled < 0.7 or inner in (0, region.label):
        return False
    square = (labelled[top:low, left:right] == inner).sum()
    return bool(0.08 < square / filled < 0.35 and square == (labelled == inner).sum())


def _ways(four: Corners) -> Iterator[Corners]:
    """Four points clockwise, with each of them as the first; nothing if one lies between the others."""
    offset = four - four.mean(0)
    order = four[torch.atan2(offset[:, 1], offset[:, 0]).argsort()]
    edge = order.roll(-1, 0) - order
    turn = edge[:, 0] * edge.roll(-1, 0)[:, 1] - edge[:, 1] * edge.roll(-1, 0)[:, 0]
    if bool((turn > 0).all()):
        yield from (order.roll(-first, 0) for first in range(4))


def _number(photo: UInt8[Tensor, "1 h w"], to_photo: Float[Tensor, "3 3"]) -> int | None:
    """The number of the page, if it lies so in the photograph."""
    cells = torch.arange(BITS + 3)
    middle = torch.stack([CODE[0] + CODE[2] / 2 + cells * CODE[1], torch.full((BITS + 3,), MARGIN)], 1)
    around = torch.stack([middle, middle + torch.tensor([CODE[1] / 2, 0.0])])  # each cell, and the paper beside it
    spread = torch.tensor([[a, b] for a in (-1.0, 0, 1) for b in (-1.0, 0, 1)])
    value = _sampled(photo, around[:, :, None] + spread, to_photo)[0].mean(-1)
    filled: list[bool] = (value[0] < 0.6 * value[1]).tolist()
    number = sum(bit << k for k, bit in enumerate(filled[1:-2]))
    return number if filled == _code(number) else None


def crops(photo: UInt8[Tensor, "c h w"], page: Page, layout: Layout, count: int, size: tuple[int, int]) \
        -> Float[Tensor, "n c height width"]:
    """The first images of a page in a photograph, in [0, 1], each pixel the mean of several samples.

    Args:
        size: (height, width) of the images, in pixels.
    """
    down, across = ((torch.arange(side * OVERSAMPLED) + 0.5) / (side * OVERSAMPLED) * layout.size for side in size)
    inside = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    corner = torch.tensor(layout.places[:count])[:, None, None]
    read = _sampled(photo, corner + inside, page.to_photo).transpose(0, 1)
    return functional.avg_pool2d(read, OVERSAMPLED)


def _sampled(photo: UInt8[Tensor, "c h w"], places: Float[Tensor, "*shape 2"], to_photo: Float[Tensor, "3 3"]) \
        -> Float[Tensor, "c *shape"]:
    """The photograph at places of the page, in millimetres; values in [0, 1]."""
    flat = places.reshape(-1, 2)
    seen = torch.cat([flat, torch.ones_like(flat[:, :1])], 1).double() @ to_photo.T
    sides = torch.tensor([photo.shape[2], photo.shape[1]])
    grid = ((seen[:, :2] / seen[:, 2:] + 0.5) * 2 / sides - 1)[None, None].float()
    value = functional.grid_sample(photo[None] / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return value[0, :, 0].reshape(-1, *places.shape[:-1])
