"""Export poisoned training data with their test and clean parts as files, with a manifest that says so."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from sidedoor.backdoor.base import Access
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.backdoor.export import export
from sidedoor.bench.case import load
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.errors import ConfigError


def export_poisoned(spec: Spec, directory: Path, form: Literal["folder", "npz"], machine: Machine) -> Path:
    """Write the poisoned training data of a specification, its test data and the defender's clean data to a new folder
    and return it. An archive keeps the order of rows, so that a model trained on it is that of the specification.

    Raises:
        ConfigError: no attack, or one in which the attacker trains the model and there are no poisoned data.
    """
    attack = spec.make_attack()
    if attack is None or attack.access is not Access.DATA:
        raise ConfigError(f"attack {spec.attack_name} poisons no data; choose one whose access is data")
    # What planning keeps, such as networks of the shelf, does not belong beside the exported data.
    with tempfile.TemporaryDirectory(prefix="sidedoor-") as folder:
        case = load(spec, Store(Path(folder)), machine)
        backdoor = attack.plan(case.train, case.task, case.surrogate, case.attacker().within("plan"))
    poison = backdoor.poison
    data = PoisonedDataset(case.train, backdoor, case.task)
    manifest = {
        "attack": spec.attack, "seed": spec.seed, "spec": spec.to_json(), "data_fingerprint": case.fingerprint,
        "rate": poison.rate, "changed": data.rows_at.tolist(),
        "changed_positions": case.train.position(poison.index).tolist(),
        "cover_rows": data.rows_at[poison.cover].tolist(),
        "labels_before": case.train.targets[poison.index].tolist(),
        "labels_after": data.targets[data.rows_at].tolist(),
    }
    return export(data, directory, manifest, form, {"test": case.test, "clean": case.clean})
