"""What this machine has that sidedoor could use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import os
import platform
from pathlib import Path

from sidedoor import registry
from sidedoor.cli._options import AsJson, Root, emit, say, verbose
from sidedoor.errors import SidedoorError

Examination = dict[str, dict[str, str]]
"""Findings by topic and name."""
_NONE, _NEEDS_ROOT = "none found", "needs a data root"
_EXTRAS = {"timm": "timm", "pyarrow": "analysis", "lpips": "perceptual", "torchjd": "mtl", "httpx": "http",
           "av": "video"}


def doctor(as_json: AsJson = False, root: Root = None) -> None:
    """Say what this machine has: versions, devices, data sets found, optional packages; with -v all about each."""
    examination = examine(root)
    if as_json:
        emit(examination)
        return
    for line in details(examination) if verbose() else summary(examination):
        say(line)


def details(examination: Examination) -> list[str]:
    """A line for each finding, below its topic."""
    return [line for topic, findings in examination.items()
            for line in (f"{topic}:", *(f"  {name:<18} {finding}" for name, finding in findings.items()))]


def summary(examination: Examination) -> list[str]:
    """A line for each kind of finding."""
    environment, devices, data, optional = (examination[k] for k in ("environment", "devices", "data", "optional"))
    lines = {"environment": ", ".join(f"{name} {environment[name]}" for name in ("sidedoor", "torch", "python")),
             "devices": "; ".join(f"{name}: {finding}" for name, finding in devices.items() if finding != _NONE),
             "data root": data["root"]}
    for state, begins in (("data found", ""), ("not found", "not found"), ("need a root", _NEEDS_ROOT)):
        names = [name for name, finding in data.items() if name != "root" and _state(finding) == begins]
        lines |= {state: ", ".join(names)} if names else {}
    lines["packages"] = "; ".join(f"{name} {finding}" for name, finding in optional.items())
    return [*(f"{name:<12} {line}" for name, line in lines.items()), "sidedoor doctor -v says all about each"]


def _state(finding: str) -> str:
    return next((state for state in ("not found", _NEEDS_ROOT) if finding.startswith(state)), "")


def examine(root: Path | None) -> Examination:
    """Findings by topic: environment, devices, data, optional packages."""
    packages = ("sidedoor", "torch", "torchvision", "lightning-fabric", "numpy", "scikit-learn", "scikit-image")
    environment = {"python": f"{platform.python_version()} on {platform.platform()}"}
    environment |= {name: importlib.metadata.version(name) for name in packages}
    return {"environment": environment, "devices": _devices(), "data": _data(root), "optional": _optional()}


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"}
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        devices[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        devices["cuda"] = _NONE
    devices["mps"] = "found" if torch.backends.mps.is_available() else _NONE
    return devices


def _data(root: Path | None) -> dict[str, str]:
    """The root, then every data set but those that take a path."""
    found = {"root": str(root) if root else "not set; pass --data-root or set SIDEDOOR_DATA"}
    for entry in registry.entries():
        if entry.kind == "data" and not _takes_a_path(entry.name):
            found[entry.name] = _found(entry.name, root)
    return found


def _takes_a_path(name: str) -> bool:
    return any(default is inspect.Parameter.empty for _, default in registry.parameters("data", name).values())


def _found(name: str, root: Path | None) -> str:
    from sidedoor.data.root import Where, needs_root

    if root is None and needs_root(registry.load("data", name)):
        return _NEEDS_ROOT
    small = registry.quick("data", name)  # what is generated would take long in its usual size
    try:
        train, test = registry.make("data", {"name": name, **small})(Where(root))
    except SidedoorError as error:
        return f"not found: {error}"
    size = ", made small here" if small else ""
    return f"{len(train)} + {len(test)} images {train.shape}, {len(train.classes)} classes{size}"


def _optional() -> dict[str, str]:
    return {
        package: "installed" if importlib.util.find_spec(package) else f"missing: pip install 'sidedoor[{extra}]'"
        for package, extra in _EXTRAS.items()
    }
