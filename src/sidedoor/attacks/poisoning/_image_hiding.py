"""Poison Ink's networks: the injection network, the guidance extractor and the critic.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, Tables II and III and section V-A.

Table II doubles sizes by transposed convolutions. Trained so on small data, the network hides a lattice of single
pixels that resampling removes and hardly any augmented victim learns; the name of the authors' published run suggests
resizing before padded convolutions, which is what ours does, with kernels of the same 4×4 and as many parameters.

Table II ends in batch normalisation and a sigmoid. A network whose output must nearly equal its input learns that
slowly, so ours adds its scaled output to the cover image: up to there the layers are the paper's. Table III leaves open
which layers have biases; those that lead to the published number of parameters are taken.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.types import Images

DEPTH = 5
"""Halvings of the injection network."""


class Injection(nn.Module):
    """The U-Net of Table II: a cover and a pattern (b, 2c, h, w) in, the cover with the pattern hidden in it out.

    Args:
        channels: of the cover.
        width: channels after the first convolution; 64 has the 16,665,737 parameters of the paper for colour.
    """

    def __init__(self, channels: int, width: int = 64):
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.down = nn.ModuleList(_halving(a, b) for a, b in pairwise([2 * channels, *sizes]))
        outputs = [8 * width, 4 * width, 2 * width, width, channels]
        inputs = [sizes[-1], *(out + skip for out, skip in zip(outputs, sizes[-2::-1], strict=False))]
        self.up = nn.ModuleList(_doubling(a, b, last=b == channels) for a, b in zip(inputs, outputs, strict=True))

    def forward(self, cover: Images, pattern: Images) -> Images:
        height, width = cover.shape[2:]
        x = functional.pad(torch.cat([cover, pattern], 1), (0, -width % 2**DEPTH, 0, -height % 2**DEPTH),
                           mode="replicate")
        skips: list[Tensor] = []
        for layer in self.down:
            x = layer(x)
            skips.append(x)
        x = self.up[0](skips.pop())
        for layer in self.up[1:]:
            x = layer(torch.cat([x, skips.pop()], 1))
        # The sigmoid of nothing is one half: no change.
        change = 2 * torch.sigmoid(x[:, :, :height, :width].float()) - 1
        hidden: Tensor = (cover + change).clamp(0, 1)
        return hidden


class Extractor(nn.Module):
    """The network of Table III: an image in, the pattern hidden in it out; white if there is none.

    Args:
        channels: of the image.
        width: channels throughout; 128 and 7 blocks have the 2,777,859 parameters of the paper for colour.
        blocks: residual blocks at half the size.
    """

    def __init__(self, channels: int, width: int = 128, blocks: int = 7):
        super().__init__()
        self.layers = nn.Sequential(
            *_normalised(nn.Conv2d(channels, width, 3, 1, 1, bias=False), width),
            *_normalised(nn.Conv2d(width, width, 3, 1, 1, bias=False), width),
            *_normalised(nn.Conv2d(width, width, 3, 2, 1, bias=False), width),
            *(_Residual(width) for _ in range(blocks)),
            *_normalised(nn.ConvTranspose2d(width, width, 4, 2, 1), width),
            *_normalised(nn.Conv2d(width, width, 3, 1, 1), width),
            nn.Conv2d(width, channels, 1))

    def forward(self, x: Images) -> Images:
        height, width = x.shape[2:]
        even = functional.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        pattern: Tensor = self.layers(even)[:, :, :height, :width]
        return pattern


class Critic(nn.Sequential):
    """Tells covers from images with something hidden in them, a logit for each patch of 16×16 pixels.

    Args:
        channels: of the images.
        width: channels of the first layer; 64 is the paper's.
    """

    def __init__(self, channels: int, width: int = 64):
        sizes = [channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for k, (a, b) in enumerate(pairwise(sizes)):
            # A map of one pixel has no variance: small images go without normalisation at the end.
            norm = [nn.GroupNorm(b, b, affine=False)] if 0 < k < 3 else []
            layers += [nn.Conv2d(a, b, 3, 2, 1), *norm, nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(sizes[-1], 1, 3, 1, 1))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(*_normalised(nn.Conv2d(width, width, 3, 1, 1, bias=False), width),
                                  nn.Conv2d(width, width, 3, 1, 1, bias=False), _instance(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _instance(width: int) -> nn.GroupNorm:
    """Instance normalisation with weights: groups of one channel each, a quarter faster on CPUs than torch's own."""
    return nn.GroupNorm(width, width)


def _normalised(layer: nn.Module, width: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return layer, _instance(width), nn.ReLU()


def _halving(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


def _doubling(inputs: int, outputs: int, last: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d(outputs)
    if last:
        nn.init.constant_(norm.weight, 0.1)  # so that training starts near the cover image
    layers = [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.ReplicationPad2d((1, 2, 1, 2)),
              nn.Conv2d(inputs, outputs, 4), norm]
    return nn.Sequential(*layers) if last else nn.Sequential(*layers, nn.ReLU())
