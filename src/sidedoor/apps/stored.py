"""What applications take from a store of results: an attacked model with its data, or the state of a model alone."""

from __future__ import annotations

from typing import Any

from sidedoor.bench.case import Case, load
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state
from sidedoor.errors import CannotComplete, ConfigError


def attacked_case(store: Store, key: str, machine: Machine) -> Case:
    """The attack half of a finished result: what it loads and the model that it trained.

    Raises:
        ConfigError: no finished result of an attacked model has the key.
        CannotComplete: the model cannot be made again as it was, since code or data are others.
    """
    record = store.record(key)
    if record is None or not record.finished or not record.spec.get("attack"):
        raise ConfigError(f"no finished result {key} of an attacked model in {store.root}; a report has the keys of "
                          "all")
    spec = cells(record.spec)[0]
    case = load(spec, store, machine)
    if case.key != key:
        raise CannotComplete(f"the result {key} cannot be made again: with the code and data of today its key would be "
                             f"{case.key}")
    return case.twin(spec.attack_half())


def state_of(store: Store, key: str, record: Record) -> dict[Any, Any]:
    """The state of a model, "model", and of its triggers, "doors".

    Args:
        key: of the model.
        record: of a run that it belongs to, for the message.

    Raises:
        CannotComplete: the model is no longer there, or damaged.
    """
    path = store.model(key)
    if not path.exists():
        raise CannotComplete(f"the model {path} of run {record.key} is gone; run its specification again")
    return load_state(path, "model", "doors")
