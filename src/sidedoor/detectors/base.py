"""What a detector is here: losses of true boxes, objectness for attacks, and detections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.boxes import Found, Truth
from sidedoor.types import Images


class Detector(nn.Module, ABC):
    """Finds objects in images in [0, 1]; boxes are as `sidedoor.boxes` has them."""

    def forward(self, x: Images, truth: Truth | None = None) -> Any:
        """(b,) losses if true boxes are given, else what the network says, in a form of its own."""
        said = self.raw(x)
        return said if truth is None else self.losses(said, truth)

    @abstractmethod
    def raw(self, x: Images) -> Any:
        """What the network says of images."""

    @abstractmethod
    def losses(self, said: Any, truth: Truth) -> Float[Tensor, "b"]:
        """Of each image, for training."""

    @abstractmethod
    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        """For each candidate box the logit that something is in it."""

    @abstractmethod
    def detect(self, x: Images, least: float = 0.01) -> Found:
        """What is found with at least this score, after non-maximum suppression."""
