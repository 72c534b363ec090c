"""The exported model of a result is the one that was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sidedoor.apps import export_model as exporting
from sidedoor.apps.export_model import export_model
from sidedoor.bench.case import load
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state
from sidedoor.engine import Recipe
from sidedoor.errors import CannotComplete, ConfigError

CPU = Machine(device="cpu")
REPAIR = {"name": "ft_init", "steps": 20, "batch": 8}


def spec(**changes: Any) -> Spec:
    given: dict[str, Any] = {
        "data": {"name": "toy", "train": 300, "test": 60}, "model": {"name": "small_cnn", "width": 4},
        "attack": {"name": "badnets", "rate": 0.2}, "recipe": Recipe(epochs=1, batch=32), "defender_share": 0.1,
    }
    return Spec(**given | changes)


def test_a_repaired_model_is_exported_as_it_was_measured(tmp_path: Path) -> None:
    here, store = spec(defense=(REPAIR, {"name": "shrink_pad"})), Store(tmp_path / "runs")
    record = run(here, store, CPU)
    before = sorted(store.folder(record.key).iterdir())
    export_model(store, record.key, tmp_path / "out.safetensors", CPU)
    assert sorted(store.folder(record.key).iterdir()) == before
    alone = run(replace(here, defense=REPAIR), store, CPU)
    case = load(here, store, CPU)
    model = case.build()
    model.load_state_dict(load_file(tmp_path / "out.safetensors"))
    assert case.task.score(model, case.test, None, case.run).means()["clean"] == alone.clean
    attacked = load_state(store.model(record.planted))["model"]
    assert any(not torch.equal(tensor, attacked[name]) for name, tensor in model.state_dict().items())
    about = json.loads((tmp_path / "out.json").read_text())
    assert (about["backdoored"], about["defenses"], about["key"]) == (True, ["ft_init", "shrink_pad"], record.key)


def test_without_a_defence_it_is_the_attacked_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    record = run(spec(), store, CPU)
    export_model(store, record.key, tmp_path / "out.safetensors", CPU)
    attacked, found = load_state(store.model(record.planted))["model"], load_file(tmp_path / "out.safetensors")
    assert attacked.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in attacked.items())


def test_what_is_no_result_or_cannot_be_made_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "runs")
    record = run(spec(attack=None), store, CPU)
    with pytest.raises(ConfigError, match="no finished result"):
        export_model(store, "0" * 16, tmp_path / "out.safetensors", CPU)
    store.put(replace(record, key="f" * 16))
    with pytest.raises(CannotComplete, match=f"its key would be {record.key}"):
        export_model(store, "f" * 16, tmp_path / "out.safetensors", CPU)
    (tmp_path / "there.safetensors").touch()
    monkeypatch.setattr(exporting, "load", None)  # refused before any work
    with pytest.raises(ConfigError, match="exists"):
        export_model(store, record.key, tmp_path / "there.safetensors", CPU)
