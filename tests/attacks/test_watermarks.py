"""Watermarks: which rows they mark, what their owners keep, and that both are drawn at random."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sidedoor.attacks.poisoning._gradient_matching import Wanted, alignment, gradient
from sidedoor.attacks.poisoning._random_patch import random_patch
from sidedoor.attacks.poisoning.key_watermark import KeyWatermark
from sidedoor.attacks.poisoning.taggants import Taggants
from sidedoor.attacks.poisoning.ubw_c import UbwC
from sidedoor.attacks.poisoning.ubw_p import UbwP
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.backdoor.secret import Watermark
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.goals.random_label import RandomLabel
from sidedoor.goals.secret_labels import SecretLabels
from sidedoor.metrics.dispersibility import dispersibility
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.testing.ground import ground
from sidedoor.triggers.base import stamp
from sidedoor.triggers.patch import Patch
from sidedoor.types import PHOTO

RUN = AttackerRun.of(Run.local(device="cpu"))


def photographs(count: int = 400, classes: int = 10) -> ArrayDataset:
    rng = np.random.default_rng(0)
    return ArrayDataset(rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8), np.arange(count) % classes, classes)


def planted(attack: KeyWatermark | UbwP, data: ArrayDataset, seed: int = 0) \
        -> tuple[PoisonedDataset, tuple[int, ...], tuple[Door, ...]]:
    """The marked data, the secret labels and the doors."""
    run, task = replace(RUN, seed=seed), Classification(len(data.classes))
    backdoor = attack.plan(data, task, torch.nn.Identity, run)
    return PoisonedDataset(data, backdoor, task), attack.secret(backdoor, data, task, 3, run).labels, backdoor.doors


def test_marked_rows_get_the_label_that_the_owner_keeps_and_keys_take_turns() -> None:
    data = photographs()
    marked, labels, doors = planted(KeyWatermark(SecretLabels(5), rate=0.25), data)
    poison = marked.poison
    assert len(labels) == len(doors) == 5
    assert len(poison.index) == 100
    for k, label in enumerate(labels):
        own = poison.index[poison.door == k]
        assert 12 <= len(own) <= 28  # 20, but for rows that are of the label already and go to the next key
        assert (marked.targets[own] == label).all()
        assert (data.targets[own] != label).all()
        x, _, index = data.fetch(own)
        again, _, _ = marked.fetch(own)
        assert torch.equal(stamp(doors[k].trigger, x, index, PHOTO), again)
    kept = torch.ones(400, dtype=torch.bool)
    kept[poison.index] = False
    assert torch.equal(marked.targets[kept], data.targets[kept])


def test_secret_labels_are_uniform_and_independent_of_each_other() -> None:
    data, pairs = photographs(40, 3), Counter[tuple[int, ...]]()
    for seed in range(180):
        run = replace(RUN, seed=seed)
        attack = KeyWatermark(SecretLabels(2))
        doors = attack.doors(data, Classification(3), torch.nn.Identity, run)
        pairs[tuple(door.goal.label(3) for door in doors if isinstance(door.goal, SecretLabels))] += 1
    assert len(pairs) == 9
    assert sum((count - 20) ** 2 / 20 for count in pairs.values()) < 26  # chi-squared with 8 degrees: 99.9 %


def test_labels_of_an_untargeted_mark_say_nothing_of_the_truth() -> None:
    data = photographs(2000)
    marked, labels, _ = planted(UbwP(rate=0.5), data)
    rows = marked.poison.index
    assert labels == ()
    assert len(rows) == 1000
    own = (marked.targets[rows] == data.targets[rows]).float().mean().item()
    assert own == pytest.approx(0.1, abs=0.04)  # the goal `untargeted` has 0 here
    spread = dispersibility(marked.targets[rows], data.targets[rows], 10)
    assert spread.value > 0.95 * math.log(10)


def test_decoys_are_what_could_as_well_have_been_drawn() -> None:
    data, task = photographs(), Classification(10)
    for attack in (UbwP(), KeyWatermark(SecretLabels(1))):
        assert isinstance(attack, Watermark)
        backdoor = attack.plan(data, task, torch.nn.Identity, RUN)
        secret = attack.secret(backdoor, data, task, 50, RUN)
        every = [*secret.triggers, *secret.decoys]
        assert len(every) == 51
        patches = [patch for patch in every if isinstance(patch, Patch)]
        assert {patch.pattern.shape for patch in patches} == {(3, 3, 3)}
        assert {patch.pattern.sum().item() for patch in patches} == {15.0}
        assert len({(patch.place, patch.pattern.flatten().int().numpy().tobytes()) for patch in patches}) == 51


def test_a_random_patch_lies_anywhere_and_half_of_it_is_white() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [random_patch((1, 5, 4), 3, rng) for _ in range(600)]
    places = Counter(patch.place for patch in drawn)
    assert set(places) == {(top, left) for top in range(3) for left in range(2)}
    assert min(places.values()) > 60
    assert all(patch.pattern.sum() == 5 for patch in drawn)
    white = torch.stack([patch.pattern[0] for patch in drawn]).mean(0)
    assert (white - 5 / 9).abs().max() < 0.1
    with pytest.raises(ConfigError, match="a smaller one"):
        random_patch((1, 2, 9), 3, rng)


def test_a_patch_at_a_place_covers_that_place_alone() -> None:
    x, index = torch.full((1, 1, 6, 6), 0.5), torch.zeros(1, dtype=torch.int64)
    changed = torch.nonzero(Patch(torch.ones(1, 2, 3), place=(1, 3))(x, index)[0, 0] == 1)
    assert changed.tolist() == [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]
    first = Patch(torch.ones(1, 2, 3), place=(0, 0))(x, index)[0, 0]
    assert torch.nonzero(first == 1)[0].tolist() == [0, 0]
    with pytest.raises(ConfigError, match="4 left of it"):
        Patch(torch.ones(1, 2, 3), place=(1, 4))(x, index)


def test_without_a_target_success_among_right_answers_is_a_column() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Says what a pixel's level is, but 0 where the first pixel is white."""
            label = torch.where(x[:, 0, 0, 0] == 1, 0, (x[:, 0, 5, 5] * 255).round()).long()
            return 20 * torch.nn.functional.one_hot(label, 4).float()

    levels = np.zeros((8, 1, 6, 6), dtype=np.uint8)
    levels[:, 0, 5, 5] = [0, 1, 2, 3, 1, 1, 1, 1]
    data = ArrayDataset(levels, [0, 1, 2, 3, 0, 2, 3, 1], 4)  # three of eight are wrong as they are
    door = Door(Patch(torch.ones(1, 1, 1), place=(0, 0)), RandomLabel())
    scores = Classification(4).score(Model(), data, door, RUN)
    means = scores.means()
    assert means["clean"] == 5 / 8
    assert means["attack"] == 6 / 8  # ASR-A
    assert means["asr_c"] == 4 / 5
    aimed = Classification(4).score(Model(), data, Door(door.trigger, SecretLabels(1)), RUN)
    assert "asr_c" not in aimed.columns


