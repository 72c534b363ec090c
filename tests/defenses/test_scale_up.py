from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.scale_up import ScaleUp, scaled
from sidedoor.defenses.detectors.scale_up_limited import ScaleUpLimited, class_moments
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification
from sidedoor.types import PHOTO

TASK, RUN = Classification(3), Run.local(device="cpu")


class Toy(nn.Module):
    """Class 0 where the first pixel is bright; else class 2 for images brighter than 0.5 and class 1 for others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        body = x[:, 0, 1:].mean((1, 2))
        return 40 * torch.stack([4 * x[:, 0, 0, 0], torch.full_like(body, 0.5), body], 1)


def image(corner: float, body: float) -> torch.Tensor:
    x = torch.full((1, 1, 4, 4), body)
    x[:, :, 0, 0] = corner
    return x


def clean(*bodies: int) -> ArrayDataset:
    images = torch.tensor(bodies, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 4, 4)
    images[:, :, 0, 0] = 0
    return ArrayDataset(images, [0] * len(bodies), 3)


def score(x: torch.Tensor, method: ScaleUp | ScaleUpLimited = ScaleUp()) -> float:
    return float(method.fit(Toy(), clean(51, 51, 51), TASK, RUN)(x, torch.arange(1)))


def test_a_grey_trigger_keeps_the_prediction_at_every_scale() -> None:
    assert score(image(0.5, 0.2)) == pytest.approx(1.01, abs=1e-3)
    assert score(image(0.0, 0.2)) < 0.01


def test_scales_are_counted_and_ties_broken_by_less_than_one_of_them() -> None:
    """0.05 stays below 0.5 at all but the largest scale, 11; 0.042 gives the same share with more confidence."""
    assert 0.8 < score(image(0.0, 0.05)) < 0.81
    assert 0.8 < score(image(0.0, 0.05)) < score(image(0.0, 0.047)) < 0.81


def test_other_scales_and_another_centre() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 0.75]).view(1, 1, 2, 2)
    brighter, contrast = scaled(2, 0.0, PHOTO), scaled(2, 0.5, PHOTO)
    assert brighter(x, torch.arange(1)).flatten().tolist() == [0, 0.5, 1, 1]
    assert contrast(x, torch.arange(1)).flatten().tolist() == [0, 0, 0.5, 1]
    assert score(image(0.0, 0.3), ScaleUp(scales=(1.25, 1.5, 2.0))) == pytest.approx(2 / 3, abs=0.01)
    with pytest.raises(ConfigError, match="at least one"):
        ScaleUp(scales=())
    with pytest.raises(ConfigError, match="at least one"):
        ScaleUpLimited(scales=())


def test_the_limited_form_compares_with_clean_images_of_the_predicted_class() -> None:
    """Bright images keep their class anyway, dark ones never do; a stamped one stands out among the dark only."""
    data = clean(*[51] * 20, *[200] * 20)
    detect = ScaleUpLimited().fit(Toy(), data, TASK, RUN)
    dark, bright, stamped = (float(detect(image(*at), torch.arange(1))) for at in ((0, 0.2), (0, 0.8), (0.5, 0.2)))
    assert abs(dark) < 0.5
    assert abs(bright) < 0.5
    assert stamped > 0.5  # no clean image is of its class: it is compared with all
    free = ScaleUp().fit(Toy(), data, TASK, RUN)
    assert float(free(image(0, 0.8), torch.arange(1))) > 0.99


def test_moments_of_a_class_are_drawn_towards_those_of_all() -> None:
    mean, deviation = class_moments(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]), 3)
    torch.testing.assert_close(mean, torch.tensor([0.5 / 3, 2.5 / 3, 0.5]))
    torch.testing.assert_close(deviation[2], torch.tensor(0.5))
    assert deviation[0] < 0.5
