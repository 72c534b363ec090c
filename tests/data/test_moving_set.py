"""Generated clips: boxes are where the objects are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidedoor.data.base import ArrayDataset, Splits
from sidedoor.data.root import Where
from sidedoor.data.sets import moving as module
from sidedoor.errors import ConfigError

PLAIN = {"distractor": 0.0, "occluder": 0.0, "blur": 0.0}


def white_squares(where: Where, given: str) -> Splits:
    """As objects white squares on black, as backgrounds grey."""
    images, boxes = torch.full((4, 3, 160, 160), 60, dtype=torch.uint8), torch.full((4, 1, 5), -1.0)
    if given == "objects":
        images[:] = 0
        for k, corner in enumerate((60, 62, 64, 66)):
            images[k, :, corner : corner + 32, corner : corner + 32] = 255
            boxes[k, 0] = torch.tensor([0.0, corner, corner, corner + 32, corner + 32])
    data = ArrayDataset(images, [0] * 4, 1, "squares", boxes=boxes)
    return Splits(data, data)


def parts(monkeypatch: pytest.MonkeyPatch, **given: Any) -> Splits:
    monkeypatch.setattr(module, "_source", white_squares)
    small = {"train": 8, "test": 2, "frames": 5, "test_frames": 4, "height": 60, "width": 80}
    return module.moving(Where(None), "objects", "backgrounds", **(small | PLAIN | given))


def made(monkeypatch: pytest.MonkeyPatch, **given: Any) -> ArrayDataset:
    train = parts(monkeypatch, **given).train
    assert isinstance(train, ArrayDataset)
    return train


def test_boxes_hold_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(monkeypatch)
    assert data.boxes is not None
    for image, (left, top, right, bottom) in zip(data.images, data.boxes[:, 0, 1:].tolist(), strict=True):
        bright = torch.nonzero(torch.as_tensor(image).float().mean(0) > 130)
        middle = bright.float().mean(0) + 0.5
        side = ((right - left) * (bottom - top)) ** 0.5
        assert middle.tolist() == pytest.approx([(top + bottom) / 2, (left + right) / 2], abs=max(0.2 * side, 2))
        assert len(bright) ** 0.5 == pytest.approx(side, rel=0.25)


def test_objects_move_and_clips_are_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(monkeypatch)
    assert data.boxes is not None
    assert data.groups is not None
    assert data.groups.tolist() == [k // 5 for k in range(40)]
    centre = (data.boxes[:, 0, 1:3] + data.boxes[:, 0, 3:]).reshape(8, 5, 2) / 2
    assert ((centre[:, 1:] - centre[:, :-1]).norm(dim=2).mean(1) > 0.3).all()


@pytest.mark.parametrize("option", ["distractor", "occluder", "blur"])
def test_options_change_pixels(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    assert not torch.equal(torch.as_tensor(made(monkeypatch, **{option: 1.0}).images),
                           torch.as_tensor(made(monkeypatch).images))


def test_only_test_clips_are_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, harder, other = (parts(monkeypatch, **given) for given in ({}, {"test_jpeg": 20}, {"seed": 1}))
    assert plain.train.fingerprint() == harder.train.fingerprint()
    assert plain.test.fingerprint() != harder.test.fingerprint()
    assert plain.train.fingerprint() != other.train.fingerprint()


def test_a_source_without_boxes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ArrayDataset(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), [0, 0], 1)
    monkeypatch.setattr(module, "_source", lambda where, given: Splits(plain, plain))
    with pytest.raises(ConfigError, match="`objects` is a data set without boxes"):
        module.moving(Where(None))
