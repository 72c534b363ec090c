"""ShrinkPad: exact placement, keyed positions, realigned outputs, and a trigger that no longer fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.core import random
from sidedoor.data.augment import Crop
from sidedoor.data.base import ArrayDataset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.purifiers.shrink_pad import ShrinkPad
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Purify

TASK = Classification(10)


def purifier(shrink: int, shape: tuple[int, int, int], seed: int = 0) -> Purify:
    clean = ArrayDataset(torch.zeros(1, *shape, dtype=torch.uint8), [0], 10)
    return ShrinkPad(shrink).fit(nn.Identity(), clean, TASK, Run.local(seed=seed, device="cpu"))


def images(count: int, shape: tuple[int, int, int]) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) * 0.9 + 0.1


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resizing of (c, h, w) with pixel centres at half-integers, edges repeated."""
    for axis, size in ((1, height), (2, width)):
        old = image.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


@pytest.mark.parametrize(("shrink", "shape"), [(4, (3, 12, 12)), (1, (1, 8, 11)), (7, (2, 8, 9))])
def test_each_image_is_its_resized_self_on_black_at_its_own_position(shrink: int, shape: tuple[int, int, int]) -> None:
    x, index, run = images(20, shape), torch.arange(100, 120), Run.local(device="cpu")
    out, _ = purifier(shrink, shape)(x, index)
    corners = random.integers(run.rng("positions").initial_seed(), index, shrink + 1, 2).numpy()
    height, width = shape[1] - shrink, shape[2] - shrink
    for i in range(20):
        expected = np.zeros(shape)
        top, left = corners[i]
        expected[:, top : top + height, left : left + width] = bilinear(x[i].double().numpy(), height, width)
        np.testing.assert_allclose(out[i].numpy(), expected, atol=1e-6)
        assert (out[i].numpy()[expected == 0] == 0).all()


def test_all_positions_occur_about_equally_often() -> None:
    x, index = torch.ones(2500, 1, 8, 8), torch.arange(2500)
    out, _ = purifier(4, (1, 8, 8))(x, index)
    positions, counts = torch.unique(out, dim=0, return_counts=True)
    assert len(positions) == 25
    assert 60 < counts.min() < counts.max() < 150  # 100 each, standard deviation 10


def test_the_position_belongs_to_seed_and_index_and_not_to_the_batch() -> None:
    x, index = images(30, (1, 8, 8)), torch.arange(30)
    out, _ = purifier(4, (1, 8, 8))(x, index)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:7]
    again, _ = purifier(4, (1, 8, 8))(x[order], index[order])
    assert torch.equal(again, out[order])
    other, _ = purifier(4, (1, 8, 8), seed=1)(x, index)
    assert not torch.equal(other, out)


def test_undo_puts_dense_outputs_back_in_place() -> None:
    flat = torch.rand(9, 2, 1, 1, generator=torch.Generator().manual_seed(2)).expand(9, 2, 12, 12).contiguous()
    out, undo = purifier(4, (2, 12, 12))(flat, torch.arange(9))
    assert not torch.allclose(out, flat)  # the premise: black enters
    torch.testing.assert_close(undo(out), flat)

    ramp = torch.linspace(0, 1, 16).reshape(1, 1, 1, 16).expand(4, 1, 16, 16)
    out, undo = purifier(4, (1, 16, 16))(ramp, torch.arange(4))
    assert (undo(out) - ramp)[..., 2:-2].abs().max() < 1e-6  # resizing a ramp loses nothing but at its ends
    assert (out - ramp)[..., 2:-2].abs().max() > 0.1


@pytest.mark.parametrize("output", [torch.ones(5, 10), torch.ones(5, 1, 4, 4), torch.ones(5, 8, 8), {"boxes": None}])
def test_undo_leaves_outputs_that_are_no_image_of_this_size_alone(output: object) -> None:
    _, undo = purifier(4, (1, 8, 8))(images(5, (1, 8, 8)), torch.arange(5))
    assert undo(output) is output


def test_an_image_must_be_larger_than_the_shrinking() -> None:
    purifier(7, (1, 8, 9))
    with pytest.raises(ConfigError, match="shrink = 8 given for images of 8×9; expected at most 7"):
        purifier(8, (1, 8, 9))


def test_a_trigger_in_the_corner_stops_working() -> None:
    splits, run = digits(Where(None)), Run.local(Recipe(epochs=12, batch=64), augment=Crop(2), device="cpu")

    def build() -> nn.Module:
        return small_cnn(10, (1, 16, 16), width=16)

    backdoor = BadNets(rate=0.1).plan(splits.train, TASK, build, AttackerRun.of(run))
    data = PoisonedDataset(splits.train, backdoor, TASK)
    victim = run.fit(run.build(build), data, Supervised(TASK), name="victim")
    (door,), run = backdoor.doors, replace(run, augment=None)
    before = TASK.score(victim, splits.test, door, run).means()
    assert before["attack"] > 0.9  # the premise
    purify = ShrinkPad(4).fit(victim, splits.test, TASK, run)
    after = TASK.score(victim, splits.test, door, run, purify).means()
    assert after["attack"] < 0.2
    assert after["recovered"] > before["recovered"] + 0.4
    assert after["clean"] > 0.5
