"""Tiny YOLO: a small one-stage detector in the style of YOLOv3, with a choice of three backbones.

Paper: Redmon, Farhadi, "YOLOv3: An Incremental Improvement", 2018, arXiv:1804.02767.

As in the paper, each object belongs to the anchor whose shape fits best, in the cell of its centre; centres are
sigmoids within the cell, sides are exponentials of the anchor's; objectness and classes have binary cross-entropies;
candidates that overlap an object by more than half do not count as empty. Unlike there, it has two scales and two
anchors per cell instead of three, and the anchors' sizes are shares of the image's sides. The backbones stand for the
plain, residual and depthwise-separable families, so that a perturbation made on one has something to transfer to.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou

from sidedoor.method import Count
from sidedoor.metrics import detection
from sidedoor.metrics.detection import Found, Truth
from sidedoor.models.base import Normalize, Shape, require_size
from sidedoor.object_detectors.base import Detector
from sidedoor.types import Images

STRIDES = (8, 16)
ANCHORS = ((0.12, 0.2), (0.3, 0.45))
"""For each scale the sides of its two square anchors, as shares of the image's longer side."""
IGNORED = 0.5
FIELDS = 5
"""Numbers of a candidate before its classes: x, y, w, h, objectness."""
QUICK: dict[str, Any] = {"width": 4}
"""Parameters with which it is built and run in a second."""


def tiny_yolo(classes: int, shape: Shape, backbone: Literal["plain", "residual", "depthwise"] = "plain",
              width: Count = 16) -> Detector:
    """A detector of 0.1 to 0.4 million parameters at width 16.

    Args:
        backbone: convolutions one after another, residual blocks, or depthwise-separable convolutions.
        width: channels of the first convolution; the last has eight times as many.

    Raises:
        ConfigError: images below 32x32.
    """
    require_size("tiny_yolo", shape, 32)
    return _TinyYolo(classes, shape, {"plain": _Plain, "residual": _Residual, "depthwise": _Depthwise}[backbone], width)


class _Candidates(NamedTuple):
    """All candidates of an image, scale by scale: column, row and stride of the cell, side of the anchor."""

    column: Float[Tensor, "n"]
    row: Float[Tensor, "n"]
    stride: Float[Tensor, "n"]
    side: Float[Tensor, "n"]


