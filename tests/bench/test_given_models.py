"""A model that was given: taken as it is where that is asked for, and never compared with itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sidedoor import registry, zoo
from sidedoor.bench.case import train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import Refused, Spec
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state
from sidedoor.data.base import Dataset
from sidedoor.data.root import Where
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.evidence import Calibrated, Finding
from sidedoor.tasks.task import Task

Tiny = Callable[..., Spec]
CPU = Machine(device="cpu")
FILE = "suspect.safetensors"


@pytest.fixture(scope="module")
def suspect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of the network of `tiny`."""
    path = tmp_path_factory.mktemp("given") / FILE
    data = registry.make("data", {"name": "toy", "train": 600, "test": 80})(Where(None)).train
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(zoo.network({"name": "small_cnn", "width": 8}, data)().state_dict(), path)
    return path


def given(suspect: Path, **more: Any) -> dict[str, Any]:
    return {"name": "small_cnn", "width": 8, "weights": str(suspect), **more}


def fail(*_: object, **__: object) -> None:
    raise AssertionError("it was trained")


def test_a_frozen_model_is_evaluated_as_it_is(tiny: Tiny, suspect: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "fit", fail)
    store, spec = Store(tmp_path), tiny(attack=None, model=given(suspect, frozen=True))
    record = run(spec, store, CPU)
    kept, file = load_state(store.model(record.planted))["model"], load_file(suspect)
    assert kept.keys() == file.keys()
    assert all(torch.equal(kept[name], file[name]) for name in file)
    test = registry.make("data", {"name": "toy", "train": 600, "test": 80})(Where(None)).test
    model = zoo.network({"name": "small_cnn", "width": 8}, test)().eval()
    model.load_state_dict(file)
    with torch.no_grad():
        right = model(test.fetch(torch.arange(len(test))).x).argmax(1) == test.targets
    assert record.clean == pytest.approx(right.float().mean().item())
    assert record.key != tiny(attack=None, model=given(suspect)).key(record.data)


@pytest.mark.parametrize("defense", ["fine_pruning", "strip", "jpeg"])
def test_a_frozen_model_is_defended_at_the_stages_that_do_not_train_it(
        tiny: Tiny, suspect: Path, tmp_path: Path, defense: str) -> None:
    record = run(tiny(attack=None, model=given(suspect, frozen=True),
                      defense={"name": defense, **registry.quick("defense", defense)}), Store(tmp_path), CPU)
    assert record.status == "done"
    assert record.attack is None


@pytest.mark.parametrize(("changes", "message"), [
    ({}, "attack badnets trains a model, and model.frozen"),
    ({"attack": None, "defense": "abl"}, "defence abl trains a model"),
    ({"attack": None, "defense": "spectral_signatures"}, "defence spectral_signatures trains a model"),
])
def test_what_would_train_a_frozen_model_is_refused(tiny: Tiny, suspect: Path, changes: dict[str, Any],
                                                    message: str) -> None:
    with pytest.raises(Refused, match=message):
        tiny(model=given(suspect, frozen=True), **changes).check()


@pytest.mark.parametrize(("model", "message"), [
    ({"frozen": True}, "frozen = True but no weights"),
    ({"weights": FILE, "frozen": True, "head": "new"}, "a new last layer has to be trained"),
    ({"weights": FILE, "frozen": 1}, "model.frozen = 1"),
])
def test_frozen_is_said_of_whole_weights(tiny: Tiny, model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(attack=None, model={"name": "small_cnn", "width": 8, **model})


def deciding(specs: Iterable[Spec]) -> set[str]:
    return {spec.key("f") for spec in specs}


@pytest.mark.parametrize("weights", [{}, {"frozen": False}, {"frozen": True}])
@pytest.mark.parametrize("attack", [None, "badnets"])
def test_clean_models_are_others_than_the_audited_one_and_start_afresh(
        tiny: Tiny, suspect: Path, weights: dict[str, Any], attack: str | None) -> None:
    model = given(suspect, **weights) if weights else {"name": "small_cnn", "width": 8}
    spec = tiny(attack=attack, model=model, defense="neural_cleanse", references=3)
    clean = spec.clean_models()
    assert len(deciding(clean)) == 3
    assert spec.attack_half().key("f") not in deciding(clean)
    assert all("weights" not in each.model and each.attack is None and each.defense is None for each in clean)


def test_an_attacked_model_that_starts_from_given_weights_has_a_sibling_that_does_not(tiny: Tiny,
                                                                                      suspect: Path) -> None:
    attacked = tiny(model=given(suspect))
    assert deciding(attacked.clean_models()) == deciding(tiny().clean_models())
    assert deciding(tiny().clean_models()) == deciding([tiny(attack=None).attack_half()])
    assert tiny(attack=None, model=given(suspect)).clean_models() == []


def test_an_audit_never_sees_the_audited_model_among_its_references(tiny: Tiny, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(self: NeuralCleanse, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        return Finding(score=model(clean.fetch(torch.arange(4)).x).sum().item(), suspected=())

    monkeypatch.setattr(NeuralCleanse, "inspect", inspect)
    spec = tiny(attack=None, defense="neural_cleanse", references=2)
    record = run(spec, Store(tmp_path), CPU)
    (found,) = record.evidence
    assert isinstance(found, Calibrated)
    assert len({found.finding.score, *found.references}) == 3


def test_no_model_is_trained_beside_a_clean_one_to_compare_it_with(tiny: Tiny, suspect: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def counted(case: Any) -> Any:
        trained.append(case.attack_key)
        return train_or_load(case)

    monkeypatch.setattr("sidedoor.bench.run.train_or_load", counted)
    record = run(tiny(attack=None, model=given(suspect, frozen=True)), Store(tmp_path), CPU)
    assert trained == [record.planted]
    assert record.clean_key is None
