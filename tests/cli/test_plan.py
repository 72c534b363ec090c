"""A plan says what a file would train, what is not applicable and why, and what the whole takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

from sidedoor.bench.case import load_data
from sidedoor.bench.forecast import Forecast, forecast
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned, steps
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid
from sidedoor.bench.store import Store
from sidedoor.cli.plan import lines, plain
from sidedoor.models.small_cnn import small_cnn

TABLE: dict[str, Any] = {
    "data": {"name": "toy", "train": 60, "test": 20}, "model": {"name": "small_cnn", "width": 4},
    "recipe": {"epochs": 1}, "defender_share": 0.2,
    "grid": {"seed": [0, 1], "attack": ["badnets", "wanet"], "defense": ["jpeg", "abl"]}}
HERE = Machine(device="cpu")


def seen(store: Store, table: dict[str, Any] = TABLE, here: Machine = HERE) -> Forecast:
    missing: dict[str, str] = {}
    return forecast(steps(planned(grid(table), here, missing), store), store, here, missing)


def ran(store: Store, specs: Iterable[Spec], seconds: float, attack: float, clean: float) -> None:
    """Records as if these cells had been run, their models in the store."""
    for cell in planned(specs, HERE):
        sibling = next(iter(cell.trains - {cell.model}))
        store.put(Record(key=cell.key, planted=cell.model, clean_key=sibling, spec=cell.spec.to_json(), status="done",
                         seconds=seconds, device="cpu", timing={"attack": attack, "clean": clean, "defense": 1.0}))
        for key in (cell.model, sibling):
            store.folder(key).mkdir(parents=True, exist_ok=True)
            store.model(key).write_bytes(bytes(3000))


def test_nothing_is_trained_for_pairs_that_do_not_suit_each_other(tmp_path: Path) -> None:
    made = seen(Store(tmp_path))
    assert [(step.cell.spec.attack_name, step.cell.spec.defense_name, step.state) for step in made.steps[:4]] == [
        ("badnets", "jpeg", "to run"), ("badnets", "abl", "to run"), ("wanet", "jpeg", "to run"),
        ("wanet", "abl", "not applicable")]
    ((reason, cells),) = made.refused.items()
    assert reason.startswith("the defence works on poisoned training data, but in the attack the attacker trains")
    assert [str(cell) for cell in cells] == ["wanet, abl, seed 0", "wanet, abl, seed 1"]
    assert [(t.spec.attack_name, t.spec.seed, t.cells) for t in made.trainings] == [
        ("badnets", 0, 2), ("none", 0, 3), ("wanet", 0, 1), ("badnets", 1, 2), ("none", 1, 3), ("wanet", 1, 1)]
    assert (made.seconds, made.unknown, made.chain) == (0, (6, 6), ())
    text = "\n".join(lines(made))
    assert "not applicable, 2: the defence works on poisoned" in text
    assert "(attacks: wanet; defences: abl)" in text
    assert "time unknown: 6 cells and 6 models" in text
    assert "time:" not in text.replace("time unknown:", "")


def test_hours_are_those_of_the_store_and_what_is_there_takes_none(tmp_path: Path) -> None:
    store, specs = Store(tmp_path), grid(TABLE)
    # Of badnets with seed 0: the model took 50 s, its sibling 20 s, and jpeg 5 s besides.
    ran(store, [spec for spec in specs if (spec.attack_name, spec.defense_name, spec.seed) == ("badnets", "jpeg", 0)],
        75.0, 50.0, 20.0)
    made = seen(store)
    assert made.records == 1
    assert {(t.spec.attack_name, t.spec.seed): (t.there, t.time and t.time.seconds) for t in made.trainings} == {
        ("badnets", 0): (True, 50.0), ("none", 0): (True, 20.0), ("wanet", 0): (False, None),
        ("badnets", 1): (False, 50.0), ("none", 1): (False, 20.0), ("wanet", 1): (False, None)}
    # jpeg: one cell of badnets, and two of wanet by badnets; abl: none has been run.
    assert made.unknown == (2, 2)
    assert made.seconds == pytest.approx(3 * 5 + 50 + 20)
    assert made.levels == {0: 3, 2: 2}
    named = {training.key: training.spec for training in made.trainings}
    assert [named[key].attack_name for key in made.chain[:-1]] == ["none", "badnets"]
    assert made.chain_seconds == pytest.approx(20 + 50 + 5)
    text = "\n".join(lines(made))
    assert "8 cells: 1 done, 5 to run, 2 not applicable; 4 models to train" in text
    assert "time: 85 s one after another, by the folder's 1 records on cpu (2 by other attacks)" in text
    assert "time unknown: 2 cells and 2 models, of which the folder has no record on cpu: models of wanet; " \
        "cells with abl" in text
    assert "longest chain: 75 s, whatever the number of workers: clean, seed 1, then badnets, seed 1, then" in text


def test_another_device_says_nothing_of_this_one(tmp_path: Path) -> None:
    store, specs = Store(tmp_path), grid(TABLE)
    ran(store, specs[:1], 75.0, 50.0, 20.0)
    (record,) = store.records()
    store.put(replace(record, device="cuda:0"))
    assert (seen(store).records, seen(store).unknown) == (0, (5, 4))


def test_disk_is_models_as_large_as_they_are_and_figures(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = seen(store)
    splits, _ = load_data(made.steps[0].cell.spec, HERE)
    network = small_cnn(len(splits.train.classes), splits.train.shape, 4)
    one = sum(tensor.nbytes for tensor in network.state_dict().values())
    assert {training.bytes for training in made.trainings} == {one}
    assert made.arrays == 6 * 20 * 24
    ran(store, grid(TABLE)[:1], 9.0, 1.0, 1.0)
    after = {(t.spec.attack_name, t.spec.seed): t.bytes for t in seen(store).trainings}
    assert after["badnets", 1] == 3000
    assert after["wanet", 1] == one


def test_networks_that_cells_share_are_counted(tmp_path: Path) -> None:
    table = TABLE | {"grid": {"attack": ["badnets", "blended"], "defense": ["spectral_signatures", "spectre", "jpeg"]}}
    made = seen(Store(tmp_path), table)
    assert made.shelf == {"inspection": (2, 4)}
    assert "shared, models of poisoned data that filters look at: 2 for 4 cells" in lines(made)


def test_data_that_are_not_here_are_said_and_the_rest_is_planned(tmp_path: Path) -> None:
    table = TABLE | {"grid": {"data": [TABLE["data"], {"name": "npz", "path": "none.npz"}], "attack": ["badnets"],
                              "defense": ["jpeg", "strip"]}}
    made = seen(Store(tmp_path), table, replace(HERE, root=tmp_path))
    assert list(made.missing) == ["npz"]
    assert len(made.steps) == 4
    assert [t.cells for t in made.trainings] == [2, 2, 2, 2]
    assert [t.bytes is None for t in made.trainings] == [False, False, True, True]
    text = lines(made)
    assert any(line.startswith("data: npz cannot be loaded (") for line in text)
    assert any("2 models of unknown size" in line for line in text)


def test_as_json_it_is_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ran(store, grid(TABLE)[:1], 75.0, 50.0, 20.0)
    made = seen(store)
    found = json.loads(json.dumps(plain(made, "ci")))
    assert (found["tier"], len(found["cells"]), found["seconds"]) == ("ci", 8, pytest.approx(85))
    assert [cell["seconds"] for cell in found["cells"][:4]] == [None, None, 5.0, None]
    assert found["refused"] == [{"reason": next(iter(made.refused)), "cells": ["wanet, abl, seed 0",
                                                                              "wanet, abl, seed 1"]}]
    assert found["unknown"] == {"cells": 2, "models": 2}
    assert found["chain"]["keys"] == list(made.chain)
    assert found["disk"]["models"] == sum(t.bytes or 0 for t in made.to_train)


def test_the_command_names_the_tier(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('tier = "ci"\ndata = {name = "toy", train = 60, test = 20}\n'
                    'model = {name = "small_cnn", width = 4}\nattack = "badnets"\ndefender_share = 0.2\n'
                    '[[grid]]\nseed = [0]\n[[grid]]\nseed = [1]\n'
                    'defense = ["jpeg"]\n')
    said = cli("plan", file, "--out", tmp_path / "out", "--device", "cpu")
    assert said.code == 0, said.err
    assert said.out.splitlines()[:2] == ["tier: ci", "2 cells: 2 to run; 4 models to train"]
    assert not (tmp_path / "out").exists()
    wrong = cli("plan", file, "--out", tmp_path / "out", "--set", "tier=3")
    assert (wrong.code, wrong.out) == (4, "")
    assert "tier = 3 given" in wrong.err
