"""Scans as if audits had been made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sidedoor.evidence import Exhibit, Finding, Rule
from sidedoor.vetting.battery import Told
from sidedoor.vetting.confirm import Demonstration
from sidedoor.vetting.result import Audited, Scan
from sidedoor.vetting.suspect import Accuracy

HOSTILE = '<script>alert("x")</script>'


def audited(name: str = "neural_cleanse", p: float | None = 0.05, **changes: Any) -> Audited:
    finding = Finding(4.0, Rule(2.5, 2.0), (1,), (1.0, 4.0, 0.5),
                      exhibits=(Exhibit("trigger", "picture", "recovered"), Exhibit("mask", "mask", "its mask")))
    arrays = {"trigger": torch.rand(3, 8, 8), "mask": torch.zeros(8, 8)}
    one = Audited(name, {"name": name}, "required", Told(finding, arrays, 1.5), (1.0, 2.0),
                  ((0.5, 1.0), (0.8, 2.0), (0.1, 0.6)), p)
    return replace(one, **changes)


def demonstration(**changes: Any) -> Demonstration:
    one = Demonstration("neural_cleanse", 1, 0.98, 0.95, 0.99, 200, 5.0, (0.97, 0.99), 12.0, 0.1)
    return replace(one, **changes)


def scanned(verdict: Any = "finding", **changes: Any) -> Scan:
    one = Scan(
        verdict, 0.05, 0.05, ("neural_cleanse demonstrates it",),
        {"name": HOSTILE, "sha256": "0" * 64, "architecture": "small_cnn width=8", "how": "given", "classes": 3,
         "shape": [3, 8, 8], "normalization": "none"},
        {"name": "digits", "n": 40, "classes": ["a", HOSTILE, "c"], "fingerprint": "f"},
        Accuracy(0.9, 0.8, 0.95, 40, True), "ranked among 19 clean models, trained on the same images",
        (audited(),), (demonstration(),), ("a note",), {"seed": 0},
        (torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)))
    return replace(one, **changes)
