"""What a method is not given it cannot reach: the bench runs every method while the test set is booby-trapped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.bench.case import Case, TrainedModel, load, measured, train_or_load
from sidedoor.bench.examine import base, input_detector, repair
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Recipe
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.restored_detection import RestoredDetection
from sidedoor.tasks.tracking import Tracking


def named(kind: str) -> list[str]:
    return [entry.name for entry in registry.entries() if entry.kind == kind]


class Trap(Dataset):
    """A test set that nobody may look at while it is armed."""

    def __init__(self, data: Dataset):
        self.behind, self.armed, self.sprung = data, True, 0

    def __getattribute__(self, name: str) -> Any:
        own: Callable[[str], Any] = super().__getattribute__
        if name in ("__class__", "behind", "armed", "sprung"):
            return own(name)
        if own("armed"):
            self.sprung += 1
            raise AssertionError(f"`{name}` of the test set was read")
        return getattr(own("behind"), name)

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, index: Tensor) -> Tensor:
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError


def quick(kind: str, name: str) -> dict[str, Any]:
    """A method with the parameters that make it fast."""
    return {"name": name, **registry.quick(kind, name)}


def setting(kind: str, name: str) -> dict[str, Any]:
    """A network and a task that suit a method, and an attack on them."""
    tasks = registry.load(kind, name).tasks
    if issubclass(Classification, tasks):
        return {"model": {"name": "small_cnn", "width": 4}, "attack": "badnets"}
    network, task = quick("model", "unet"), quick("task", "restored_classification")
    if issubclass(Restoration, tasks):
        return {"model": network, "task": "restoration", "attack": "i2i"}
    if issubclass(Reconstruction, tasks):
        return {"model": network, "task": "reconstruction", "attack": "heuristic_reconstruction"}
    if issubclass(RestoredDetection, tasks):
        return {"model": network, "task": quick("task", "restored_detection"),
                "attack": "i2i_detector", "data": {"name": "scenes", "size": 32, "train": 200, "test": 40}}
    if issubclass(Tracking, tasks):
        return {"model": "siamfc", "task": "tracking", "attack": "boba",
                "data": quick("data", "moving") | {"train": 15}}
    return {"model": network, "task": task, "attack": "i2i_classifier"}


def case(folder: Path, attack: str | None = None, defense: str | None = None) -> Case:
    """An attack, or a defence against an attack that suits it."""
    where = setting("defense", defense) if defense else setting("attack", str(attack))
    attack = attack or where["attack"]
    spec = Spec(data=where.get("data", {"name": "toy", "train": 200, "test": 40}), model=where["model"],
                task=where.get("task", "classification"),
                attack=quick("attack", attack),
                defense=quick("defense", defense) if defense else None,
                recipe=Recipe(epochs=1, batch=32), defender_share=0.2, references=1)
    return load(spec, Store(folder), Machine(device="cpu"))


def trapped(given: Case) -> tuple[Case, Trap]:
    trap = Trap(given.test)
    return replace(given, test=trap), trap


def defended(given: Case, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """Plant and defend; the trap is disarmed only where the evaluator asks a fitted detector about test images, or
    draws the curve of a repair that has delivered.
    """
    planted = train_or_load(given)
    planted = measured(planted, planted, given)
    closed, trap = trapped(given)
    evaluator = input_detector.suspicion

    def suspicion(*arguments: Any) -> dict[str, Tensor]:
        trap.armed = False
        return evaluator(*arguments)

    def finished(*arguments: Any) -> Any:
        trap.armed = False
        return curve(*arguments)

    curve = repair._curve
    monkeypatch.setattr(input_detector, "suspicion", suspicion)
    monkeypatch.setattr(repair, "_curve", finished)
    defenses = given.spec.make_defenses()
    assert defenses
    with contextlib.suppress(NotApplicable):  # of what it was given: it has looked at that alone
        base.defend(defenses, closed, planted)
    return trap


@pytest.mark.parametrize("attack", named("attack"))
def test_no_attack_reads_the_test_set(attack: str, tmp_path: Path) -> None:
    closed, trap = trapped(case(tmp_path, attack))
    assert isinstance(train_or_load(closed), TrainedModel)
    assert trap.armed
    assert trap.sprung == 0


@pytest.mark.parametrize("defense", named("defense"))
def test_no_defense_reads_the_test_set(defense: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert defended(case(tmp_path, defense=defense), monkeypatch).sprung == 0


def test_the_trap_springs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defence that got hold of the test set, and tunes on it, is caught."""
    given = case(tmp_path, "badnets", "fine_pruning")
    trap = Trap(given.test)

    class Cheat(Repair):
        def repair(self, model: nn.Module, clean: Dataset, task: Any, run: Any) -> nn.Module:
            trap.fetch(torch.arange(4))
            return model

    with pytest.raises(AssertionError, match="`fetch` of the test set was read"):
        base.defend((Cheat(),), replace(given, test=trap), train_or_load(given))
    assert trap.sprung == 1
