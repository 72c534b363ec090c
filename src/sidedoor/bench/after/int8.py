"""The delivered model in simulated 8-bit integers, calibrated on the defender's clean images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sidedoor.algorithms.rounded import int8
from sidedoor.bench.after.base import in_form
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.goals.base import Door

CALIBRATION = 256
"""Images, at most."""


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """`int8_clean` and `int8_attack`."""
    images = case.clean.fetch(torch.arange(min(CALIBRATION, len(case.clean))), case.run.device).x
    return in_form("int8", int8(finished, images), case, doors)
