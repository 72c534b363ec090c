"""Real data sets, where the environment variable SIDEDOOR_DATA names a data root that has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sidedoor import registry
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete

ROOT = os.environ.get("SIDEDOOR_DATA")
pytestmark = pytest.mark.skipif(not ROOT, reason="SIDEDOOR_DATA is not set")
SETS = {
    "mnist": (60_000, 10_000, (1, 28, 28), 10, 0.1307),
    "fashion_mnist": (60_000, 10_000, (1, 28, 28), 10, 0.2860),
    "kmnist": (60_000, 10_000, (1, 28, 28), 10, 0.1918),
    "cifar10": (50_000, 10_000, (3, 32, 32), 10, 0.4734),
    "cifar100": (50_000, 10_000, (3, 32, 32), 100, 0.4782),
    "gtsrb": (26_640, 12_630, (3, 32, 32), 43, None),
    "tiny_imagenet": (100_000, 10_000, (3, 64, 64), 200, None),
}
"""Rows of the parts, shape, classes, and the mean of the training pixels as others publish it."""


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_has_its_published_size_and_mean(name: str) -> None:
    try:
        train, test = registry.make("data", name)(Where(Path(ROOT or "")))
    except CannotComplete as error:
        pytest.skip(str(error))
    rows, test_rows, shape, classes, mean = SETS[name]
    assert (len(train), len(test), train.shape, len(train.classes)) == (rows, test_rows, shape, classes)
    assert set(test.targets.tolist()) == set(range(classes))
    if mean is not None:
        chunks = [train.rows(chunk).double().mean() for chunk in torch.arange(rows).split(10_000)]
        assert torch.stack(chunks).mean() / 255 == pytest.approx(mean, abs=2e-3)
