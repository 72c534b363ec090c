"""What results of vetting say alike: a network in words, and what they were made with."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import torch

from sidedoor.engine import Run


def network_in_words(reference: Mapping[str, Any]) -> str:
    """A registered network with its parameters; nothing for none."""
    if not reference:
        return ""
    return " ".join([reference["name"], *(f"{name}={value}" for name, value in reference.items() if name != "name")])


def environment(run: Run) -> dict[str, Any]:
    """Versions, device, threads and seed, as JSON values."""
    return {"sidedoor": importlib.metadata.version("sidedoor"), "torch": torch.__version__,
            "python": platform.python_version(), "device": str(run.device), "threads": torch.get_num_threads(),
            "seed": run.seed}
