"""Every registered name, built in or of an installed plug-in, keeps the contract of its kind."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sidedoor import registry
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.attacks.poisoning._image_hiding import Injection
from sidedoor.attacks.poisoning._stegastamp import Encoder
from sidedoor.data.root import Where
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.testing import check, check_attack, check_defense, check_trigger
from sidedoor.testing.defense import FEW
from sidedoor.testing.ground import equal_states, ground, sealed
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.patch import Patch, checkerboard

GIVEN: dict[str, dict[str, Any]] = {
    "timm": {"architecture": "resnet10t"},
    "torchvision": {"architecture": "resnet18"},
    "patch": {"pattern": checkerboard(3)},
    "blend": {"pattern": torch.linspace(0, 1, 256).reshape(1, 16, 16)},
    "ink": {"network": Injection(3, 4), "ink": torch.tensor([80.0, 160, 80]) / 255},
    "encoded": {"network": Encoder((3, 16, 16), 4), "message": torch.tensor([1.0, 0, 1, 1])},
    "style": {"style": torch.linspace(0, 1, 768).reshape(3, 16, 16)},
    "low_bits": {"message": (1, 1, 1, 0, 0, 1, 0, 0)},
    "generated": {"channels": 3, "width": 4},
    "faint": {"channels": 3, "epsilon": 0.2, "width": 4},
    "chain": {"triggers": (Patch(checkerboard(3)), Blend(torch.linspace(0, 1, 256).reshape(1, 16, 16)))},
    "pieces": {"trigger": Blend(torch.linspace(0, 1, 256).reshape(1, 16, 16))},
    "additive": {"pattern": torch.linspace(-0.1, 0.1, 768).reshape(3, 16, 16)},
    "color": {"shift": (0.0, 0.0, 0.1)},
    "reflection": {"image": torch.linspace(0, 1, 768).reshape(3, 16, 16)},
    "filter": {"look": "gotham"},
    "warp": {"control": torch.tensor([[[1.0, -0.5], [0.3, -1]], [[0.5, 1], [-1, -0.2]]]), "strength": 2.0,
             "size": (16, 16)},
}
"""For parameters that have no defaults."""
SHARED = {"cifar10", "cifar100", "fashion_mnist", "gtsrb", "kmnist", "mnist", "patches", "tiny_imagenet"}
"""Sets of others, checked where they are installed."""


def named(*kinds: str) -> list[str]:
    return [entry.name for entry in registry.entries() if entry.kind in kinds]


@pytest.mark.parametrize("name", named(*(kind.name for kind in registry.KINDS if kind.name != "data")))
def test_every_method_keeps_its_contract(name: str) -> None:
    check(name, **GIVEN.get(name, {}))


@pytest.mark.parametrize("name", named("defense"))
def test_every_defense_takes_grey_images(name: str) -> None:
    check_defense(registry.load("defense", name)(**registry.quick("defense", name)), channels=1)


@pytest.mark.parametrize("name", named("defense"))
def test_a_sign_that_the_ground_cannot_show_is_tested_elsewhere(name: str) -> None:
    defense = registry.load("defense", name)
    if defense.sign_tested_in and defense.__module__.startswith("sidedoor."):
        assert is_tested(defense.sign_tested_in), f"{defense.sign_tested_in} is no test of `make test`"


def test_a_sign_is_tested_where_a_fast_test_is() -> None:
    assert is_tested("tests/contracts/test_contracts.py::test_the_ground_stands_on_a_working_backdoor")
    assert not is_tested("tests/contracts/test_contracts.py::test_the_ground")
    assert not is_tested("tests/contracts/test_contracts.py")
    assert not is_tested("tests/contracts/test_nothing.py::test_the_ground_stands_on_a_working_backdoor")
    assert not is_tested("tests/contracts/test_trained_facts.py::test_every_attack_takes")


def is_tested(where: str) -> bool:
    """Whether "file::name" is a test of the fast suite."""
    name, _, test = where.partition("::")
    file = Path(__file__).parents[2] / name
    if not test.startswith("test_") or not file.is_file():
        return False
    body = ast.parse(file.read_text(encoding="utf-8")).body
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    marks = [node.value for node in assigned if ast.unparse(node.targets[0]) == "pytestmark"]
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == test]
    marks += [mark for function in functions for mark in function.decorator_list]
    return bool(functions) and not any("mark.slow" in ast.unparse(mark) for mark in marks)


@pytest.mark.parametrize("name", named("data"))
def test_every_data_set_keeps_its_contract(name: str, tmp_path: Path) -> None:
    if name in SHARED:
        root = os.environ.get("SIDEDOOR_DATA")
        if not root:
            pytest.skip(f"{name} needs a data root; set SIDEDOOR_DATA")
        try:
            check(name, where=Where(Path(root)))
        except CannotComplete as error:
            pytest.skip(str(error))
    elif name == "folder":
        check(name, path=str(folder(tmp_path)))
    elif name == "yolo":
        check(name, path=str(boxed(tmp_path)), size=16)
    elif name == "clips":
        check(name, path=str(videos(tmp_path)), height=12, width=16)
    elif name == "npz":
        check(name, path=str(archive(tmp_path)))
    else:
        check(name)


def folder(root: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        file = root / "mine" / f"class{i % 3}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return root / "mine"


def boxed(root: Path) -> Path:
    """The same images, each with one box."""
    source = folder(root)
    for i, file in enumerate(sorted(source.rglob("*.png"))):
        part = "train" if i % 3 else "val"
        image, label = (root / "boxed" / kind / part / f"{i}.{suffix}" for kind, suffix in
                        (("images", "png"), ("labels", "txt")))
        for made in (image, label):
            made.parent.mkdir(parents=True, exist_ok=True)
        file.rename(image)
        label.write_text(f"{i // 3 % 3} 0.5 0.5 0.5 0.25")
    return root / "boxed"


def videos(root: Path) -> Path:
    """Three clips of four frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 16, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        file = root / "videos" / f"clip{i % 3}" / "img" / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
        (file.parents[1] / "groundtruth_rect.txt").write_text("3,4,5,6\n" * 4)
    return root / "videos"


