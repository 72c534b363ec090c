"""Make the models of handwritten digits that ship with the package, and the file that says what each is.

    python experiments/example_models.py src/sidedoor/apps/example_models

A backdoored model with a patch, one with a blend, a clean one, and 19 further clean models to compare them with, as
`sidedoor scan --references` takes them. All have the same network and recipe and differ by their seeds; two minutes of
one core. On another kind of processor the files differ in their last bits.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from sidedoor.apps.export_model import export_model
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import cells
from sidedoor.bench.store import Store

SETUP: dict[str, Any] = {"data": "digits", "model": {"name": "small_cnn", "width": 8}, "recipe": {"epochs": 15}}
PATCH, BLEND = {"name": "badnets", "rate": 0.1}, {"name": "blended", "rate": 0.1}
MODELS = {"patch": (PATCH, 100), "blend": (BLEND, 101), "clean": (None, 102)} | {
    f"references/{number:02}": (None, number) for number in range(1, 20)}
"""Name: (attack, seed)."""


def main() -> None:
    out = Path(sys.argv[1])
    (out / "references").mkdir(parents=True, exist_ok=True)
    models = {}
    with tempfile.TemporaryDirectory(prefix="sidedoor-") as folder:
        store = Store(Path(folder))
        for name, (attack, seed) in MODELS.items():
            spec = cells(SETUP | {"seed": seed} | ({"attack": attack} if attack else {}))[0]
            record = run(spec, store, Machine(device="cpu"))
            file = out / f"{name}.safetensors"
            exported = Path(folder) / f"{seed}.safetensors"
            export_model(store, record.key, exported, Machine(device="cpu"))
            save_file(load_file(exported), file)  # without the header, which says what the model is
            models[f"{name}.safetensors"] = {
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "attack": attack, "seed": seed,
                "accuracy": record.clean, "attack_success": record.attack}
            print(name, record.clean, record.attack, flush=True)
    (out / "manifest.json").write_text(json.dumps(SETUP | {"models": models}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
