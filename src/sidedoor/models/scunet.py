"""SCUNet: a U-Net whose blocks split channels between residual convolutions and shifted-window attention.

Paper: Zhang, Li, Liang, Cao, Zhang, Tang, Fan, Timofte, Van Gool, "Practical Blind Image Denoising via Swin-Conv-UNet
and Data Synthesis", Machine Intelligence Research 2023, arXiv:2203.13278.

The full size has 17,946,072 parameters for colour images, and names as the published weights have them. Inputs are
padded so that windows divide them at every size. Two CPU cores manage `dim = 16`, `blocks = [1, 1, 1, 1, 1, 1, 1]`,
`head = 8`, `window = 4`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.method import Count, Whole
from sidedoor.models.base import Shape, enlarged
from sidedoor.types import Images


class _Attention(nn.Module):
    """Multi-head attention within windows, shifted by half a window in every second block, with relative positions."""

    def __init__(self, width: int, head: int, window: int, shifted: bool):
        super().__init__()
        self.heads, self.window, self.shift = width // head, window, window // 2 if shifted else 0
        self.embedding_layer = nn.Linear(width, 3 * width)
        self.linear = nn.Linear(width, width)
        self.relative_position_params = nn.Parameter(torch.empty(self.heads, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.relative_position_params, std=0.02)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Tensor:
        size, w = x.shape, self.window
        x = x.roll((-self.shift, -self.shift), (1, 2))
        tokens = _windows(x, w)
        q, k, v = self.embedding_layer(tokens).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.positions()[None, None].expand(*q.shape[:3], -1, -1)
        if self.shift:
            bias = bias.masked_fill(_strangers(size[1], size[2], w, self.shift, x.device)[:, None], -torch.inf)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        output = _whole(self.linear(mixed.transpose(2, 3).flatten(3)), size[1], size[2], w)
        return output.roll((self.shift, self.shift), (1, 2))

    def positions(self) -> Float[Tensor, "heads n n"]:
        """What each pair of places in a window adds to its attention."""
        place = torch.arange(self.window, device=self.relative_position_params.device)
        grid = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1).flatten(0, 1)
        relative = grid[:, None] - grid + self.window - 1
        return self.relative_position_params[:, relative[..., 0], relative[..., 1]]


def _windows(x: Tensor, w: int) -> Float[Tensor, "b n p c"]:
    b, height, width, c = x.shape
    return x.view(b, height // w, w, width // w, w, c).transpose(2, 3).reshape(b, -1, w * w, c)


def _whole(windows: Tensor, height: int, width: int, w: int) -> Float[Tensor, "b h w c"]:
    b, c = len(windows), windows.shape[-1]
    return windows.view(b, height // w, width // w, w, w, c).transpose(2, 3).reshape(b, height, width, c)


def _strangers(height: int, width: int, w: int, shift: int, device: torch.device) -> Tensor:
    """(n, p, p): pairs of places in a window of the shifted image that come from opposite edges."""
    def edge(side: int) -> Tensor:
        return (torch.arange(side, device=device) >= side - shift).float()

    region = 2 * edge(height)[:, None] + edge(width)
    cells = _windows(region[None, :, :, None], w)[0, :, :, 0]
    # Only the last windows hold both sides of an edge; elsewhere all places are of one region.
    return cells[:, :, None] != cells[:, None, :]


class _Transformer(nn.Module):
    def __init__(self, width: int, head: int, window: int, shifted: bool):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.msa = _Attention(width, head, window, shifted)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        mixed: Tensor = self.mlp(self.ln2(x))
        return x + mixed


class _Block(nn.Module):
    """Half the channels through convolutions, half through a transformer."""

    def __init__(self, half: int, head: int, window: int, shifted: bool):
        super().__init__()
        self.trans_block = _Transformer(half, head, window, shifted)
        self.conv1_1, self.conv1_2 = nn.Conv2d(2 * half, 2 * half, 1), nn.Conv2d(2 * half, 2 * half, 1)
        self.conv_block = nn.Sequential(nn.Conv2d(half, half, 3, padding=1, bias=False), nn.ReLU(),
                                        nn.Conv2d(half, half, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.conv1_1(x).chunk(2, 1)
        near = near + self.conv_block(near)
        far = self.trans_block(far.movedim(1, 3)).movedim(3, 1)
        mixed: Tensor = self.conv1_2(torch.cat([near, far], 1))
        return x + mixed


class _SCUNet(nn.Module):
    def __init__(self, channels: int, dim: int, blocks: tuple[int, ...], head: int, window: int):
        super().__init__()
        def level(half: int, count: int) -> list[nn.Module]:
            return [_Block(half, head, window, shifted=k % 2 == 1) for k in range(count)]

        self.multiple = 8 * window
        self.m_head = nn.Conv2d(channels, dim, 3, padding=1, bias=False)
        self.m_down1 = nn.Sequential(*level(dim // 2, blocks[0]), nn.Conv2d(dim, 2 * dim, 2, 2, bias=False))
        self.m_down2 = nn.Sequential(*level(dim, blocks[1]), nn.Conv2d(2 * dim, 4 * dim, 2, 2, bias=False))
        self.m_down3 = nn.Sequential(*level(2 * dim, blocks[2]), nn.Conv2d(4 * dim, 8 * dim, 2, 2, bias=False))
        self.m_body = nn.Sequential(*level(4 * dim, blocks[3]))
        self.m_up3 = nn.Sequential(nn.ConvTranspose2d(8 * dim, 4 * dim, 2, 2, bias=False), *level(2 * dim, blocks[4]))
        self.m_up2 = nn.Sequential(nn.ConvTranspose2d(4 * dim, 2 * dim, 2, 2, bias=False), *level(dim, blocks[5]))
        self.m_up1 = nn.Sequential(nn.ConvTranspose2d(2 * dim, dim, 2, 2, bias=False), *level(dim // 2, blocks[6]))
        self.m_tail = nn.Conv2d(dim, channels, 3, padding=1, bias=False)

    def forward(self, x: Images) -> Images:
        height, width = x.shape[2:]
        x = functional.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        one = self.m_head(x)
        two = self.m_down1(one)
        three = self.m_down2(two)
        four = self.m_down3(three)
        deep = self.m_up3(self.m_body(four) + four)
        deep = self.m_up1(self.m_up2(deep + three) + two)
        output: Tensor = self.m_tail(deep + one)
        return output[:, :, :height, :width]


QUICK: dict[str, Any] = {"dim": 8, "blocks": (2, 1, 1, 1, 1, 1, 1), "head": 4, "window": 4}
"""Parameters with which it is built and run in a second."""


def scunet(shape: Shape, scale: int, dim: Count = 64,
           blocks: tuple[Whole, Whole, Whole, Whole, Whole, Whole, Whole] = (4,) * 7, head: Count = 32,
           window: Count = 8) -> nn.Module:
    """Three halvings of the size; for a scale above 1 behind bicubic enlargement.

    Args:
        dim: channels at the full size, a multiple of twice `head`.
        blocks: at each size on the way down, in the middle and on the way up.
        head: channels of each attention head.
        window: pixels a side of an attention window.
    """
    return enlarged(_SCUNet(shape[0], dim, blocks, head, window), scale)
