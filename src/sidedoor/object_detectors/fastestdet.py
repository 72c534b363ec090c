"""FastestDet: an anchor-free one-stage detector of 0.24 million parameters, with published COCO weights.

Paper: none; X. Ma, "FastestDet", 2022, a released network and description. Its backbone is N. Ma, Zhang, Zheng, Sun,
"ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, arXiv:1807.11164.

Each cell of a map at a sixteenth of the size predicts whether it has an object, its box and its class; a score is
objectness^0.6 × class^0.4. Layers are named as in the published weights, which were trained on images of 352×352 whose
channels are blue, green and red. Training here gives each object to the cell of its centre, with a generalised IoU
(Rezatofighi et al. 2019, arXiv:1902.09630) and cross-entropies; the published training chooses cells by overlap.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from sidedoor.errors import ConfigError
from sidedoor.metrics import detection
from sidedoor.metrics.detection import Found, Truth
from sidedoor.models.base import Shape, require_size
from sidedoor.object_detectors.base import Detector
from sidedoor.types import Images

DEPTHS, WIDTHS = (4, 8, 4), (24, 48, 96, 192)
WIDTH = 96
STRIDE = 16


def fastestdet(classes: int, shape: Shape) -> Detector:
    """A detector of 0.24 million parameters at 80 classes.

    Raises:
        ConfigError: images below 64×64, or not of three channels.
    """
    require_size("fastestdet", shape, 64)
    if shape[0] != 3:
        raise ConfigError(f"fastestdet takes images of 3 channels, {shape[0]} given")
    return _FastestDet(classes)


class _FastestDet(Detector):
    def __init__(self, classes: int):
        super().__init__()
        self.backbone = _Backbone()
        self.SPP = _Pyramid(sum(WIDTHS[1:]))
        self.detect_head = _Head(classes)

    def raw(self, x: Images) -> Float[Tensor, "b f rows columns"]:
        """Maps of logits: objectness, the four numbers of a box, one for each class."""
        # Sides of whole cells at a thirty-second of the size, as the maps that are joined need.
        padded = functional.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32), mode="replicate")
        near, middle, far = self.backbone(padded.flip(1))
        joined = torch.cat([functional.avg_pool2d(near, 3, 2, 1), middle,
                            functional.interpolate(far, scale_factor=2.0)], 1)
        maps: Tensor = self.detect_head(self.SPP(joined))
        return maps

    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        return self.raw(x)[:, 0].flatten(1)

    def detect(self, x: Images, least: float = 0.01) -> Found:
        said = self.raw(x)
        best, kind = said[:, 5:].softmax(1).flatten(2).max(1)
        score = said[:, 0].sigmoid().flatten(1) ** 0.6 * best**0.4
        corners = _inside(_corners(said), x)
        found = zip(corners, score, kind.float(), strict=True)
        return detection.padded(detection.kept(*of, least=least) for of in found)

    def losses(self, said: Float[Tensor, "b f h w"], truth: Truth) -> Float[Tensor, "b"]:
        height, width = said.shape[2:]
        image, row = detection.real(truth).nonzero(as_tuple=True)
        kind, wanted = truth[image, row, 0].long(), truth[image, row, 1:]
        column, line = ((wanted[:, :2] + wanted[:, 2:]) / 2 / STRIDE).long().unbind(1)
        cell = line.clamp(max=height - 1) * width + column.clamp(max=width - 1)
        there = torch.zeros(len(said), height * width, device=said.device)
        there[image, cell] = 1.0
        empty = functional.binary_cross_entropy_with_logits(said[:, 0].flatten(1), there, reduction="none").sum(1)
        place = generalized_box_iou_loss(_corners(said)[image, cell], wanted)
        classes = functional.cross_entropy(said[:, 5:].flatten(2)[image, :, cell], kind, reduction="none")
        return empty.index_add(0, image, 5 * place + classes)


def _corners(said: Float[Tensor, "b f h w"]) -> Float[Tensor, "b n 4"]:
    """Boxes of the cells in pixels: centres up to a cell away, sides as shares of the (padded) image's."""
    height, width = said.shape[2:]
    row, column = torch.meshgrid(torch.arange(height, device=said.device), torch.arange(width, device=said.device),
                                 indexing="ij")
    x, y = (column + said[:, 1].tanh()) * STRIDE, (row + said[:, 2].tanh()) * STRIDE
    w, h = said[:, 3].sigmoid() * width * STRIDE, said[:, 4].sigmoid() * height * STRIDE
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).flatten(1, 2)


def _inside(corners: Float[Tensor, "b n 4"], x: Images) -> Float[Tensor, "b n 4"]:
    height, width = x.shape[2:]
    cut: Tensor = corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))
    return cut


class _Backbone(nn.Module):
    """ShuffleNetV2, a quarter as wide: maps at an eighth, a sixteenth and a thirty-second of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]),
                                        nn.ReLU())
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(_Halving(WIDTHS[i]), *(_Shuffled(WIDTHS[i + 1] // 2) for _ in range(depth - 1)))
            for i, depth in enumerate(DEPTHS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        near = self.stage2(functional.max_pool2d(self.first_conv(x), 3, 2, 1))
        middle = self.stage3(near)
        return near, middle, self.stage4(middle)


class _Halving(nn.Module):
    """Half the size, twice the channels: both halves see all channels."""

    def __init__(self, width: int):
        super().__init__()
        self.branch_main = _branch(width, 2)
        self.branch_proj = nn.Sequential(*_depthwise(width, 3, 2), *_pointwise(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)


class _Shuffled(nn.Module):
    """Every other channel stays, the rest goes through the branch."""

    def __init__(self, width: int):
        super().__init__()
        self.branch_main = _branch(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, ::2], self.branch_main(x[:, 1::2])], 1)


class _Pyramid(nn.Module):
    """Three depths of depthwise convolutions side by side, added."""

    def __init__(self, inputs: int):
        super().__init__()
        self.Conv1x1 = _Pointwise(inputs)
        self.S1, self.S2, self.S3 = (
            nn.Sequential(*(layer for _ in range(depth) for layer in (*_depthwise(WIDTH, 5), nn.ReLU())))
            for depth in (1, 2, 3))
        self.output = nn.Sequential(*_pointwise(3 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        return torch.relu(x + self.output(torch.cat([self.S1(x), self.S2(x), self.S3(x)], 1)))


class _Head(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv1x1 = _Pointwise(WIDTH)
        self.obj_layers, self.reg_layers, self.cls_layers = (_Separable(outputs) for outputs in (1, 4, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        return torch.cat([self.obj_layers(x), self.reg_layers(x), self.cls_layers(x)], 1)


class _Pointwise(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.conv1x1 = nn.Sequential(*_pointwise(inputs, WIDTH), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv1x1(x)
        return mixed


class _Separable(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.conv5x5 = nn.Sequential(*_depthwise(WIDTH, 5), nn.ReLU(), *_pointwise(WIDTH, outputs))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv5x5(x)
        return maps


def _branch(width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*_pointwise(width, width), nn.ReLU(), *_depthwise(width, 3, stride),
                         *_pointwise(width, width), nn.ReLU())


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)


def _depthwise(width: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(width, width, size, stride, size // 2, groups=width, bias=False), nn.BatchNorm2d(width)
