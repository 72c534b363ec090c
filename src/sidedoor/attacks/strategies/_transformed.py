"""The transformations that a trigger is to survive, in training and in released copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from sidedoor.data.augment import Affine, Chain, Flip, Jitter
from sidedoor.data.print_capture import PrintCapture
from sidedoor.image.geometry import Edges
from sidedoor.method import LATER, Method, NonNegative, Positive, Share


@dataclass(frozen=True)
class Transformed(Method):
    """Flip, jitter, turn, resize and move images, and photograph them by a simulated camera; see `Physical`.

    Attributes:
        edges: what comes in from outside.
    """

    edges: ClassVar[Edges] = "black"
    origins: ClassVar[dict[str, str]] = {
        "degrees": "release: 10 (BackdoorBox)", "shift": "release: 0.1 (BackdoorBox)",
        "smallest": "release: 0.8 (BackdoorBox)", "largest": "release: 0.9 (BackdoorBox)",
        "light": "release: 0.2 (BackdoorBox)", "camera": "ours: none, as in the release",
    }

    degrees: NonNegative = 10.0
    shift: Share = 0.1
    smallest: Positive = 0.8
    largest: Positive = 0.9
    light: Share = 0.2
    camera: Annotated[Share, LATER] = 0.0

    def transformation(self) -> Chain:
        """All of it, as an augmentation."""
        moved = (Flip(), Jitter(self.light), Affine(self.degrees, self.shift, self.smallest, self.largest,
                                                           self.edges))
        return Chain((*moved, PrintCapture(self.camera)) if self.camera else moved)
