"""What this machine has that sidedoor could use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

from sidedoor import registry
from sidedoor.data.root import Where
from sidedoor.errors import SidedoorError

_EXTRAS = {"timm": "timm", "pyarrow": "analysis", "lpips": "perceptual", "torchjd": "mtl"}
_GENERATED = ("digits", "toy", "photos")
"""Data sets that need no data root; those that need a path are not looked for."""


def examine(root: Path | None) -> dict[str, dict[str, str]]:
    """Findings by topic: environment, devices, data, optional packages."""
    packages = ("sidedoor", "torch", "torchvision", "lightning-fabric", "numpy", "scikit-learn", "scikit-image")
    environment = {"python": f"{platform.python_version()} on {platform.platform()}"}
    environment |= {name: importlib.metadata.version(name) for name in packages}
    return {"environment": environment, "devices": _devices(), "data": _data(root), "optional": _optional()}


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        devices[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        devices["cuda"] = "none found"
    return devices


def _data(root: Path | None) -> dict[str, str]:
    found = {"root": str(root) if root else "not set; pass --data-root or set SIDEDOOR_DATA"}
    for entry in registry.entries():
        if entry.kind == "data" and entry.name not in ("folder", "npz"):
            found[entry.name] = _found(entry.name, root)
    return found


def _found(name: str, root: Path | None) -> str:
    if root is None and name not in _GENERATED:
        return "needs a data root"
    try:
        train, test = registry.make("data", name)(Where(root))
    except SidedoorError as error:
        return f"not found: {error}"
    return f"{len(train)} + {len(test)} images {train.shape}, {len(train.classes)} classes"


def _optional() -> dict[str, str]:
    return {
        package: "installed" if importlib.util.find_spec(package) else f"missing: pip install 'sidedoor[{extra}]'"
        for package, extra in _EXTRAS.items()
    }