def archive(root: Path) -> Path:
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in (20, 9))
    np.savez(root / "mine.npz", train_images=train, train_labels=np.arange(20) % 3, test_images=test,
             test_labels=np.arange(9) % 3)
    return root / "mine.npz"


@pytest.mark.parametrize("name", named("attack"))
def test_an_attack_of_several_targets_keeps_the_contract_too(name: str) -> None:
    attack, goal = registry.load("attack", name), registry.load("goal", "multi_target")((2, 0, 1))
    if not issubclass(type(goal), attack.goals):
        with pytest.raises(ConfigError, match=re.escape(attack.because)):
            attack(goal=goal)
        return
    check_attack(attack(goal=goal, **registry.quick("attack", name)))


def test_a_trigger_may_be_checked_for_the_images_it_is_for() -> None:
    check_trigger(registry.load("trigger", "patch")(checkerboard(5)), (1, 28, 28))


def test_what_a_check_lacks_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"patch cannot be made from its defaults: .*pattern"):
        check("patch")
    with pytest.raises(ConfigError, match="unknown name 'badnet'; did you mean badnets"):
        check("badnet")


def test_the_ground_stands_on_a_working_backdoor() -> None:
    """Audits and detectors are judged on its model, filters on data from which a model learns the backdoor."""
    for channels in (3, 1):
        here = ground(channels)
        learned = inspection_model(sealed(here.poisoned(FEW)), here.task, here.build, here.planting)
        for model, attack in ((here.victim(), 1.0), (learned, 1.0), (here.clean_model(), 0.0)):
            scores = here.task.score(model, here.test, here.door(), here.run).means()
            assert scores["attack"] == pytest.approx(attack, abs=0.15)
            assert scores["clean"] > 0.9
            assert scores["idle"] < 0.1


def test_filters_share_an_inspection_model_of_the_ground(monkeypatch: pytest.MonkeyPatch) -> None:
    here = ground()
    first = inspection_model(sealed(here.poisoned(FEW)), here.task, here.build, here.planting)
    monkeypatch.delattr(Run, "fit")
    again = inspection_model(sealed(here.poisoned(FEW)), here.task, here.build, ground().planting)
    assert equal_states([first, again])
