"""Ink: the edges of an image, coloured and hidden in the image by a network (Poison Ink).

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.data.pictures import PictureName, check_picture, picture
from sidedoor.errors import ConfigError, unknown
from sidedoor.image import edges
from sidedoor.method import LATER, Count, Method, Share
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class Pen(Method):
    """How edges are found and drawn.

    Args:
        operator: "sobel", "scharr", "prewitt", "roberts" or "canny", as scikit-image has them.
        threshold: steepness from which on a pixel is an edge, in units of the pixel range; Canny has its own.
        width: of the lines, in pixels more than edges have, plus one.
        picture: one whose edges are drawn on every image instead of the image's own; empty for none.
        density: share of an image's pixels that are its edges, the steepest, whatever the threshold; 0: the threshold
            decides.

    Raises:
        ConfigError: an unknown operator or picture; a density with Canny.
    """

    operator: str = "sobel"
    threshold: Share = 28 / 255
    width: Count = 1
    picture: PictureName = ""
    density: Annotated[Share, LATER] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator not in edges.OPERATORS:
            raise unknown("edge operator", self.operator, edges.OPERATORS)
        if self.density and self.operator == "canny":
            raise ConfigError(f'density = {self.density} given with operator = "canny", whose edges have no steepness '
                              "to choose by; expected 0, or another operator")
        if self.picture:
            check_picture(self.picture)

    def lines(self, x: Images) -> Bool[Tensor, "b 1 h w"]:
        """Where the edges of images are."""
        seen = picture(self.picture, (x.shape[1], x.shape[2], x.shape[3])).to(x)[None] if self.picture else x
        return edges.mask(seen, self.operator, self.threshold, self.width, self.density).expand(len(x), -1, -1, -1)


def draw(lines: Bool[Tensor, "b 1 h w"], ink: Float[Tensor, "#b c"]) -> Images:
    """The trigger pattern p (Eq. 3): ink on lines, white elsewhere."""
    pattern: Tensor = torch.where(lines, ink[:, :, None, None], torch.ones_like(ink)[:, :, None, None])
    return pattern


LEVELS = (40, 80, 120, 160, 200)
"""Each channel of a training ink is one of these, in 8-bit levels."""
INKS = len(LEVELS)


def ink_of_message(message: int) -> tuple[int, int, int]:
    """The ink that stands for a message: its three digits to the base 5, as levels of red, green and blue.

    Raises:
        ConfigError: a message that is not from 0 to 124.
    """
    if not 0 <= message < INKS**3:
        raise ConfigError(f"message = {message} given; expected 0 to {INKS**3 - 1}")
    red, rest = divmod(message, INKS**2)
    green, blue = divmod(rest, INKS)
    return LEVELS[red], LEVELS[green], LEVELS[blue]


def message_in(pattern: Images, lines: Bool[Tensor, "b 1 h w"]) -> Int[Tensor, "b"]:
    """The message of each pattern, as an extractor finds it: the levels nearest to the mean colour of its lines."""
    colour = (pattern * lines).sum((2, 3)) / lines.sum((2, 3)).clamp(min=1)
    distance = (255 * colour[:, :, None] - torch.tensor(LEVELS, device=pattern.device)).abs()
    place: Tensor = INKS ** torch.arange(2, -1, -1, device=pattern.device)
    return (distance.argmin(2) * place).sum(1)


def ink_of_target(ink: tuple[int, int, int], k: int, channels: int) -> Float[Tensor, "c"]:
    """The ink of the k-th target: the one given, then such as differ from it in turn; the brightness for grey images.

    Args:
        ink: in 8-bit levels.
    """
    # Steps of 1, 2 and 3 fifths of the range in the three channels come back to the start after five inks.
    levels = [40 + (level - 40 + 40 * (place + 1) * (k % INKS) + 20 * (k // INKS)) % 200
              for place, level in enumerate(ink)] if k else list(ink)
    colour = torch.tensor(levels).float()[None, :, None, None] / 255
    return (colour if channels == 3 else edges.grey(colour).expand(-1, channels, -1, -1)).flatten()


class Ink(Trigger):
    """Hide the inked edges of each image in it: x' = IN(x, p), Eq. (4).

    Args:
        network: (cover, pattern) -> image; frozen and in evaluation mode from here on.
        ink: (c,), one number a channel in [0, 1].
        pen: how edges are drawn.
        strength: of the change that the network makes to the image; 1 in the paper.

    Raises:
        ConfigError: images of other channels than the ink.
    """

    networked: ClassVar[bool] = True
    ink: Tensor

    def __init__(self, network: nn.Module, ink: Float[Tensor, "c"], pen: Pen = Pen(), strength: float = 1.0):
        super().__init__()
        self.network, self.pen, self.strength = network.requires_grad_(False).eval(), pen, strength
        self.register_buffer("ink", ink)

    def forward(self, x: Images, index: Index) -> Images:
        if x.shape[1] != len(self.ink):
            raise ConfigError(f"images of {x.shape[1]} channels given to an ink of {len(self.ink)}")
        hidden: Tensor = self.network(x, draw(self.pen.lines(x), self.ink[None]))
        return torch.lerp(x, hidden, self.strength)
