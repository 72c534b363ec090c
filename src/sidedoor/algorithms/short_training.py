"""Training for a number of steps on few samples.

Published repairs state epochs over thousands of samples. On two hundred an epoch is a step or two, and the same number
of epochs does nothing, so repairs state steps here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sidedoor.data.base import Dataset
from sidedoor.engine import Recipe, Run

PARTS = 4
"""Batches an epoch, at least: batch statistics of all samples at once never vary."""


def for_steps(run: Run, data: Dataset, steps: int, batch: int, **changes: Any) -> Recipe:
    """The run's recipe for `steps` steps on a data set, rounded up to whole epochs, without patience.

    Args:
        batch: samples a step, at most; fewer where the data have fewer than four times as many.
        changes: of the recipe.
    """
    size = max(2, min(batch, len(data) // PARTS))
    whole, rest = divmod(len(data), size)
    epochs = math.ceil(steps / max(whole + (rest >= 2 * run.fabric.world_size), 1))
    return replace(run.recipe, **{"patience": 0} | changes, epochs=epochs, batch=size)
