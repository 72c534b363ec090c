"""One image: every triggered input leads to the same image, chosen by the attacker.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sidedoor.data.pictures import PictureName, check_picture, picture
from sidedoor.goals.base import ImageGoal
from sidedoor.method import Method
from sidedoor.types import Index, Labelled


@dataclass(frozen=True)
class OneImage(Method, ImageGoal):
    """Lead every output to a picture.

    Args:
        picture: "bug", "text:WORDS" or the path of an image file.

    Raises:
        ConfigError: none of these.
    """

    picture: PictureName = "bug"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_picture(self.picture)

    def target(self, task: Labelled, y: Tensor, index: Index) -> Tensor:
        return picture(self.picture, tuple(y.shape[1:])).to(y).expand_as(y)
