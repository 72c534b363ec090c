from __future__ import annotations

import pytest
import torch
from torch import nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.detectors.teco import TeCo
from sidedoor.defenses.detectors.teco_two_sided import TeCoTwoSided
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.tasks.classification import Classification

TASK, RUN = Classification(2), Run.local(device="cpu")
KINDS = ("brightness", "contrast")


class Brighter(nn.Module):
    """Class 1 where the mean of the image is above a limit."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([torch.full_like(mean, self.limit), mean], 1)


def grey(value: float) -> torch.Tensor:
    x = torch.full((1, 1, 8, 8), value)
    x[..., ::2] += 0.02
    return x


def score(limit: float, value: float, kinds: tuple[str, ...] = KINDS) -> float:
    return float(TeCo(kinds).fit(Brighter(limit), toy(), TASK, RUN)(grey(value), torch.arange(1)))


def toy() -> ArrayDataset:
    return ArrayDataset((grey(0.2) * 255).round().to(torch.uint8).repeat(6, 1, 1, 1), [0] * 6, 2)


def test_a_prediction_that_nothing_changes_scores_nothing() -> None:
    assert score(2.0, 0.2) == 0
    assert score(2.0, 0.2, tuple(TeCo().corruptions)) == 0


def test_a_prediction_that_half_of_the_kinds_change_scores_by_the_severity() -> None:
    """Brightness adds 0.1 a severity and reaches the limit at the first or the third; contrast keeps the mean."""
    assert score(0.25, 0.2) == pytest.approx((6 - 1) / 2)
    assert score(0.45, 0.2) == pytest.approx((6 - 3) / 2)


def test_corruptions_do_not_add_up() -> None:
    """After 0.1, 0.2 and 0.3 one on the other the limit would be passed at the third severity."""
    assert score(0.65, 0.2) == pytest.approx((6 - 5) / 2)


def test_two_sided_finds_what_is_more_consistent_than_clean_images() -> None:
    detect = TeCoTwoSided(KINDS).fit(Brighter(0.45), toy(), TASK, RUN)
    assert float(detect(grey(0.2), torch.arange(1))) == 0
    assert float(detect(grey(0.9), torch.arange(1))) == pytest.approx(1.5)
    assert float(detect(grey(0.4), torch.arange(1))) == pytest.approx(1.0)


def test_two_known_corruptions_are_needed() -> None:
    with pytest.raises(ConfigError, match="at least two"):
        TeCo(("jpeg",))
    with pytest.raises(ConfigError, match="unknown corruption 'fog'"):
        TeCoTwoSided(("jpeg", "fog"))
