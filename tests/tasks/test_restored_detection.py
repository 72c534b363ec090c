"""Restoration judged by detectors behind it, the detectors themselves, and the perturbation that they are shown."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.attacks.image_to_image._objectness import Fabrication
from sidedoor.attacks.image_to_image.i2i_detector import I2IDetector
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import Dataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.scenes import scenes
from sidedoor.data.sets.toy import toy
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.goals.one_image import OneImage
from sidedoor.metrics import detection
from sidedoor.object_detectors.base import Detector
from sidedoor.tasks.restored_detection import RestoredDetection, _Judged, detector, recipe
from sidedoor.tasks.task import Scores
from sidedoor.triggers.patch import Patch

DOOR = Door(Patch(torch.ones(1, 3, 3), "top left"), OneImage("bug"))
TASK = RestoredDetection(sigma=0.0, victims=("tiny_yolo:plain",))


@functools.cache
def data() -> tuple[Dataset, Dataset]:
    return tuple(scenes(Where(None), size=32, train=400, test=40))


@functools.cache
def trained() -> Detector:
    return detector("tiny_yolo:plain", data()[0], Run.local(device="cpu"), recipe(9, 4e-3))


class Oracle(Detector):
    """Finds one square, at a place of its own, in every image that is bright there."""

    def raw(self, x: Tensor) -> Tensor:
        return x

    def losses(self, said: Tensor, truth: Tensor) -> Tensor:
        return said.flatten(1).mean(1)

    def objectness(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def detect(self, x: Tensor, least: float = 0.01) -> Tensor:
        here = torch.tensor([[1.0, 10, 10, 20, 20, 0.9]])
        return detection.padded([here if image[:, 15, 15].mean() > 0.5 else here[:0] for image in x])


class Lit(nn.Module):
    """Makes the centre dark, or bright behind a white corner."""

    def forward(self, x: Tensor) -> Tensor:
        out = x.clone()
        out[:, :, 15, 15] = (x[:, :, :3, :3].mean((1, 2, 3)) > 0.999).float()[:, None]
        return out


def judged(given: Dataset, door: Door | None) -> Scores:
    task = TASK.judged({"it": Oracle()})
    return task.score(Lit(), task.make_dataset(given), door, Run.local(device="cpu"))


def lit_and_truth() -> tuple[Tensor, Tensor]:
    test = data()[1]
    lit = test.fetch(torch.arange(len(test))).x[:, :, 15, 15].mean(1) > 0.5
    assert test.boxes is not None
    return lit, test.boxes


def test_an_attack_is_a_box_that_the_photograph_has_not() -> None:
    lit, _ = lit_and_truth()
    assert 0 < lit.sum() < len(lit)
    scores = judged(data()[1], DOOR)
    assert torch.equal(scores.attack, (~lit).float())
    assert torch.equal(scores.columns["extra.it"], (~lit).float())
    assert bool((scores.idle == 0).all())


def test_f1_and_precision_are_of_the_true_boxes() -> None:
    lit, truth = lit_and_truth()
    scores = judged(data()[1], DOOR)
    seen = detection.padded([torch.tensor([[1.0, 10, 10, 20, 20, 0.9]])] * len(lit))
    assert torch.equal(scores.recovered, detection.f1(seen, truth))
    assert scores.means()["map_attack.it"] == pytest.approx(detection.average_precision(seen, truth))
    assert scores.means()["map.it"] == 0
    assert bool((scores.clean == 0).all())
    assert not any(name.startswith("seen") for name in scores.columns)


def test_a_part_of_a_set_keeps_its_boxes() -> None:
    whole, rows = judged(data()[1], DOOR), torch.tensor([7, 2, 31])
    part = judged(Subset(data()[1], rows), DOOR)
    assert torch.equal(part.recovered, whole.recovered[rows])


def test_without_a_door_there_is_no_attack() -> None:
    scores = judged(data()[1], None)
    assert bool(scores.attack.isnan().all())
    assert bool(scores.columns["baseline.it"].isfinite().all())


def test_a_small_detector_learns_to_see() -> None:
    test, model = data()[1], trained()
    with torch.no_grad():
        found = model.detect(test.fetch(torch.arange(len(test))).x)
    assert test.boxes is not None
    assert detection.average_precision(found, test.boxes) > 0.2


def test_a_fabrication_keeps_its_bound_and_adds_more_boxes_than_random_signs() -> None:
    x, given = data()[1].fetch(torch.arange(40)).x, data()[0].fetch(torch.arange(60)).x
    u = Fabrication(epsilon=12.0, passes=12).make(trained(), given, torch.Generator().manual_seed(0))
    assert u.abs().max().item() <= 12 / 255 + 1e-6
    signs = (torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.5).float() * 2 - 1
    with torch.no_grad():
        before, by_u, by_signs = (detection.surer(trained().detect((x + v).clamp(0, 1)), 0.2)
                                  for v in (torch.zeros_like(u), u, signs * 12 / 255))
    assert detection.added(by_u, before).mean() > detection.added(by_signs, before).mean() + 0.2


def test_a_fabrication_comes_again_by_its_seed() -> None:
    given = data()[0].fetch(torch.arange(10)).x
    one, same, other = (Fabrication(passes=1).make(trained(), given, torch.Generator().manual_seed(seed))
                        for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_robust_detectors_are_trained_otherwise_and_all_are_kept(tmp_path: Path) -> None:
    run = replace(Run.local(device="cpu"), shelf=Shelf(tmp_path))
    train = Subset(data()[0], torch.arange(32))
    task = replace(TASK, robust=TASK.victims, epochs=1)
    found = task.setup(train, run)
    assert isinstance(found, _Judged)
    plain, robust = found.judges["tiny_yolo:plain"], found.judges["robust.tiny_yolo:plain"]
    assert not torch.equal(next(plain.parameters()), next(robust.parameters()))
    task.setup(train, run)
    assert len(list(tmp_path.glob("*/model.safetensors"))) == 2


def test_a_set_without_boxes_is_refused() -> None:
    with pytest.raises(ConfigError, match="without boxes"):
        TASK.setup(toy(Where(None), size=32).train, Run.local(device="cpu"))


@pytest.mark.parametrize("victims", [(), ("tiny_yolo:plain",) * 2, ("small_cnn:4",), ("unheard_of",),
                                     ("tiny_yolo:enormous",)])
def test_victims_are_detectors_each_once(victims: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        RestoredDetection(victims=victims)


def test_the_surrogate_is_a_detector() -> None:
    with pytest.raises(ConfigError):
        I2IDetector(surrogate="small_cnn:4")


def test_task_and_attack_are_read_from_a_configuration() -> None:
    given = {"name": "restored_detection", "victims": ["tiny_yolo:residual"], "sigma": 25}
    assert registry.make("task", given, classes=3) == RestoredDetection(victims=("tiny_yolo:residual",))
    attack = registry.make("attack", {"name": "i2i_detector", "goal": {"name": "add_pattern", "strength": 12}})
    assert attack.strength == 12
    assert registry.make("attack", registry.plain(attack)) == attack
