"""Small parameters for methods whose defaults, those of their papers, take minutes. Contracts hold after one epoch."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, dict[str, Any]] = {
    "input_aware": {"mask_epochs": 1, "width": 4},
    "abl": {"isolation_epochs": 1, "finetune_epochs": 1, "unlearn_epochs": 1},
    "fine_pruning": {"epochs": 1},
    "neural_cleanse": {"epochs": 2, "samples": 32},
    "strip": {"overlays": 8},
}
