"""Exported poisoned data lead to the model of the direct run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from sidedoor import registry
from sidedoor.apps.export_poisoned import export_poisoned
from sidedoor.bench.case import load
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state
from sidedoor.data.base import Dataset
from sidedoor.data.root import Where
from sidedoor.engine import Recipe

CPU = Machine(device="cpu")


def spec(**changes: Any) -> Spec:
    given: dict[str, Any] = {
        "data": {"name": "toy", "train": 300, "test": 60}, "model": {"name": "small_cnn", "width": 4},
        "attack": {"name": "badnets", "rate": 0.2}, "recipe": Recipe(epochs=1, batch=32), "defender_share": 0.1,
    }
    return Spec(**given | changes)


def test_a_run_on_the_exported_archive_trains_and_measures_what_the_direct_run_does(tmp_path: Path) -> None:
    made = export_poisoned(spec(), tmp_path / "out", "npz", CPU)
    direct, store = run(spec(), Store(tmp_path / "direct"), CPU), Store(tmp_path / "exported")
    record = run(spec(attack=None, data={"name": "npz", "path": str(made / "backdoored.npz")}), store, CPU)
    assert (record.clean, record.samples["train"], record.samples["test"], record.samples["defender"]) == (
        direct.clean, direct.samples["train"], direct.samples["test"], direct.samples["defender"])
    one, other = (load_state(Store(tmp_path / name).model(key))["model"]
                  for name, key in (("direct", direct.planted), ("exported", record.planted)))
    assert all(torch.equal(one[name], other[name]) for name in one)


def content(data: Dataset) -> list[tuple[bytes, int]]:
    rows = data.rows(torch.arange(len(data)))
    return sorted((row.numpy().tobytes(), int(label)) for row, label in zip(rows, data.targets, strict=True))


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_test_images_and_the_defenders_are_exported_as_they_are(form: Literal["folder", "npz"], tmp_path: Path) -> None:
    made = export_poisoned(spec(), tmp_path / "out", form, CPU)
    assert made == tmp_path / "out"
    place = made if form == "folder" else made / "backdoored.npz"
    back = registry.make("data", f"{form}:{place}")(Where(None))
    case = load(spec(), Store(tmp_path / "none"), CPU)
    assert content(back.test) == content(case.test)
    assert content(back.clean) == content(case.clean)
    assert content(back.train) != content(case.train)
    assert back.train.classes == tuple(f"{k}_{name}" if form == "folder" else name
                                       for k, name in enumerate(case.train.classes))


def test_a_clean_part_is_part_of_the_datas_fingerprint_and_is_not_cut_from_them(tmp_path: Path) -> None:
    made = export_poisoned(spec(), tmp_path / "out", "npz", CPU)
    splits = registry.make("data", f"npz:{made / 'backdoored.npz'}")(Where(None))
    assert splits.fingerprint().count("-") == 2
    assert splits.fingerprint().startswith(f"{splits.train.fingerprint()}-{splits.test.fingerprint()}-")
    again = spec(attack=None, data={"name": "npz", "path": str(made / "backdoored.npz")}, defender_share=0.5)
    case = load(again, Store(tmp_path / "none"), CPU)
    assert (len(case.train), len(case.clean)) == (len(splits.train), len(splits.clean))
