"""What a run would take: trainings and who shares them, hours, the longest chain of work, and disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from sidedoor.bench.case import load_data, makers
from sidedoor.bench.executors.base import Cell
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import Step, needed
from sidedoor.bench.record import NOT_APPLICABLE, Record
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.bench.times import Time, Times
from sidedoor.engine import fabric

PER_SAMPLE = 24
"""Bytes of the arrays of a run for each test sample: its label and four scores, before they are compressed."""


@dataclass(frozen=True)
class Training:
    """A model that cells need.

    Args:
        spec: its attack half.
        cells: that need it, whether or not they are done.
        there: whether the store has it.
        time: None if that, or no record of such a training, is known.
        bytes: of its file; None if unknown.
    """

    key: str
    spec: Spec
    cells: int
    there: bool
    time: Time | None
    bytes: int | None


@dataclass(frozen=True)
class Forecast:
    """What the steps of a plan would take.

    Args:
        refused: cells that are not applicable, by the reason, in which attack and defence have no name.
        trainings: models that cells need, those that are there among them.
        shelf: for each kind of networks that cells share (inspection, shadows, attack, task): how many, and the cells.
        times: of the cells to be run, by key; None where no record is like it.
        chain: keys of models and, at last, of a cell that one after another take longest, as far as times are known.
        arrays: bytes of what is kept for figures.
        records: that times are taken from.
        device: the kind that they were computed on.
        missing: by data set, why it cannot be loaded.
    """

    steps: tuple[Step, ...]
    refused: Mapping[str, tuple[Cell, ...]]
    trainings: tuple[Training, ...]
    shelf: Mapping[str, tuple[int, int]]
    times: Mapping[str, Time | None]
    chain: tuple[str, ...]
    arrays: int
    records: int
    device: str
    missing: Mapping[str, str]

    @property
    def to_train(self) -> tuple[Training, ...]:
        return tuple(training for training in self.trainings if not training.there)

    @property
    def seconds(self) -> float:
        """Of everything whose time is known, one after another."""
        return sum(time.seconds for time in self._all if time)

    @property
    def chain_seconds(self) -> float:
        """Of the longest chain: no number of workers takes less."""
        known = dict(self.times) | {training.key: training.time for training in self.to_train}
        return sum(time.seconds for key in self.chain if (time := known[key]))

    @property
    def levels(self) -> Counter[int]:
        """How many times are known from what."""
        return Counter(time.level for time in self._all if time)

    @property
    def unknown(self) -> tuple[int, int]:
        """Cells and trainings of unknown time."""
        return (sum(time is None for time in self.times.values()),
                sum(training.time is None for training in self.to_train))

    @property
    def _all(self) -> list[Time | None]:
        return [*self.times.values(), *(training.time for training in self.to_train)]


def forecast(found: Sequence[Step], store: Store, machine: Machine, missing: dict[str, str]) -> Forecast:
    """What steps would take, by the records of their store.

    Args:
        missing: by data set, why it cannot be loaded; as `planned` has filled it in.
    """
    records = store.lenient().records() if (store.root / "results").is_dir() else []
    device = str(fabric(machine.device, 1).device.type)
    times = Times.of(records, device)
    todo = [step for step in found if step.state == "to run"]
    sizes = _Sizes(store, records, machine, missing)
    suited = [step.cell for step in found if step.state != NOT_APPLICABLE]
    counts = Counter(key for cell in suited for key in cell.trains)
    trainings = tuple(
        Training(key, spec, counts[key], store.model(key).exists(), times.training(spec.to_json()), sizes.model(spec))
        for key, spec in needed(suited, machine, missing).items())
    own = {step.cell.key: times.cell(step.cell.spec.to_json()) for step in todo}
    return Forecast(tuple(found), _refused(found), trainings, _shelf(suited), own, _chain(todo, trainings, own),
                    sum(sizes.arrays(step.cell.spec) for step in todo), times.records, device, missing)


def _refused(found: Sequence[Step]) -> dict[str, tuple[Cell, ...]]:
    refused: dict[str, tuple[Cell, ...]] = {}
    for step in found:
        if step.state == NOT_APPLICABLE:
            reason = step.reason.replace(f"attack {step.cell.spec.attack_name}", "the attack")
            for name in step.cell.spec.defense_names:
                reason = reason.replace(f"defence {name}", "the defence")
            refused[reason] = (*refused.get(reason, ()), step.cell)
    return refused


def _shelf(cells: Iterable[Cell]) -> dict[str, tuple[int, int]]:
    shared: dict[str, list[str]] = {}
    for cell in cells:
        for name in cell.shares:
            shared.setdefault(name.partition("-")[0], []).append(name)
    return {kind: (len(set(each)), len(each)) for kind, each in sorted(shared.items())}


def _chain(todo: Sequence[Step], trainings: Sequence[Training], own: Mapping[str, Time | None]) -> tuple[str, ...]:
    """The models that a cell waits for or trains, one after another, clean ones first, then the cell."""
    ordered = sorted(trainings, key=lambda training: training.spec.attack is not None)
    lacking = {training.key: training.time for training in ordered if not training.there}
    chains = [(*(key for key in lacking if key in step.cell.trains), step.cell.key) for step in todo]

    def known(chain: tuple[str, ...]) -> float:
        each = (lacking[key] if key in lacking else own[key] for key in chain)
        return sum(time.seconds for time in each if time)

    longest = max(chains, key=known, default=())
    return longest if longest and known(longest) > 0 else ()


class _Sizes:
    """Bytes of files, by those of the store, else by what is in them."""

    def __init__(self, store: Store, records: Sequence[Record], machine: Machine, missing: Mapping[str, str]):
        self.machine, self.missing = machine, missing
        self.models: dict[str, list[int]] = {}
        self.figures: dict[str, list[int]] = {}
        for record in records:
            _note(self.models, _network(record.spec), store.model(record.planted) if record.planted else None)
            _note(self.figures, _shown(record.spec), store.folder(record.key) / "arrays.npz")
        self.built: dict[str, int | None] = {}

    def model(self, spec: Spec) -> int | None:
        name = _network(spec.to_json())
        return round(median(self.models[name])) if name in self.models else self._built(spec, name)

    def arrays(self, spec: Spec) -> int:
        name = _shown(spec.to_json())
        if name in self.figures:
            return round(median(self.figures[name]))
        return 0 if spec.data["name"] in self.missing else PER_SAMPLE * len(load_data(spec, self.machine)[0].test)

    def _built(self, spec: Spec, name: str) -> int | None:
        if name not in self.built:
            self.built[name] = None if spec.data["name"] in self.missing else self._count(spec)
        return self.built[name]

    def _count(self, spec: Spec) -> int | None:
        data = load_data(spec, self.machine)[0].train
        task = spec.make_task(len(data.classes))
        if task.output != "labels":  # what the others are for is known only once they are set up
            return None
        network: nn.Module = makers(spec, task, data, self.machine.download)[0]()
        return sum(int(tensor.nbytes) for tensor in network.state_dict().values())


def _note(found: dict[str, list[int]], name: str, file: Path | None) -> None:
    if file is not None and file.is_file():
        found.setdefault(name, []).append(file.stat().st_size)


def _network(spec: Mapping[str, Any]) -> str:
    """What decides the size of a model's file: its network, the data's shape, and what its attack's triggers learn."""
    attack = spec.get("attack")
    return json.dumps([spec.get("model"), spec.get("data"), attack and attack["name"]], sort_keys=True)


def _shown(spec: Mapping[str, Any]) -> str:
    return json.dumps([spec.get(name) for name in ("data", "train_samples", "test_samples", "defense")], sort_keys=True)
