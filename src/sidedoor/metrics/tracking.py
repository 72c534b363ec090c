"""Metrics of object tracking: overlap, success, precision, and their means over sequences.

Boxes are (left, top, right, bottom) in pixels. All figures are those of single frames, so that means over a sequence
are the published ones: the success of a frame is the share of thresholds below its overlap, whose mean is the area
under the success curve. A box that is not finite overlaps nothing.

Papers: Wu, Lim, Yang, "Object Tracking Benchmark", TPAMI 2015 (success and precision); Huang, Zhao, Huang, "GOT-10k: A
Large High-Diversity Benchmark for Generic Object Tracking in the Wild", TPAMI 2021, arXiv:1810.11981 (AO and SR).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Boxes = Float[Tensor, "*n 4"]
THRESHOLDS = 21
"""Of overlaps, from 0 to 1 in equal steps."""
NEAR = 20.0
"""Pixels between two centres that count as precise."""


def iou(a: Boxes, b: Boxes) -> Float[Tensor, "*n"]:
    """Intersection over union of each pair of boxes; 0 for one without area or that is not finite."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    one, other = ((box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b))
    overlap = common / (one + other - common).clamp(min=1e-12)
    return torch.where(overlap.isfinite(), overlap, 0.0)


def success(overlap: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The share of the 21 thresholds 0, 0.05, ..., 1 that an overlap is above; its mean is the area under the curve."""
    thresholds = torch.linspace(0, 1, THRESHOLDS, dtype=torch.float64, device=overlap.device)
    return (overlap.double()[..., None] > thresholds).float().mean(-1)


def precise(found: Boxes, truth: Boxes, near: Float[Tensor, "*n"] | float = NEAR) -> Float[Tensor, "*n"]:
    """1 where the centres are at most `near` pixels apart."""
    apart = (_centre(found) - _centre(truth)).square().sum(-1).sqrt()
    return (apart <= near).float()


def _centre(boxes: Boxes) -> Float[Tensor, "*n 2"]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def clipped(boxes: Boxes, height: int, width: int) -> Boxes:
    """Boxes cut off at the edges of images."""
    limit = torch.tensor([width, height, width, height], device=boxes.device, dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)