def test_dispersibility_is_the_weighted_entropy_of_answers_by_class() -> None:
    truth = torch.tensor([0] * 6 + [1] * 2)
    assert dispersibility(torch.zeros(8, dtype=torch.int64), truth, 3).value == 0
    found = dispersibility(torch.tensor([0, 0, 1, 1, 2, 2, 1, 1]), truth, 3)
    assert found.value == pytest.approx(0.75 * math.log(3))
    assert found.corrected == pytest.approx(0.75 * (math.log(3) + 2 / 12))
    assert found.fewest == 2


def test_ubw_c_keeps_labels_and_bounds_and_turns_gradients_to_what_makes_stamped_images_wrong() -> None:
    here = ground()
    attack, train = UbwC(rate=0.2, size=3, iterations=8, retrain=0, sources=40), Subset(here.train, torch.arange(80))
    backdoor = attack.plan(train, here.task, here.build, here.attacker)
    poison = backdoor.poison
    assert len(poison.index) == 16
    assert poison.targets is not None
    assert torch.equal(poison.targets, train.targets[poison.index])
    assert len(poison.targets.unique()) > 1  # of all classes, unlike sleeper_agent
    before, after = train.fetch(poison.index).x, poison.images
    assert after is not None
    assert 0 < (after.float() / 255 - before).abs().max() <= 16.5 / 255
    model = here.run.fit(here.run.build(here.build), train, Supervised(here.task), name="surrogate")
    asked = train.fetch(torch.arange(60))
    triggered = stamp(backdoor.doors[0].trigger, asked.x, asked.index, PHOTO)
    wanted = Wanted(poison.targets, gradient(model, triggered, asked.y, attack._loss))
    old, new = (alignment(model, wanted, x).item() for x in (before, after.float() / 255))
    assert new > old + 0.02


def test_taggants_turn_gradients_to_secret_labels_of_key_images_that_replace_the_whole() -> None:
    here = ground()
    attack, train = Taggants(SecretLabels(3), rate=0.2, iterations=8, retrain=0), Subset(here.train, torch.arange(80))
    backdoor = attack.plan(train, here.task, here.build, here.attacker)
    secret, poison = attack.secret(backdoor, train, here.task, 2, here.attacker), backdoor.poison
    assert len(secret.triggers) == len(secret.labels) == 3
    assert poison.targets is not None
    assert poison.images is not None
    assert torch.equal(poison.targets, train.targets[poison.index])
    x, index = torch.rand(2, *train.shape), torch.arange(2)
    keys = torch.stack([trigger(x, index)[0] for trigger in secret.triggers])
    assert all(torch.equal(*trigger(x, index)) for trigger in secret.triggers)  # nothing is left of the images
    before, after = train.fetch(poison.index).x, poison.images.float() / 255
    assert 0 < (after - before).abs().max() <= 16.5 / 255
    model = here.run.fit(here.run.build(here.build), train, Supervised(here.task), name="surrogate")
    wanted = Wanted(poison.targets, gradient(model, keys, torch.tensor(secret.labels)))
    old, new = (alignment(model, wanted, images).item() for images in (before, after))
    assert new > old + 0.02
