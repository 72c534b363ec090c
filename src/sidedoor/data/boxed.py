"""Data sets with bounding boxes as targets, for object detectors."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sidedoor.data.base import Subset
from sidedoor.types import Batch


class Boxed(Subset):
    """Rows of a data set with boxes, whose targets are the boxes (k, 5) instead of the labels."""

    def fetch(self, index: Int[Tensor, "b"], device: torch.device | str = "cpu") -> Batch:
        assert self.boxes is not None
        return super().fetch(index, device)._replace(y=self.boxes[index.cpu()].to(device, non_blocking=True))
