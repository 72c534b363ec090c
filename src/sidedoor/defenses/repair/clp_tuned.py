"""CLP with clean samples: channel Lipschitzness pruning whose strength accuracy on clean samples chooses.

Paper: Zheng, Tang, Li, Liu, "Data-Free Backdoor Removal Based on Channel Lipschitzness", ECCV 2022, arXiv:2208.03111.

The paper needs no data and fixes u (`clp`); its figures and those of others also sweep u on test data. Ours takes the
smallest u that keeps accuracy on the defender's samples.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.algorithms.pruning.gates import prune
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair._lipschitz import outlying_channels
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Run
from sidedoor.method import NonNegative, Share
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class CLPTuned(TunedRepair):
    """Prune channels by falling Lipschitz constants until clean accuracy suffers.

    Args:
        u: that are tried, standard deviations above the mean of a layer beyond which a channel goes.
    """

    origins: ClassVar[dict[str, str]] = {"largest_drop": "ours: the release chooses on test data",
                                         "u": "ours: a fine grid from where few channels go"}

    largest_drop: Share = 0.05
    u: tuple[NonNegative, ...] = tuple(n / 5 for n in range(25, 1, -1))

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are shares of the channels that are pruned; thresholds that prune the same are one."""
        pruned = run.placed(copy.deepcopy(model)).eval()
        outlying = outlying_channels(pruned, clean.shape)
        count, before = sum(len(z) for z in outlying.values()), 0
        yield 0.0, pruned
        for u in sorted(self.u, reverse=True):
            gone = {name: z > u for name, z in outlying.items()}
            cut = sum(int(channels.sum()) for channels in gone.values())
            if cut > before:
                prune(pruned, gone, biases=True)
                yield cut / count, pruned
            before = cut
