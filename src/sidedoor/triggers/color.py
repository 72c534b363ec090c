"""Colour trigger: a uniform shift of all pixels in hue, saturation and value.

Paper: Jiang, Li, Xu, Zhang, "Color Backdoor: A Robust Poisoning Attack in Color Space", CVPR 2023.

The paper searches the shift by particle swarms under limits on PSNR, SSIM and LPIPS; here it is given.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index


class Color(Trigger):
    """Shift hue (in turns), saturation and value of every pixel by constants; of grey images the value alone.

    Values outside [0, 1], as noisy inputs have, are clipped for the conversion; the clipped part is added back.

    Args:
        shift: (hue, saturation, value), hue in turns of the colour circle, the others in [-1, 1].
    """

    shift: Tensor

    def __init__(self, shift: tuple[float, float, float]):
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, x: Images, index: Index) -> Images:
        inside = x.clamp(0, 1)
        if x.shape[1] == 1:
            return x + self.shift[2]
        hue, saturation, value = hsv(inside).unbind(1)
        moved = rgb(torch.stack([(hue + self.shift[0]) % 1, (saturation + self.shift[1]).clamp(0, 1),
                                 (value + self.shift[2]).clamp(0, 1)], 1))
        return moved + (x - inside)


def hsv(x: Images) -> Images:
    """Hue in turns [0, 1), saturation and value in [0, 1] of images in [0, 1] (Smith 1978)."""
    value, highest = x.max(1)
    spread = value - x.min(1).values
    divisor = torch.where(spread > 0, spread, 1)
    red, green, blue = x.unbind(1)
    sixths = torch.stack([(green - blue) / divisor % 6, (blue - red) / divisor + 2, (red - green) / divisor + 4], 1)
    hue = sixths.gather(1, highest[:, None])[:, 0] / 6
    saturation = spread / torch.where(value > 0, value, 1)
    return torch.stack([torch.where(spread > 0, hue, 0), saturation, value], 1)


def rgb(x: Images) -> Images:
    """Images in [0, 1] of hue in turns, saturation and value."""
    hue, saturation, value = x.unbind(1)
    # Each channel is the value, less the saturation where the hue is far from the channel's own.
    offset = torch.tensor([5.0, 3.0, 1.0], device=x.device).reshape(1, 3, 1, 1)
    k = (offset + 6 * hue[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))
