"""What a run would do: its cells with the keys of the models they need, checked as far as that takes no training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from sidedoor import registry
from sidedoor.bench.case import load_data, makers
from sidedoor.bench.executors.base import Cell
from sidedoor.bench.labels import names
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import NOT_APPLICABLE
from sidedoor.bench.run import finished
from sidedoor.bench.shared import of_cell
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.data.base import Dataset
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.types import Build


def planned(specs: Iterable[Spec], machine: Machine, missing: dict[str, str] | None = None) -> list[Cell]:
    """The cells of specifications, each once.

    Args:
        missing: receives, by data set, why it cannot be loaded; keys of its cells are then not those of results. None:
            that is an error.

    Raises:
        ConfigError: one names a class that the data do not have.
        CannotComplete: data or the device are missing.
    """
    specs = list(specs)
    machine.check(max((spec.devices for spec in specs), default=1))
    # Only few data sets are held at a time: cells of the same are looked at together, and stay in the order given.
    order = sorted(range(len(specs)), key=lambda n: _data_of(specs[n]))
    known: dict[str, str] = {}
    made = {n: _cell(specs[n], machine, known, missing) for n in order}
    cells = list({made[n].key: made[n] for n in range(len(specs))}.values())
    called = names([cell.spec.to_json() for cell in cells])
    return [replace(cell, name=name) for cell, name in zip(cells, called, strict=True)]


def _data_of(spec: Spec) -> str:
    return json.dumps([spec.data, spec.train_samples, spec.test_samples], sort_keys=True)


def _cell(spec: Spec, machine: Machine, known: dict[str, str], missing: dict[str, str] | None) -> Cell:
    """A specification with its keys.

    Args:
        known: keys by specification and data; cells of a grid share most of the models that they need.
        missing: as in `planned`.
    """
    fingerprint = _fingerprint(spec, machine, missing)

    def key(each: Spec) -> str:
        named = json.dumps([each.to_json(), fingerprint])
        if named not in known:
            known[named] = each.key(fingerprint, machine.root)
        return known[named]

    model = key(spec.attack_half())
    return Cell(spec, key(spec), model, frozenset([model, *map(key, spec.clean_models())]),
                of_cell(spec, fingerprint, model))


def needed(cells: Iterable[Cell], machine: Machine, missing: dict[str, str] | None = None) -> dict[str, Spec]:
    """The models that cells need, by key, in the order in which they do.

    Args:
        missing: as in `planned`.
    """
    halves: dict[str, Spec] = {}
    for cell in cells:
        for each in (cell.spec.attack_half(), *cell.spec.clean_models()):
            halves.setdefault(json.dumps(each.to_json()), each)
    return {each.key(_fingerprint(each, machine, missing), machine.root): each for each in halves.values()}


def _fingerprint(spec: Spec, machine: Machine, missing: dict[str, str] | None) -> str:
    """Of the data; where they are missing and that is no error, what tells them apart."""
    name = str(spec.data["name"])
    if missing is None or name not in missing:
        try:
            return load_data(spec, machine)[1]
        except CannotComplete as error:
            if missing is None:
                raise
            missing[name] = str(error)
    return _data_of(spec)


def check_networks(cells: Iterable[Cell], machine: Machine) -> None:
    """Build each network once and show it an image, where the task's networks are classifiers of the data's images.

    Raises:
        ConfigError: a library does not know a name, or a network cannot take such images.
        CannotComplete: weights are missing or do not fit.
    """
    seen = set()
    for spec in sorted((cell.spec for cell in cells), key=_data_of):
        if registry.load("task", spec.task["name"]).output == "labels" and spec.refusal() is None:
            data = load_data(spec, machine)[0].train
            builds = makers(spec, spec.make_task(len(data.classes)), data, machine.download)
            for reference, build in zip((spec.model, spec.surrogate or spec.model), builds, strict=True):
                what = (json.dumps(reference, sort_keys=True), data.shape, len(data.classes))
                if what not in seen:
                    seen.add(what)
                    _show_an_image(reference["name"], build, data)


def _show_an_image(name: str, build: Build, data: Dataset) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = build().eval()
        try:
            model(torch.zeros(1, *data.shape))
        except RuntimeError as error:
            shape = "×".join(map(str, data.shape))
            raise ConfigError(f"model {name} cannot take images of {shape} (channels × height × width): {error}; "
                              "resize the images or choose another model") from error


@dataclass(frozen=True)
class Step:
    """What would become of a cell.

    Args:
        state: "done", "to run" or "not applicable".
        trains: keys of the models that it would train, those of cells before it left out.
        reason: why it is not applicable.
    """

    cell: Cell
    state: str
    trains: tuple[str, ...]
    reason: str = ""


def steps(cells: Sequence[Cell], store: Store) -> list[Step]:
    """What would become of each cell, one after another."""
    found, trained = [], set[str]()
    for cell in cells:
        reason, done = cell.spec.refusal(), finished(store, cell.key) is not None
        state = "done" if done else NOT_APPLICABLE if reason else "to run"
        missing = sorted(key for key in cell.trains - trained if state == "to run" and not store.model(key).exists())
        trained.update(missing)
        found.append(Step(cell, state, tuple(missing), reason or ""))
    return found