class _TinyYolo(Detector):
    grid: Tensor

    def __init__(self, classes: int, shape: Shape, block: type[nn.Module], width: int):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.normalize = Normalize((0.5,) * shape[0], (0.25,) * shape[0])
        self.stem = nn.Sequential(_conv(shape[0], width), nn.MaxPool2d(2, ceil_mode=True))
        stages = [nn.Sequential(block(i, o), nn.MaxPool2d(2, ceil_mode=True)) for i, o in pairwise(widths)]
        self.near, self.far = nn.Sequential(*stages[:2]), stages[2]
        each = len(ANCHORS[0]) * (FIELDS + classes)
        self.far_head = nn.Conv2d(widths[3], each, 1)
        self.narrow = _conv(widths[3], widths[2], 1)
        self.near_head = nn.Sequential(_conv(2 * widths[2], widths[2]), nn.Conv2d(widths[2], each, 1))
        self.classes, self.size = classes, shape[1:]
        self.register_buffer("grid", torch.stack(_candidates(shape)))
        for head in (self.far_head, self.near_head):
            # Nearly all candidates are empty; with this bias, training does not first have to learn that.
            *_, bias = head.parameters()
            nn.init.constant_(bias.view(len(ANCHORS[0]), -1)[:, FIELDS - 1], -4.0)

    def raw(self, x: Images) -> Float[Tensor, "b n f"]:
        """Logits: x, y, w, h, objectness and one for each class, of every candidate."""
        near = self.near(self.stem(self.normalize(x)))
        far = self.far(near)
        up = functional.interpolate(self.narrow(far), size=near.shape[2:])
        heads = (self.near_head(torch.cat([near, up], 1)), self.far_head(far))
        fields = FIELDS + self.classes
        return torch.cat([head.unflatten(1, (-1, fields)).permute(0, 1, 3, 4, 2).flatten(1, 3) for head in heads], 1)

    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        logits: Tensor = self.raw(x)[..., FIELDS - 1]
        return logits

    def detect(self, x: Images, least: float = 0.01) -> Found:
        said = self.raw(x)
        corners = self._corners(said)
        best, kind = said[..., FIELDS:].sigmoid().max(2)
        score = best * said[..., FIELDS - 1].sigmoid()
        found = zip(corners, score, kind.float(), strict=True)
        return detection.padded(detection.kept(*of, least=least) for of in found)

    def losses(self, said: Float[Tensor, "b n f"], truth: Truth) -> Float[Tensor, "b"]:
        image, which, place, kind = self._assigned(truth)
        wanted = torch.zeros_like(said[..., 0])
        wanted[image, which] = 1.0
        free = self._overlapping(self._corners(said.detach()), truth) & (wanted == 0)
        seen = functional.binary_cross_entropy_with_logits(said[..., FIELDS - 1], wanted, reduction="none")
        per_image = torch.where(free, torch.zeros_like(seen), seen).sum(1)
        own = said[image, which]
        centre = functional.binary_cross_entropy_with_logits(own[:, :2], place[:, :2], reduction="none").sum(1)
        sides = (own[:, 2:4] - place[:, 2:]).square().sum(1)
        classes = functional.binary_cross_entropy_with_logits(
            own[:, FIELDS:], functional.one_hot(kind, self.classes).float(), reduction="none").sum(1)
        return per_image.index_add(0, image, centre + sides + classes)

    def _corners(self, said: Float[Tensor, "b n f"]) -> Float[Tensor, "b n 4"]:
        """Boxes of the candidates in pixels, cut at the image's edges."""
        cell = _Candidates(*self.grid)
        x, y = ((said[..., i].sigmoid() + at) * cell.stride for i, at in ((0, cell.column), (1, cell.row)))
        # Far from any trained value; keeps an untrained network's boxes finite.
        w, h = (said[..., i].clamp(max=4).exp() * cell.side for i in (2, 3))
        corners = box_convert(torch.stack([x, y, w, h], -1), "cxcywh", "xyxy")
        height, width = self.size
        inside: Tensor = corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))
        return inside

    def _assigned(self, truth: Truth) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For every object: its image, its candidate, that candidate's x, y, w, h targets (before the loss), its class.

        Of two objects with one candidate the later has the box, both count in the loss.
        """
        image, row = detection.real(truth).nonzero(as_tuple=True)
        kind, corners = truth[image, row, 0].long(), truth[image, row, 1:]
        x, y, w, h = box_convert(corners, "xyxy", "cxcywh").unbind(1)
        cell = _Candidates(*self.grid)
        inside = (((x[:, None] / cell.stride).floor() == cell.column)
                  & ((y[:, None] / cell.stride).floor() == cell.row))
        shared = w[:, None].minimum(cell.side) * h[:, None].minimum(cell.side)
        alike = shared / (w * h + 1e-6)[:, None].add(cell.side.square()).sub(shared)
        which = torch.where(inside, alike, -torch.ones_like(alike)).argmax(1)
        side, stride = cell.side[which], cell.stride[which]
        place = torch.stack([(x / stride).frac(), (y / stride).frac(),
                             (w / side).clamp(min=1e-3).log(), (h / side).clamp(min=1e-3).log()], 1)
        return image, which, place, kind

    def _overlapping(self, corners: Float[Tensor, "b n 4"], truth: Truth) -> Tensor:
        """Which candidates overlap an object so much that calling them empty would be wrong."""
        each = [(box_iou(c, t[detection.real(t)][:, 1:]) > IGNORED).any(1) for c, t in zip(corners, truth, strict=True)]
        return torch.stack(each)


def _candidates(shape: Shape) -> _Candidates:
    _, height, width = shape
    parts = []
    for stride, anchors in zip(STRIDES, ANCHORS, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        side, row, column = torch.meshgrid(torch.tensor(anchors) * max(height, width), torch.arange(rows).float(),
                                           torch.arange(columns).float(), indexing="ij")
        parts.append(torch.stack([column, row, torch.full_like(row, stride), side]).flatten(1))
    return _Candidates(*torch.cat(parts, 1))


def _conv(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))


class _Plain(nn.Sequential):
    def __init__(self, inputs: int, outputs: int):
        super().__init__(_conv(inputs, outputs), _conv(outputs, outputs))


class _Depthwise(nn.Sequential):
    def __init__(self, inputs: int, outputs: int):
        super().__init__(_conv(inputs, inputs, groups=inputs), _conv(inputs, outputs, 1),
                         _conv(outputs, outputs, groups=outputs), _conv(outputs, outputs, 1))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.widen = _conv(inputs, outputs, 1)
        self.body = nn.Sequential(_conv(outputs, outputs // 2, 1), _conv(outputs // 2, outputs))

    def forward(self, x: Images) -> Float[Tensor, "b outputs h w"]:
        x = self.widen(x)
        added: Tensor = x + self.body(x)
        return added
