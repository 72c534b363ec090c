"""Filtered data as if a network had been trained, and data with a patch in some rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

import sidedoor as sd
from sidedoor import zoo
from sidedoor.data.base import ArrayDataset
from sidedoor.vetting.filter.duplicates import Conflicts
from sidedoor.vetting.filter.result import Filtered, Judged, Pictures, Rows, Suspected
from sidedoor.vetting.filter.suspicion import Scored

HOSTILE = '<script>alert("x")</script>'
FILES = ("a/0.png", f"{HOSTILE}\n\x1b[31m.png", "=1+1.png", "c/3.png", "c/4.png", "c/5.png")


def suspected(**changes: Any) -> Suspected:
    one = Suspected(1, (1, 2), "replace", 9, 0.95, 0.91, 0.97, 256, 0.1, 0.0, 0.02, 0.0)
    return replace(one, **changes)


def filtered(verdict: Any = "finding", **changes: Any) -> Filtered:
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    marked = torch.zeros(6, dtype=torch.bool)
    marked[[1, 2]] = verdict in ("finding", "suspicious")
    scores = torch.tensor([0.1, 0.9, 0.8, 0.0, 0.2, 0.3])
    found = (suspected(),) if verdict == "finding" else (suspected(after=0.9),) if verdict == "suspicious" else ()
    one = Filtered(
        verdict, ("too few images",), {"name": HOSTILE, "n": 6, "classes": ["a", HOSTILE, "c"], "per_class": [1, 2, 3],
                                       "shape": [3, 8, 8], "fingerprint": "f", "clean": 0},
        {"architecture": {"name": "small_cnn"}}, 0.99,
        (Scored("spectre", scores, 1.0), Scored("flare", None, 0.1, "no batch normalisation")),
        (Judged(0, 1, reason="fewer than 20 images"), Judged(1, 2, 0.3, {"replace": 0.9}), Judged(2, 3, 0.1, {})),
        found,
        Conflicts(((0, 1),), ((2, 3),), True, False), Rows(FILES, labels, scores, marked), (("b/x.png", HOSTILE),),
        ("a note",), {"seed": 0},
        (Pictures(1, (1, 2), *(torch.rand(2, 3, 8, 8) for _ in range(4)), torch.rand(3, 8, 8)),) if found else ())
    return replace(one, **changes)


def stripes(poisoned: int = 0, rows: int = 240) -> sd.Dataset:
    """Stripes of four classes; the first rows of other classes than 0 get a white square and the label 0."""
    train = zoo.load({"name": "toy", "classes": 4, "train": rows, "test": 4}).train
    images, labels = train.rows(torch.arange(rows)).clone(), train.targets.clone()
    chosen = torch.nonzero(labels != 0)[:poisoned, 0]
    images[chosen, :, -3:, -3:] = 255
    labels[chosen] = 0
    return ArrayDataset(images, labels, 4, "stripes")
