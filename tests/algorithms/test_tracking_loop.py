"""The closed loop of a tracker, with one that looks for what is bright."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sidedoor.algorithms.tracking import track
from sidedoor.metrics.tracking import iou
from sidedoor.models.trackers.base import Geometry, State, Tracker

GEOMETRY = Geometry(31, 63, True, 2, 4, (1 / 1.05, 1.0, 1.05), 0.98, 0.1, 0.5)


class Bright(Tracker):
    """The response is the brightness of an object's size, less what is bright around it."""

    geometry = GEOMETRY

    def features(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)

    def start(self, template: Tensor) -> State:
        return (self.features(template).mean((2, 3)),)

    def respond(self, state: State, x: Tensor) -> Tensor:
        seen = self.features(x)
        inner, outer = (functional.avg_pool2d(seen, side, 2, padding=0) for side in (15, 23))
        edge = (inner.shape[2] - outer.shape[2]) // 2
        return (inner[:, 0, edge:-edge, edge:-edge] - 0.5 * outer[:, 0]) * 10

    def loss(self, response: Tensor, offset: Tensor) -> Tensor:
        return response.sum((1, 2))


def video(steps: int, start: tuple[int, int], step: tuple[int, int], side: int = 12) -> tuple[Tensor, Tensor]:
    """A white square that moves over black: frames (t, 1, 3, h, w), boxes (t, 4)."""
    frames, boxes = torch.zeros(steps, 1, 3, 80, 120), []
    for t in range(steps):
        left, top = (begin + t * by for begin, by in zip(start, step, strict=True))
        frames[t, :, :, top : top + side, left : left + side] = 1
        boxes.append([left, top, left + side, top + side])
    return frames, torch.tensor(boxes).float()


def test_a_square_is_followed_to_the_right_and_upwards() -> None:
    frames, boxes = video(12, (20, 60), (5, -4))
    found = track(Bright(), frames, boxes[:1])
    assert found.shape == (1, 12, 4)
    assert torch.equal(found[0, 0], boxes[0])
    assert iou(found[0], boxes).min() > 0.5
    assert iou(boxes[:1].expand(12, 4), boxes).mean() < 0.2  # the premise: it does move


def test_videos_go_together_as_they_go_alone() -> None:
    one, other = video(6, (20, 40), (4, -2)), video(6, (80, 10), (-3, 3), 16)
    together = track(Bright(), torch.cat([one[0], other[0]], 1), torch.stack([one[1][0], other[1][0]]))
    for k, (frames, boxes) in enumerate((one, other)):
        assert torch.allclose(together[k], track(Bright(), frames, boxes[:1])[0], atol=1e-3)


def test_a_response_that_is_not_finite_loses_the_object_for_good() -> None:
    frames, boxes = video(4, (20, 40), (4, -2))
    frames[2, 0, 0, 0, 0] = torch.nan
    frames[2] = torch.where(frames[2].isnan().any(), torch.nan, frames[2])
    found = track(Bright(), frames, boxes[:1])[0]
    assert found.isfinite().all(1).tolist() == [True, True, False, False]
