"""Geometric transformations of image batches, each image by its own parameters: windows, resizing, rotation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from sidedoor.types import Images

Edges = Literal["black", "repeated"]
"""What comes in from outside an image: black, or its nearest pixel."""


def resized(x: Images, size: tuple[int, ...]) -> Float[Tensor, "b c height width"]:
    """Images of another (height, width), bilinear without antialiasing."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def window(x: Images, corner: Int[Tensor, "b 2"], size: tuple[int, ...]) -> Float[Tensor, "b c height width"]:
    """From each image the window of a size whose top left pixel is at `corner`, (row, column)."""
    rows = corner[:, :1] + torch.arange(size[0], device=x.device)
    columns = corner[:, 1:] + torch.arange(size[1], device=x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.movedim(1, 3)[image, rows[:, :, None], columns[:, None, :]].movedim(3, 1).contiguous()


def cut_out(x: Images, boxes: Float[Tensor, "b k 4"], size: tuple[int, int]) -> Float[Tensor, "bk c height width"]:
    """What is in k boxes of each image, stretched to (height, width), bilinear; outside of the image is 0.

    Args:
        boxes: (left, top, right, bottom) in pixels, whole numbers at the edges of pixels.

    Returns:
        k b images, the k of the first image first.
    """
    (b, _, height, width), k, (tall, wide) = x.shape, boxes.shape[1], size
    edges = boxes / torch.tensor([width, height] * 2, device=x.device) * 2 - 1
    across, down = (torch.lerp(edges[..., axis, None], edges[..., axis + 2, None],
                               (torch.arange(steps, device=x.device) + 0.5) / steps)
                    for axis, steps in enumerate((wide, tall)))
    grid = torch.stack([across[:, :, None, :].expand(b, k, tall, wide), down[..., None].expand(b, k, tall, wide)], -1)
    found = functional.grid_sample(x, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.reshape(b, -1, k, tall, wide).transpose(1, 2).flatten(0, 1)


def template_side(size: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    """Side of the square that SiamFC takes as the template of boxes of a width and height: with context around it."""
    context = size.sum(-1) / 2
    return ((size[..., 0] + context) * (size[..., 1] + context)).sqrt()


def covered(x: Images, corner: Int[Tensor, "b 2"], size: int) -> Float[Tensor, "b 1 h w"]:
    """1 within the square of a size whose top left pixel is at `corner`, 0 elsewhere."""
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device) - corner[:, :1]
    column = torch.arange(width, device=x.device) - corner[:, 1:]
    inside = [(place >= 0) & (place < size) for place in (row, column)]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None].to(x.dtype)


def turned(x: Images, degrees: Float[Tensor, "b"], scale: Float[Tensor, "b"] | float = 1.0,
           shift: Float[Tensor, "b 2"] | float = 0.0, edges: Edges = "black") -> Images:
    """Images rotated anticlockwise about their centre, bilinear.

    Args:
        scale, shift: see `affine`.
        edges: see `warped`.
    """
    return warped(x, affine(x.shape, degrees, scale, shift), edges)


def affine(shape: Sequence[int], degrees: Float[Tensor, "b"], scale: Float[Tensor, "b"] | float = 1.0,
           shift: Float[Tensor, "b 2"] | float = 0.0,
           mirror: Bool[Tensor, "b"] | None = None) -> Float[Tensor, "b 2 3"]:
    """Maps for `warped` that rotate images of a (b, c, h, w), change their size, move them and mirror them.

    Args:
        degrees: anticlockwise, about the centre.
        scale: size of the sampled window over that of the image; more than 1 makes the picture smaller.
        shift: of the window, across and down, in halves of the side.
        mirror: which images are mirrored left to right, after the rotation.
    """
    height, width = shape[2:]
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    sign = 1.0 if mirror is None else torch.where(mirror, -1.0, 1.0)
    # The grid has coordinates in [-1, 1] on both axes, so a rotation in pixels needs the ratio of the sides.
    rows = (torch.stack([sign * cos, -sin * height / width], 1), torch.stack([sign * sin * width / height, cos], 1))
    offset = torch.zeros(len(degrees), 2, device=degrees.device) + shift
    return torch.cat([torch.stack(rows, 1), offset[:, :, None]], 2)


def warped(x: Images, theta: Float[Tensor, "b 2 3"], edges: Edges = "black") -> Images:
    """Images through affine maps of coordinates in [-1, 1], from output to input; bilinear.

    Args:
        edges: what comes in from outside, black or the nearest pixel of the image.
    """
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros" if edges == "black" else "border",
                                  align_corners=False)


def projected(x: Images, corners: Float[Tensor, "b 4 2"]) -> Images:
    """Images as seen from the side; edges go on as they are, and what is pushed outside is lost.

    Args:
        corners: (across, down) where the top left, top right, bottom right and bottom left corner of the picture come
            to be, in coordinates in [-1, 1].
    """
    height, width = x.shape[2:]
    own = x.new_tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).expand_as(corners)
    across, down = ((torch.arange(side, device=x.device) + 0.5) * 2 / side - 1 for side in (width, height))
    place = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width), x.new_ones(height, width)], -1)
    seen = place.reshape(1, -1, 3) @ homography(corners, own).mT
    grid = (seen[..., :2] / seen[..., 2:]).reshape(-1, height, width, 2)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def homography(source: Float[Tensor, "b 4 2"], target: Float[Tensor, "b 4 2"]) -> Float[Tensor, "b 3 3"]:
    """The projective maps that take four points each to four others."""
    x, y, ones, none = *source.unbind(2), torch.ones_like(source[..., 0]), torch.zeros_like(source[..., 0])
    rows = [torch.stack([x, y, ones, none, none, none, -u * x, -u * y], 2) if k == 0 else
            torch.stack([none, none, none, x, y, ones, -u * x, -u * y], 2) for k, u in enumerate(target.unbind(2))]
    solved = torch.linalg.solve(torch.cat(rows, 1), torch.cat(list(target.unbind(2)), 1)[..., None])[..., 0]
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).reshape(-1, 3, 3)


def like(x: Images, shape: tuple[int, int, int]) -> Float[Tensor, "b channels height width"]:
    """Grey or colour images of another (channels, height, width): resized with antialiasing, greyed or tripled."""
    if x.shape[1] != shape[0]:
        x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return functional.interpolate(x, size=shape[1:], mode="bilinear", antialias=True, align_corners=False)
