"""Matching of boxes, and the precision of detections beside COCO's own."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sidedoor.metrics import detection


def found(*rows: list[float]) -> Tensor:
    return detection.padded([torch.tensor(rows).reshape(-1, 6)])


TRUTH = torch.tensor([[[0.0, 0, 0, 10, 10], [1, 20, 20, 30, 30], [-1, -1, -1, -1, -1]]])


@pytest.mark.parametrize(("rows", "value"), [
    ([[0.0, 0, 0, 10, 10, 0.9], [1, 20, 20, 30, 30, 0.8]], 1.0),
    ([[0.0, 0, 0, 10, 10, 0.9], [0, 1, 0, 10, 10, 0.8]], 0.5),  # the second has nothing left to find
    ([[1.0, 0, 0, 10, 10, 0.9]], 0.0),  # another class
    ([[0.0, 0, 0, 10, 4, 0.9]], 0.0),  # too little of it
    ([], 0.0),
])
def test_f1_counts_objects_once(rows: list[list[float]], value: float) -> None:
    assert detection.f1(found(*rows), TRUTH).item() == pytest.approx(value)


def test_nothing_found_in_an_empty_image_is_right() -> None:
    empty = torch.full((1, 2, 5), -1.0)
    assert detection.f1(found(), empty).item() == 1
    assert detection.f1(found([0.0, 0, 0, 5, 5, 0.9]), empty).item() == 0


def test_added_boxes_are_those_that_overlap_none_before_whatever_their_class() -> None:
    before = found([0.0, 0, 0, 10, 10, 0.9])
    after = found([1.0, 1, 0, 10, 10, 0.9], [0, 40, 40, 50, 50, 0.5], [0, 0, 8, 10, 20, 0.4])
    assert detection.added(after, before).tolist() == [2]
    assert detection.added(after, found()).tolist() == [3]
    assert detection.added(found(), before).tolist() == [0]


def test_only_sure_detections_are_kept() -> None:
    both = found([0.0, 0, 0, 10, 10, 0.9], [0, 40, 40, 50, 50, 0.1])
    assert detection.real(detection.surer(both, 0.2)).sum() == 1


def test_of_overlapping_detections_the_best_stays_in_each_class() -> None:
    corners = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    left = detection.kept(corners, torch.tensor([0.5, 0.9, 0.4, 0.05]), torch.tensor([0, 0, 1, 0]), least=0.1)
    assert left[:, [0, 5]].tolist() == [[0, pytest.approx(0.9)], [1, pytest.approx(0.4)]]


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Detections near the objects of ten images, some false, in a random number."""
    rng = np.random.default_rng(seed)
    truth, detections = torch.full((10, 4, 5), -1.0), []
    for image in truth:
        rows = []
        for i in range(rng.integers(0, 5)):
            left, top = rng.uniform(0, 40, 2)
            image[i] = torch.tensor([rng.integers(2), left, top, left + 12, top + 12])
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 2.5, 2)
                rows.append([float(rng.integers(2)), left + shift[0], top + shift[1], left + 12 + shift[0],
                             top + 12 + shift[1], rng.uniform(0.02, 1)])
        rows += [[0.0, 5, 5, 9, 9, rng.uniform(0.02, 1)]]
        detections.append(torch.tensor(sorted(rows, key=lambda row: -row[5])))
    return detection.padded(detections), truth


def of_coco(detections: Tensor, truth: Tensor) -> float:
    """AP50 by the reference implementation."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    objects = [{"image_id": i, "category_id": int(t[0]), "bbox": [*t[1:3].tolist(), *(t[3:] - t[1:3]).tolist()],
                "area": float((t[3:] - t[1:3]).prod()), "iscrowd": 0} for i, rows in enumerate(truth)
               for t in rows if t[0] >= 0]
    seen = [{"image_id": i, "category_id": int(d[0]), "bbox": [*d[1:3].tolist(), *(d[3:5] - d[1:3]).tolist()],
             "area": float((d[3:5] - d[1:3]).prod()), "score": float(d[5])} for i, rows in enumerate(detections)
            for d in rows if d[0] >= 0]
    for number, record in enumerate([*objects, *seen], 1):
        record["id"] = number
    frame = {"images": [{"id": i} for i in range(len(truth))], "categories": [{"id": c} for c in range(2)]}
    with contextlib.redirect_stdout(io.StringIO()):
        real, theirs = coco.COCO(), coco.COCO()
        real.dataset, theirs.dataset = frame | {"annotations": objects}, frame | {"annotations": seen}
        real.createIndex()
        theirs.createIndex()
        judge = evaluation.COCOeval(real, theirs, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[1])


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_coco(seed: int) -> None:
    detections, truth = drawn(seed)
    assert detection.average_precision(detections, truth) == pytest.approx(of_coco(detections, truth), abs=1e-6)


@given(st.integers(0, 10**6))
def test_perfect_detections_have_a_precision_of_one_and_none_zero(seed: int) -> None:
    _, truth = drawn(seed)
    if not bool(detection.real(truth).any()):
        return
    perfect = detection.padded([torch.cat([t[detection.real(t)], torch.full((int(detection.real(t).sum()), 1), 0.9)], 1)
                            for t in truth])
    assert detection.average_precision(perfect, truth) == pytest.approx(1.0)
    assert detection.average_precision(detection.padded([torch.zeros(0, 6)] * 10), truth) == 0
