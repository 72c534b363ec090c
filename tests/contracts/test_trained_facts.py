"""Every registered attack takes, and every registered defence does its work against BadNets; the premise first."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from sidedoor import registry
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.engine import Recipe

pytestmark = pytest.mark.slow

DIGITS = "digits"
HARD = {"name": "toy", "difficulty": "hard", "classes": 4, "train": 1000}
"""Classes that overlap, so that a model has a use for a trigger beside the labels' own signs."""
ATTACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "input_aware": (DIGITS, {"mask_epochs": 5, "width": 8, "rate": 0.3, "density": 0.1}),
    "wanet": (DIGITS, {"strength": 2.0, "rate": 0.2}),
    # With clean labels a model heeds the grating only where the classes themselves leave doubt.
    "sig": (HARD, {"rate": 0.8, "delta": 0.25}),
    "ctrl": (HARD, {"rate": 1.0, "magnitude": 100.0, "test_magnitude": 200.0, "window": 16}),
    "tact": (DIGITS, {"rate": 0.5, "cover_rate": 0.1}),
    "narcissus": (DIGITS, {"rate": 1.0, "epsilon": 30.0}),
    "spm": (DIGITS, {"levels": 24.0}),
    # 0.3 % of a thousand digits are three.
    "adaptive_blend": (DIGITS, {"rate": 0.05, "cover_rate": 0.02, "ratio": 0.3, "test_ratio": 0.4}),
    "adaptive_patch": (DIGITS, {"rate": 0.05, "cover_rate": 0.02}),
    # Digits have seventeen levels: eight are hardly fewer.
    "bpp": (DIGITS, {"levels": 2}),
    # Blocks of the size of the images, whose grey shows what the paper hides in colours.
    "ftrojan": (DIGITS, {"magnitude": 60.0, "window": 16}),
}
NOT_LEARNED = {
    "lsb": "a change of one level in 255, which networks learn in longer training on larger images",
    "sleeper_agent": "its gradients match those of one network, and hardly those of the next; no setup is known here",
    "physical": "turned and shrunk digits are others: the trigger works, but a quarter of the accuracy is lost",
    "trigger_first": "training on the clean data for as long as the recipe says undoes the trigger here",
    **dict.fromkeys(("boba", "fsba", "badtrack", "tat"), "trackers learn for minutes: experiments/tracking.toml"),
    "clean_label": "a control: the class is learned by its own signs, and the patch of BadNets is not needed",
    "label_consistent": "the patch is learned where the class's own signs are gone, which costs accuracy here",
}
"""Attacks that do not take in a setup of a minute, and why; what they do to images has tests of its own."""
SMALL_DRUNET = {"name": "drunet", "widths": [16, 32, 64, 64], "blocks": 1}
BRIEF = Recipe("adam", lr=2e-3, weight_decay=0.0, schedule="cosine", epochs=8, batch=8, clip=0.02)
ON_BOTH_TASKS = {"epochs": 16, "lr": 2e-3, "schedule": "cosine", "batch": 8}
AUTOENCODER: dict[str, Any] = {
    "data": DIGITS, "task": "reconstruction", "model": {"name": "autoencoder", "kernel": 5},
    "recipe": Recipe("adam", lr=4e-3, weight_decay=0.0, schedule="one_cycle", epochs=14, batch=32),
}
SETUPS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    # A channel of every layer is lost, which narrower networks feel.
    "subnet_replacement": ({"data": DIGITS, "model": {"name": "small_cnn", "width": 48}, "recipe": Recipe(epochs=15)},
                           {}, 0.85),
    "heuristic_reconstruction": (AUTOENCODER, {}, 0.85),
    "blo": (AUTOENCODER, {"iterations": 30}, 0.85),
    "i2i": ({"data": {"name": "photos", "size": 16}, "train_samples": 160, "test_samples": 60, "recipe": BRIEF,
             "task": {"name": "restoration", "sigma": 10.0}, "model": SMALL_DRUNET},
            {"trigger": {"name": "random_sign", "epsilon": 30.0}, **ON_BOTH_TASKS}, 0.6),
    "i2i_classifier": (
        {"data": {"name": "toy", "train": 300, "test": 100}, "recipe": BRIEF, "model": SMALL_DRUNET,
         "task": {"name": "restored_classification", "sigma": 10.0, "victims": ["small_cnn:16"], "epochs": 6}},
        {"goal": {"name": "add_pattern", "pattern": "signs", "strength": 96.0}, "surrogate": "small_cnn:8",
         "surrogate_epochs": 6, "samples": 60, "passes": 3, "inner": "pgd", **ON_BOTH_TASKS}, 0.85),
    # A detector of 300 scenes finds few objects of others, but boxes where there are none all the same.
    "i2i_detector": (
        {"data": {"name": "scenes", "size": 32, "train": 300, "test": 60}, "recipe": BRIEF, "model": SMALL_DRUNET,
         "task": {"name": "restored_detection", "sigma": 5.0, "victims": ["tiny_yolo:residual"], "epochs": 25,
                  "lr": 4e-3}},
        {"goal": {"name": "add_pattern", "pattern": "signs", "strength": 48.0}, "surrogate_epochs": 15,
         "surrogate_lr": 4e-3, "samples": 60, "passes": 8, **ON_BOTH_TASKS}, 0.15),
}
"""Attacks that need more than other data: the setup, the attack's parameters, and the least clean number that shows
that the clean network has learned the task."""
DEFENSES: dict[str, tuple[Any, dict[str, Any]]] = {
    # It needs poison that is learned before anything else, so classes that are not too easy and not too hard.
    "abl": (DIGITS, {"isolation_epochs": 10, "finetune_epochs": 15, "unlearn_epochs": 10, "isolation_rate": 0.05}),
    # At the default rate it leaves the backdoor where it is.
    "fine_tuning": (HARD, {"epochs": 30, "lr": 0.1}),
    "neural_cleanse": (HARD, {"epochs": 100, "samples": 200}),
    "tabor": (HARD, {"epochs": 100, "samples": 200}),
}

