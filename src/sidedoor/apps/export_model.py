"""Export the model of a result: the attacked one, or what filters, training defences and repairs made of it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from sidedoor import registry
from sidedoor.bench.case import Case, TrainedModel, load, train_or_load
from sidedoor.bench.examine.base import Delivered, defend
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import Record
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store
from sidedoor.core.files import drop_checkpoints
from sidedoor.core.model_file import unused, write_model
from sidedoor.defenses.repair.base import Repair
from sidedoor.errors import CannotComplete, ConfigError


def export_model(store: Store, key: str, path: Path, machine: Machine) -> Path:
    """Write the model of a finished result with a manifest that says what it is; the manifest's path.

    Stores keep the attacked model alone, so defences that change the model are applied to it again, which takes as long
    as it took. Audits, detectors and purifiers, which leave the model as it is, are not.

    Raises:
        CannotComplete: the result cannot be made again as it was, since code or data are others.
        ConfigError: no finished result has the key, or `path` is no file that can be written.
    """
    unused(path)
    record = store.record(key)
    if record is None or not record.finished or record.clean is None:
        raise ConfigError(f"no finished result {key} of a model in {store.root}; a report has the keys of all")
    case = load(cells(record.spec)[0], store, machine)
    if case.key != key:
        raise CannotComplete(f"the result {key} cannot be made again: with the code and data of today its key would be "
                             f"{case.key}")
    with case.alone(f"{key}-cell"):
        trained = train_or_load(case)
        delivered = _changed(case, trained)
    return write_model(path, delivered.finished.state_dict(), _manifest(record, case))


def _changed(case: Case, trained: TrainedModel) -> Delivered:
    """Behind the defences that change the model, whose phases are dropped."""
    methods = [method for method in case.spec.make_defenses() if method.stage.place <= Repair.stage.place]
    try:
        return defend(methods, case, trained)
    finally:
        drop_checkpoints(case.store.folder(case.key))


def _manifest(record: Record, case: Case) -> dict[str, Any]:
    defenses = [registry.name_of(method) for method in case.spec.make_defenses()]
    return {"backdoored": case.spec.attack is not None, "attack": case.spec.attack, "defenses": defenses,
            "key": record.key, "spec": record.spec, "data_fingerprint": record.data,
            "measured": {"clean": record.clean, "attack": record.attack, "recovered": record.recovered},
            "sidedoor": importlib.metadata.version("sidedoor")}
