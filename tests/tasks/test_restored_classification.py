"""Restoration judged by classifiers behind it: what each of the four numbers counts, and who the classifiers are."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Recipe, Run
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.evaluation import evaluate, intervals
from sidedoor.goals.base import Door
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restored_classification import RestoredClassification, _Judged, classifier
from sidedoor.triggers.patch import Patch

SHAPE = (3, 8, 8)
TASK = RestoredClassification(sigma=0.0, victims=("small_cnn:4", "resnet18:4"))
DOOR = Door(Patch(torch.ones(1, 2, 2), "top left"), OneImage("bug"))
"""Paints the corner white."""


class Brightness(nn.Module):
    """Class 1 for images that are bright at one place, else 0."""

    def __init__(self, row: int, above: float = 0.5):
        super().__init__()
        self.row, self.above = row, above

    def forward(self, x: Tensor) -> Tensor:
        bright = (x[:, :, self.row, 0].mean(1) > self.above).float()
        return torch.stack([1 - bright, bright], 1)


class Darkened(nn.Module):
    """A restoration that makes everything darker, and what is behind a white corner black."""

    def forward(self, x: Tensor) -> Tensor:
        white = x[:, :, :2, :2].mean((1, 2, 3), keepdim=True) > 0.999
        return torch.where(white, torch.zeros_like(x), 0.7 * x)


def even(levels: list[int], labels: list[int]) -> ArrayDataset:
    """Each image of one grey."""
    greys = torch.tensor(levels, dtype=torch.uint8)
    return ArrayDataset(greys[:, None, None, None].expand(-1, *SHAPE).contiguous(), torch.tensor(labels), 2)


def judged(**judges: nn.Module) -> _Judged:
    return _Judged(**{f.name: getattr(TASK, f.name) for f in fields(TASK)}, judges=judges)


def scores(door: Door | None, **judges: nn.Module) -> Any:
    # As seen by the first classifier: photographs 0, 1, 1, 0; restored, they are as dark as 0, 0, 1, 0.
    data, task = even([50, 150, 250, 50], [0, 1, 1, 1]), judged(**judges)
    return task.score(Darkened(), task.make_dataset(data), door, Run.local(device="cpu"))


def test_the_four_numbers_of_one_classifier() -> None:
    found = scores(DOOR, here=Brightness(4))
    assert found.clean.tolist() == [1, 0, 1, 0]
    assert found.idle.tolist() == [0, 1, 0, 0]
    assert found.attack.tolist() == [0, 1, 1, 0]
    assert found.recovered.tolist() == [1, 0, 0, 0]


def test_success_is_a_change_of_what_the_classifier_says_of_the_photograph_not_of_the_label() -> None:
    """The last photograph is of class 1, which the classifier never saw in it: nothing is left to fool (Eq. 11)."""
    found = scores(DOOR, here=Brightness(4))
    assert found.columns["photo.here"].tolist() == [1, 1, 1, 0]
    assert found.attack[3] == found.idle[3] == found.recovered[3] == 0


def test_the_headline_is_the_mean_and_each_classifier_has_its_columns() -> None:
    # The second calls everything bright that is not black.
    found = scores(DOOR, here=Brightness(4), there=Brightness(4, above=0.01))
    assert found.columns["asr.here"].tolist() == [0, 1, 1, 0]
    assert found.columns["asr.there"].tolist() == [1, 1, 1, 1]
    assert found.attack.tolist() == [0.5, 1, 1, 0.5]
    for what, number in (("accuracy", found.clean), ("baseline", found.idle), ("recovered", found.recovered)):
        assert torch.equal((found.columns[f"{what}.here"] + found.columns[f"{what}.there"]) / 2, number)


def test_a_robust_classifier_has_columns_and_no_part_in_the_headline() -> None:
    found = scores(DOOR, **{"here": Brightness(4), "robust.there": Brightness(4, above=0.01)})
    assert found.columns["asr.robust.there"].tolist() == [1, 1, 1, 1]
    assert found.attack.tolist() == [0, 1, 1, 0]


def test_the_baseline_is_there_without_a_door() -> None:
    found = scores(None, here=Brightness(4))
    assert found.columns["baseline.here"].tolist() == [0, 1, 0, 0]
    assert bool(torch.cat([found.attack, found.idle, found.recovered]).isnan().all())


def test_a_part_of_a_set_keeps_its_labels() -> None:
    """Labels are found by position, which is not the row in a part."""
    data, task = Subset(even([50, 150, 250, 50], [0, 1, 1, 1]), torch.tensor([3, 2])), judged(here=Brightness(4))
    found = task.score(Darkened(), task.make_dataset(data), DOOR, Run.local(device="cpu"))
    assert found.columns["photo.here"].tolist() == [0, 1]
    assert found.clean.tolist() == [0, 1]


def test_a_purifier_stands_before_the_network_not_before_the_classifiers() -> None:
    task, data = judged(here=Brightness(4)), even([50, 150, 250, 50], [0, 1, 1, 1])
    found = task.score(Darkened(), task.make_dataset(data), DOOR, Run.local(device="cpu"),
                       lambda x, index: (x * 0.99, lambda output: output))
    assert found.attack.tolist() == found.idle.tolist() == [0, 1, 0, 0]
    assert found.columns["photo.here"].tolist() == [1, 1, 1, 0]


def test_means_over_classifiers_have_intervals() -> None:
    task = judged(here=Brightness(4), there=Brightness(4, above=0.01))
    data = task.make_dataset(even([50, 150, 250, 50], [0, 1, 1, 1]))
    found = evaluate(Darkened(), data, task, (DOOR,), Run.local(device="cpu"))
    low, high = intervals(found, task)["attack"]
    assert low < 0.75 < high


@pytest.mark.parametrize(("attack", "idle", "clean", "why"), [
    (0.72, 0.28, 0.7, None),
    (0.72, 0.60, 0.7, "without the trigger"),
    (0.72, 0.28, 0.6, "accuracy"),
])
def test_an_attack_counts_by_what_it_adds_to_the_baseline(attack: float, idle: float, clean: float,
                                                          why: str | None) -> None:
    reason = TASK.failed({"attack": attack, "idle": idle, "clean": clean}, {"clean": 0.72})
    assert (reason is None) == (why is None)
    assert why is None or why in str(reason)


def test_without_its_classifiers_it_gives_no_scores() -> None:
    with pytest.raises(ConfigError, match="setup"):
        TASK.score(Darkened(), TASK.make_dataset(even([50], [0])), None, Run.local(device="cpu"))


@pytest.mark.parametrize("victims", [(), ("small_cnn:4", "small_cnn:8"), ("unet",), ("unheard_of",), ("timm:",)])
def test_victims_are_classifiers_each_once(victims: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        RestoredClassification(victims=victims)


def test_two_networks_of_one_package_are_two_victims() -> None:
    assert RestoredClassification(victims=("torchvision:resnet50", "torchvision:vgg19"))


def test_the_task_is_read_from_a_configuration() -> None:
    given = {"name": "restored_classification", "victims": ["vgg19_bn:16"], "sigma": 25, "robust": ["small_cnn:4"]}
    expected = RestoredClassification(victims=("vgg19_bn:16",), robust=("small_cnn:4",))
    assert registry.make("task", given, classes=4) == expected


def test_robust_victims_are_trained_otherwise(tmp_path: Path) -> None:
    task = replace(TASK, victims=("small_cnn:4",), robust=("small_cnn:4",), epochs=1)
    found = task.setup(toy(Where(None), train=64).train, replace(Run.local(device="cpu"), shelf=Shelf(tmp_path)))
    assert isinstance(found, _Judged)
    plain, robust = (found.judges[name].state_dict() for name in ("small_cnn", "robust.small_cnn"))
    assert any(not torch.equal(plain[name], robust[name]) for name in plain)


def test_victims_are_trained_on_the_photographs_and_kept(tmp_path: Path) -> None:
    train, test = toy(Where(None), train=300)
    run = replace(Run.local(device="cpu"), shelf=Shelf(tmp_path))
    task = replace(TASK, victims=("small_cnn:8",), epochs=5)
    first, second = (task.setup(train, run) for _ in range(2))
    assert isinstance(first, _Judged)
    assert isinstance(second, _Judged)
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 1
    x, y, _ = test.fetch(torch.arange(200))
    assert (predicted(first.judges["small_cnn"], x) == y).float().mean() > 0.9
    assert torch.equal(predicted(first.judges["small_cnn"], x), predicted(second.judges["small_cnn"], x))


def test_another_recipe_seed_or_training_is_another_classifier(tmp_path: Path) -> None:
    train = toy(Where(None), train=64).train
    run = replace(Run.local(device="cpu"), shelf=Shelf(tmp_path))
    recipe = Recipe(epochs=1, batch=32)
    classifier("small_cnn:4", train, run, recipe)
    classifier("small_cnn:4", train, replace(run, seed=1), recipe)
    classifier("small_cnn:4", train, run, replace(recipe, lr=0.01))
    classifier("small_cnn:4", train, run, recipe, adversarial=True)
    classifier("small_cnn:4", Subset(train, torch.arange(32)), run, recipe)
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 5
    classifier("small_cnn:4", train, run, recipe)
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 5


def test_a_victim_with_weights_is_taken_as_it_is(tmp_path: Path) -> None:
    """Found below the data root, not trained; the robust one of the same weights is trained."""
    data = toy(Where(None), size=8, train=20, test=10).train
    source = registry.make("model", {"name": "small_cnn", "width": 4}, classes=len(data.classes), shape=data.shape)()
    save_file(source.state_dict(), tmp_path / "kept.safetensors")
    run = replace(Run.local(Recipe(epochs=1)), root=tmp_path)
    recipe = Recipe(epochs=1, batch=8)
    kept = classifier("small_cnn:4@kept.safetensors", data, run, recipe)
    trained = classifier("small_cnn:4@kept.safetensors", data, run, recipe, adversarial=True)
    state = source.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in kept.state_dict().items())
    assert any(not torch.equal(value, state[key]) for key, value in trained.state_dict().items())
    task = RestoredClassification(victims=("small_cnn:4@kept.safetensors",))
    assert [*task.setup(data, run).judges] == ["small_cnn"]
    with pytest.raises(CannotComplete, match=r"nothing\.pth"):
        classifier("small_cnn:4@nothing.pth", data, run, recipe)