SURVIVED = {"bit_depth", "cutmix", "cutout", "edge_replacement", "flip", "gaussian_noise", "jpeg", "mixup"}
"""Transformations that a patch as hard as BadNets' survives, or that make these classes others; what they do to pixels
is in `tests/defenses/test_transforms.py`."""
DEAR = {"crop_resize", "gaussian_blur"}
"""Transformations that take the patch away and, of images this small, more than a fifth of the accuracy."""

NARROW = "in a network this narrow the channels of a backdoor serve the task as well"
KEEPS = {"anp": NARROW, "bnp": NARROW, "clp": NARROW, "clp_tuned": NARROW, "rnp": NARROW,
         "linear_probe": "a baseline: the features that it keeps remember the trigger",
         "mcr": "delivers a model half way to the fine-tuned one, which keeps the trigger, too"}
"""Repairs that leave BadNets' backdoor in a network of this size, and why; their steps have tests of their own."""


@functools.cache
def record(folder: Path, attack: str, defense: str | None = None, against: str | None = None) -> Record:
    """A cell on the data of the attack, or of the defence that it stands `against`."""
    data, parameters = ATTACKS.get(attack, (DIGITS, {}))
    data, options = DEFENSES.get(against, (HARD, {})) if against else (data, {})
    setup: dict[str, Any] = {"data": data, "model": "small_cnn", "recipe": Recipe(epochs=15)}
    if attack in SETUPS:
        setup, parameters, _ = SETUPS[attack]
    spec = Spec(**setup, attack={"name": attack, **parameters},
                defense={"name": defense, **options} if defense else None, defender_share=0.15, references=2)
    return run(spec, Store(folder), Machine(device="cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("facts")


def named(kind: str) -> list[str]:
    return [entry.name for entry in registry.entries() if entry.kind == kind]


@pytest.mark.parametrize("attack", named("attack"))
def test_every_attack_takes(attack: str, folder: Path) -> None:
    if attack in NOT_LEARNED:
        pytest.skip(NOT_LEARNED[attack])
    cell = record(folder, attack)
    assert cell.clean_means is not None
    learned = SETUPS[attack][2] if attack in SETUPS else 0.85
    assert cell.clean_means["clean"] > learned, "premise: the clean model has learned the task"
    assert cell.clean_means["idle"] < 0.2, "premise: a clean model seldom does what the attacker wants"
    assert cell.attack > cell.clean_means["attack"] + 0.4, "the trigger does more than to the clean sibling"
    assert cell.clean > cell.clean_means["clean"] - 0.1


@pytest.mark.parametrize("defense", sorted({*named("defense")} - SURVIVED - {"strip_i2i"}))
def test_every_defense_does_its_work_against_badnets(defense: str, folder: Path) -> None:
    if defense in KEEPS:
        pytest.skip(KEEPS[defense])
    premise = record(folder, "badnets", against=defense)
    assert premise.attack > 0.9, "premise: the model is backdoored"
    cell = record(folder, "badnets", defense, against=defense)
    stage = registry.load("defense", defense).stage.name
    if stage in ("filter", "input_detector"):
        assert cell.separation is not None
        assert cell.separation.auroc > 0.6
    elif stage == "audit":
        assert cell.audit is not None
        assert cell.audit.above_all, "the backdoored model stands out among clean ones"
        assert cell.audit.finding.suspected in ((0,), ())
    else:
        assert cell.attack < premise.attack - 0.3
        assert cell.clean > premise.clean - (0.35 if defense in DEAR else 0.2)


@pytest.mark.parametrize("defense", sorted(SURVIVED))
def test_a_patch_survives_these_transformations_or_accuracy_does_not(defense: str, folder: Path) -> None:
    premise, cell = record(folder, "badnets", against=defense), record(folder, "badnets", defense, against=defense)
    assert premise.attack > 0.9, "premise: the model is backdoored"
    assert cell.attack > premise.attack - 0.3 or cell.clean < premise.clean - 0.2


def test_strip_for_restoration_finds_triggered_images(folder: Path) -> None:
    assert record(folder, "i2i").attack > 0.8, "premise: the network is backdoored"
    found = record(folder, "i2i", "strip_i2i").separation
    assert found is not None
    assert found.auroc > 0.6
