"""Small parameters for methods whose defaults, those of their papers, take minutes. Contracts hold after one epoch."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, dict[str, Any]] = {
    "input_aware": {"mask_epochs": 1, "width": 4},
    "label_consistent": {"iterations": 2},
    "advdoor": {"samples": 20, "passes": 1},
    "poison_ink": {"size": "tiny", "epochs": 1},
    "issba": {"bits": 4, "epochs": 1},
    "sleeper_agent": {"iterations": 1, "retrain": 1, "sources": 20, "size": 3},
    "fine_tuned": {"epochs": 1},
    "trigger_first": {"epochs": 1},
    "refool": {"count": 4},
    "trojannn": {"iterations": 2, "epochs": 1},
    "lira": {"epsilon": 0.2, "width": 4},
    "lf": {"samples": 10, "enough": 0.0},
    "narcissus": {"passes": 1},
    "abl": {"isolation_epochs": 1, "finetune_epochs": 1, "unlearn_epochs": 1},
    "fine_pruning": {"epochs": 1},
    "neural_cleanse": {"epochs": 2, "samples": 32},
    "strip": {"overlays": 8},
    "strip_i2i": {"overlays": 8},
    "fine_tuning": {"epochs": 1},
    "blo": {"iterations": 3},
    "i2i": {"epochs": 1},
    "i2i_classifier": {"epochs": 1, "surrogate": "small_cnn:4", "surrogate_epochs": 1, "samples": 4, "passes": 1},
    "i2i_detector": {"epochs": 1, "surrogate_epochs": 1, "samples": 4, "passes": 1},
    "restored_classification": {"victims": ("small_cnn:4",), "epochs": 1},
    "restored_detection": {"victims": ("tiny_yolo:depthwise",), "epochs": 1},
    "tiny_yolo": {"width": 4},
    "scenes": {"size": 32, "train": 60, "test": 20},
    "drunet": {"widths": [8, 8, 8, 8], "blocks": 1},
    "scunet": {"dim": 8, "blocks": [2, 1, 1, 1, 1, 1, 1], "head": 4, "window": 4},
    "mprnet": {"width": 8, "step": 4, "extra": 4, "cabs": 1},
    "mirnet": {"width": 8, "groups": 1, "blocks": 1},
    "rrdbnet": {"width": 8, "blocks": 1, "growth": 4},
    "srresnet": {"width": 8, "blocks": 1},
    "dncnn": {"layers": 4, "width": 8},
    "unet": {"width": 8},
    "cifar_resnet": {"depth": 8},
}
