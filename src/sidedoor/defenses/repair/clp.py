"""CLP: channel Lipschitzness pruning, a repair without any data that cuts off channels which stretch their input most.

Paper: Zheng, Tang, Li, Liu, "Data-Free Backdoor Removal Based on Channel Lipschitzness", ECCV 2022, arXiv:2208.03111.

A trigger moves the channels of a backdoor far, so that their Lipschitz constants are large: that of the convolution
times what batch normalisation multiplies by. Channels whose constant lies u standard deviations above the mean of their
layer lose weight and bias.

The release pairs a normalisation with the convolution registered before it, across residual sums in pre-activation
networks; ours with the convolution that feeds it, and leaves others out. It also divides by the root of the variance
alone, where the network adds a constant. In a layer of c channels none can lie above (c - 1) / √c standard deviations,
so the default cuts nothing below 11 channels and seldom below 20. Where none does, the
model stays as it is, which is what the method makes of it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sidedoor.algorithms.pruning.gates import prune
from sidedoor.algorithms.pruning.pairs import require_width
from sidedoor.core.logs import warn_once
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.repair._lipschitz import outlying_channels
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Run
from sidedoor.method import NonNegative
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class CLP(Repair):
    """Prune channels of unusual Lipschitz constants.

    Args:
        u: standard deviations above the mean of a layer beyond which a channel goes.
    """

    needs: ClassVar[Needs] = Needs(model="weights")
    origins: ClassVar[dict[str, str]] = {"u": "release: 3"}

    u: NonNegative = 3.0

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = run.placed(copy.deepcopy(model)).eval()
        outlying = outlying_channels(repaired, clean.shape)
        require_width([len(z) for z in outlying.values()], self.u)
        gone = {name: z > self.u for name, z in outlying.items()}
        if not any(channels.any() for channels in gone.values()):
            warn_once(f"{type(self).__name__} prunes nothing: no channel lies {self.u:g} standard deviations above the "
                      "mean of its layer")
        prune(repaired, gone, biases=True)
        return repaired
