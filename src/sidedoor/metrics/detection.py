"""Metrics of object detection: matching of boxes, F1 and average precision.

True boxes of a batch are (b, k, 5): class, left, top, right, bottom in pixels, -1 in every column where an image has
fewer than k. Detections of a batch are (b, m, 6): the same and a score, the best first, -1 where there are fewer.

Papers: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010 (matching); Lin et al.,
"Microsoft COCO", ECCV 2014, arXiv:1405.0312 (the precision at 101 recalls).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms, box_iou

Truth = Float[Tensor, "b k 5"]
Found = Float[Tensor, "b m 6"]
MOST = 100
"""The most detections that are kept of an image, as in COCO."""
OVERLAP = 0.5
"""The least intersection over union of two boxes of the same object."""


def kept(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], classes: Num[Tensor, "n"],
         least: float, overlap: float = 0.45) -> Float[Tensor, "m 6"]:
    """Detections of one image after non-maximum suppression within each class, the best first, at most `MOST`."""
    sure = scores >= least
    boxes, scores, classes = boxes[sure], scores[sure], classes[sure]
    best = batched_nms(boxes, scores, classes, overlap)[:MOST]
    return torch.cat([classes[best, None].float(), boxes[best], scores[best, None]], 1)


def padded(images: Iterable[Float[Tensor, "_ 6"]]) -> Found:
    """Detections of several images as one tensor of `MOST` rows each."""
    rows = pad_sequence([*images], batch_first=True, padding_value=-1.0)
    return torch.nn.functional.pad(rows, (0, 0, 0, MOST - rows.shape[1]), value=-1.0)


def surer(found: Found, least: float) -> Found:
    """Only the detections of at least this score; the others become -1."""
    return torch.where(found[..., 5:] >= least, found, -torch.ones_like(found))


def real(boxes: Float[Tensor, "... n c"]) -> Bool[Tensor, "... n"]:
    """Which rows are boxes, not padding."""
    return boxes[..., 0] >= 0


def f1(found: Found, truth: Truth) -> Float[Tensor, "b"]:
    """Per image 2 TP / (detections + objects); 1 where there is neither.

    A detection counts where it overlaps an object of its class that no better one has taken.
    """
    hits = torch.stack([_matches(f, t).sum() for f, t in zip(found, truth, strict=True)])
    total = real(found).sum(1) + real(truth).sum(1)
    return torch.where(total > 0, 2 * hits / total.clamp(min=1), torch.ones_like(hits, dtype=torch.float32))


def added(found: Found, before: Found) -> Float[Tensor, "b"]:
    """The number of detections of each image, of any class, that overlap none in `before`: the fabricated ones."""
    count = []
    for one, other in zip(found, before, strict=True):
        overlaps = box_iou(one[real(one)][:, 1:5], other[real(other)][:, 1:5])
        count.append((overlaps < OVERLAP).all(1).sum())
    return torch.stack(count).float()


def average_precision(found: Found, truth: Truth) -> float:
    """Average precision at an overlap of one half (AP50) as in COCO, the mean over the classes that occur."""
    scores, hits, kinds = [], [], []
    for f, t in zip(found, truth, strict=True):
        f = f[real(f)]
        scores.append(f[:, 5])
        kinds.append(f[:, 0])
        hits.append(_matches(f, t))
    score, hit, kind = torch.cat(scores), torch.cat(hits), torch.cat(kinds)
    objects = truth[real(truth)][:, 0]
    each = [_one_class(score[kind == c], hit[kind == c], int((objects == c).sum())) for c in torch.unique(objects)]
    return float(np.mean(each)) if each else float("nan")


def _one_class(score: Tensor, hit: Tensor, objects: int) -> float:
    """Precision, made monotone, averaged over 101 recalls."""
    order = score.argsort(descending=True, stable=True)
    right = hit[order].double().cumsum(0).numpy()
    recall, precision = right / objects, right / np.arange(1, len(right) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.linspace(0, 1, 101), side="left")].mean())


def _matches(found: Float[Tensor, "m 6"], truth: Float[Tensor, "k 5"]) -> Bool[Tensor, "m"]:
    """Which detections, the best first, match an object of their class that no better one has taken."""
    hit, objects = torch.zeros_like(real(found)), truth[real(truth)]
    if not len(objects):
        return hit
    overlaps = box_iou(found[:, 1:5], objects[:, 1:5])
    overlaps = torch.where(found[:, :1] == objects[None, :, 0], overlaps, torch.zeros_like(overlaps))
    for i in range(len(found)):
        best, which = overlaps[i].max(0)
        if best >= OVERLAP:
            hit[i], overlaps[:, which] = True, 0.0
    return hit
