"""Records as runs leave them, at numbers that can be checked by hand."""

from __future__ import annotations

from typing import Any

from sidedoor.bench.record import Record

HOSTILE = "<script>alert('class')</script>"
SPEC: dict[str, Any] = {
    "task": {"name": "classification"}, "data": {"name": "digits", "size": 16}, "model": {"name": "small_cnn"},
    "surrogate": None, "attack": {"name": "badnets", "rate": 0.1, "goal": {"name": "all_to_one", "target_class": 0}},
    "defense": None, "recipe": {"optimizer": "sgd", "lr": 1e-05, "epochs": 3, "batch": 128},
    "augment": ["flip", "crop"], "seed": 0, "defender_share": 0.05,
}


def make_record(key: str, seed: int = 0, defense: str | None = None, **values: Any) -> Record:
    """A record of badnets with seed and defence, at rounded numbers unless others are given."""
    spec = SPEC | {"seed": seed, "defense": {"name": defense} if defense else None}
    defaults: dict[str, Any] = {
        "planted": f"planted{seed}", "status": "done",
        "clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02, "seconds": 12.0, "peak_mb": 512.0,
        "intervals": {"clean": (0.85, 0.93), "attack": (0.75, 0.85)},
        "versions": {"sidedoor": "0.1.0", "torch": "2.9.0"}, "processor": "Abacus 8", "memory_format": "contiguous",
        "clean_means": {"clean": 0.91, "attack": 0.03, "recovered": 0.9, "idle": 0.03}, "clean_key": f"clean{seed}",
        "columns": {"psnr": 21.5, "ssim": 0.95, "lpips": None, "asr_all": 0.82, "floor": 0.1},
        "samples": {"train": 1000, "poisoned": 90, "cover": 0, "rate": 0.1, "defender": 50, "test": 40, "eligible": 36,
                    "target_share": 0.265},
    }
    return Record(key=key, spec=spec, **(defaults | values))
