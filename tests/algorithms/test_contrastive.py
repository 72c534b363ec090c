"""Contrastive learning: views keep the picture, the loss is NT-Xent, and features know what an image shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sidedoor.algorithms.contrastive import (
    Pretraining,
    SimCLR,
    Views,
    blur,
    crop,
    grey,
    jitter,
    partners,
)
from sidedoor.engine import Recipe
from sidedoor.models.base import head
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import CLASSES, content, ground, images
from sidedoor.types import Batch

ALL = ("crop", "flip", "jitter", "grey", "blur")


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_images_each_drawn_for_itself(channels: int) -> None:
    x = images((channels, 16, 16))[:1].expand(40, -1, -1, -1)
    torch.manual_seed(0)
    seen = Views(ALL)(x)
    assert seen.shape == x.shape
    assert seen.min() >= 0
    assert seen.max() <= 1 + 1e-6
    assert len(seen.unique(dim=0)) == 40
    assert torch.equal(Views(())(x), x)


def test_a_crop_keeps_the_share_of_the_area_and_stays_within_the_image() -> None:
    ramp = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64)
    x = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.ones(64, 64)])
    seen = crop(x.expand(200, -1, -1, -1), 0.25)
    assert seen[:, 2].min() > 0.4  # nothing but half a border pixel comes from outside
    inner = seen[:, :, 16:48, 16:48]  # free of the border
    across, down = inner[:, 0, 0, -1] - inner[:, 0, 0, 0], inner[:, 1, -1, 0] - inner[:, 1, 0, 0]
    area = (across * down) / (2 * 31 / 64) ** 2
    assert 0.23 < area.min() < 0.35
    assert 0.9 < area.max() < 1.02
    assert 0.7 < (across / down).min() < (across / down).max() < 1.4
    torch.testing.assert_close(crop(x[None], 1.0)[:, 2], x[None, 2], atol=0.4, rtol=0)


def test_colours_change_and_grey_has_none() -> None:
    x = images((3, 16, 16))
    assert (grey(x).std(1) < 1e-6).all()
    torch.testing.assert_close(grey(torch.eye(3)[:, :, None, None])[:, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))
    torch.manual_seed(0)
    assert not torch.allclose(jitter(x), x)
    flat = torch.full((9, 3, 4, 4), 0.5)
    assert (jitter(flat).std(1) < 1e-6).all()  # neither saturation nor hue colours what is grey


def test_a_blur_keeps_the_mean_and_lowers_the_contrast() -> None:
    torch.manual_seed(0)
    flat = torch.full((2, 3, 20, 20), 0.3)
    torch.testing.assert_close(blur(flat), flat)
    x = torch.rand(4, 3, 20, 20)
    assert (blur(x).std((1, 2, 3)) < x.std((1, 2, 3)) + 1e-6).all()
    one = torch.zeros(1, 2, 21, 21)
    one[0, 1, 10, 10] = 1
    spread = blur(one)
    assert spread[0, 0].abs().max() == 0  # channels do not mix
    torch.testing.assert_close(spread[0, 1], spread[0, 1].T)
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_other_view() -> None:
    cosines = torch.tensor([[1.0, 0.1, 0.8, 0.3], [0.1, 1.0, 0.2, 0.9], [0.8, 0.2, 1.0, 0.0], [0.3, 0.9, 0.0, 1.0]])
    similarity = (cosines / 0.5).fill_diagonal_(-torch.inf)
    e = (cosines / 0.5).exp()
    expected = -torch.stack([(e[i, j] / (e[i].sum() - e[i, i])).log() for i, j in ((0, 2), (1, 3), (2, 0), (3, 1))])
    x = torch.zeros(2, 1, 8, 8)
    loss = SimCLR(Views(), Recipe(), 0.5).loss(similarity, Batch(x, torch.zeros(2, dtype=torch.int64), torch.arange(2)))
    torch.testing.assert_close(loss, expected.mean())
    assert partners(3, x.device).tolist() == [3, 4, 5, 0, 1, 2]


def test_pretraining_lowers_the_loss_and_leaves_the_head_and_the_data() -> None:
    here = ground(1)

    def build() -> nn.Module:
        return small_cnn(CLASSES, (1, 16, 16), 8)

    kept, how = content(here.train), Pretraining(6, 50, 0.1, 0.5, Views(window=0.5))
    model = how.fit(here.run.build(build), here.train, replace(here.run, augment=_breaking))
    assert content(here.train) == kept
    losses = [epoch["loss"] for epoch in here.run.history["contrastive"]]
    assert losses[-1] < losses[0] - 0.2
    before = here.run.build(build)
    assert torch.equal(head(model).weight, head(before).weight)
    assert not torch.equal(next(model.parameters()), next(before.parameters()))


def test_a_batch_is_at_most_a_quarter_of_the_data() -> None:
    here, how = ground(1), Pretraining(6, 50, 0.1, 0.5, Views())
    assert len(here.train) == 200
    assert [replace(how, batch=batch).recipe(here.train, here.run).batch for batch in (20, 512)] == [20, 50]


def _breaking(batch: Batch) -> Batch:
    """An augmentation that nobody may use."""
    return batch._replace(x=batch.x * torch.nan)
