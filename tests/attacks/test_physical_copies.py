"""The poison-only enhancement: how many rows it adds, that it touches no others, and what its copies are."""

from __future__ import annotations

import functools

import pytest
import torch

from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.attacks.poisoning.sig import SIG
from sidedoor.attacks.strategies.physical import Physical
from sidedoor.attacks.strategies.physical_copies import PhysicalCopies
from sidedoor.attacks.training_controlled.wanet import WaNet
from sidedoor.backdoor.base import Access, AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.method import lasting
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.types import Batch

DATA = toy(Where(None), train=100, test=20).train
TASK, RUN = Classification(4), AttackerRun.local(Recipe(epochs=1), device="cpu")
BUILD = functools.partial(small_cnn, 4, DATA.shape, width=4)


def poisoned(attack: PhysicalCopies | BadNets | SIG) -> PoisonedDataset:
    return PoisonedDataset(DATA, attack.plan(DATA, TASK, BUILD, RUN), TASK)


def test_rows_are_added_and_benign_ones_are_bit_identical() -> None:
    plain, made = poisoned(BadNets(rate=0.2)), poisoned(PhysicalCopies(attack=BadNets(rate=0.2), copies=2))
    k = len(plain.poison.index)
    assert k == 15
    assert len(made) == len(DATA) + 3 * k
    own = torch.arange(len(DATA))
    assert torch.equal(made.rows(own), DATA.rows(own))
    assert torch.equal(made.targets[own], DATA.targets)
    assert (made.targets[len(DATA):] == 0).all()
    assert PhysicalCopies.access is Access.DATA


def test_the_first_is_the_poisoned_image_and_copies_differ_from_it_and_each_other() -> None:
    plain, made = poisoned(BadNets(rate=0.2)), poisoned(PhysicalCopies(attack=BadNets(rate=0.2), copies=2))
    k = len(plain.poison.index)
    first, *copies = torch.split(made.images, k)
    assert torch.equal(first, plain.images)
    assert torch.equal(made.poison.index, plain.poison.index.repeat(3))
    for a, b in ((first, copies[0]), (first, copies[1]), (copies[0], copies[1])):
        assert (a != b).flatten(1).any(1).all()


def test_clean_labels_stay_true() -> None:
    made = poisoned(PhysicalCopies(attack=SIG(rate=0.4)))
    assert torch.equal(made.targets[made.rows_at], DATA.targets[made.poison.index])
    assert len(made.poison.index) == 4 * 10


def test_the_camera_comes_last_and_is_left_out_of_keys_where_there_is_none() -> None:
    assert len(Physical().transformation().steps) == 3
    assert len(Physical(camera=0.5).transformation().steps) == 4
    assert "camera" not in lasting(Physical())
    assert lasting(Physical(camera=0.5))["camera"] == 0.5
    still = {"degrees": 0.0, "shift": 0.0, "smallest": 1.0, "largest": 1.0, "light": 0.0}
    with_camera = poisoned(PhysicalCopies(attack=BadNets(rate=0.2), copies=1, camera=0.5, **still))
    without = poisoned(PhysicalCopies(attack=BadNets(rate=0.2), copies=1, **still))
    assert torch.equal(with_camera.images[:15], without.images[:15])
    assert not torch.equal(with_camera.images[15:], without.images[15:])


def test_it_goes_around_attacks_on_data_only() -> None:
    with pytest.raises(ConfigError, match="leaves training to others"):
        PhysicalCopies(attack=WaNet())


def test_smaller_copies_have_no_black_edges_which_benign_images_have_not() -> None:
    smaller = {"degrees": 0.0, "shift": 0.0, "smallest": 0.5, "largest": 0.5, "light": 0.0}
    white = Batch(torch.ones(2, 3, 8, 8), torch.zeros(2), torch.arange(2))
    assert (PhysicalCopies(**smaller).transformation()(white).x > 0.99).all()
    assert (Physical(**smaller).transformation()(white).x[..., 0, :] == 0).all()
