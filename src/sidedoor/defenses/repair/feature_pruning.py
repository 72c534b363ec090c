"""Feature pruning: a repair of trackers that prunes the channels of their features that clean crops leave dormant.

Paper: after Liu, Dolan-Gavitt, Garg, "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks",
RAID 2018, arXiv:1805.12185, as Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR
2022, arXiv:2201.13178, try it on trackers.

A tracker has no head whose inputs could be cut off: its features are compared as they are. So ours sets the last layer
of its features to zero, channel by channel, in templates and search crops alike; a channel that is zero in both says
nothing. Dormancy is the mean absolute activation over both, since features need not end in a ReLU. Nothing is
fine-tuned afterwards: `fine_tuning` may come next in a pipeline.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidedoor.algorithms.pruning.gates import prune
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import TunedRepair
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.method import Count, Share
from sidedoor.models.trackers.base import Tracker, tracker_in
from sidedoor.tasks.task import Task
from sidedoor.tasks.tracking import Tracking
from sidedoor.types import Batch


@dataclass(frozen=True)
class FeaturePruning(TunedRepair):
    """Prune dormant channels of the features until the overlap on clean pairs suffers.

    Args:
        most: share of the channels that is pruned at most; at least one channel is kept.
        grid: strengths that are tried, besides none, in equal steps up to `most`.
    """

    origins: ClassVar[dict[str, str]] = {
        "largest_drop": "ours: open in the paper; a tenth of the overlap", "most": "ours: the paper goes on until "
        "tracking fails", "grid": "ours: steps of a tenth"}
    quick: ClassVar[dict[str, Any]] = {"grid": 3}
    tasks: ClassVar[tuple[type[Task], ...]] = (Tracking,)

    most: Share = 0.9
    grid: Count = 9

    def path(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Iterator[tuple[float, nn.Module]]:
        """Strengths are shares of the channels that are pruned, the most dormant first."""
        pruned = run.placed(copy.deepcopy(model)).eval()
        tracker = tracker_in(pruned)
        order = activations(tracker, clean, run).argsort(stable=True)
        name = _last_layer(tracker, len(order))
        yield 0.0, pruned
        for step in range(1, self.grid + 1):
            gone = torch.zeros(len(order), dtype=torch.bool)
            gone[order[: min(round(len(order) * self.most * step / self.grid), len(order) - 1)]] = True
            prune(tracker, {name: gone.to(run.device)}, biases=True)
            yield gone.float().mean().item(), pruned


def activations(tracker: Tracker, clean: Dataset, run: Run) -> Float[Tensor, "d"]:
    """Mean absolute value of each channel of the features of templates and search crops."""
    def rows(batch: Batch) -> dict[str, Tensor]:
        template, search = batch.x.chunk(2, 1)
        parts = (tracker.features(tracker.template(template)), tracker.features(search))
        return {"activation": torch.stack([part.abs().mean((2, 3)) for part in parts]).mean(0)}

    return run.per_sample(tracker, clean, rows)["activation"].mean(0)


def _last_layer(tracker: Tracker, channels: int) -> str:
    """The name of the last layer of the features.

    Raises:
        NotApplicable: the last convolution or batch normalisation has not as many channels as the features.
    """
    layers = {name: layer for name, layer in tracker.named_modules()
              if isinstance(layer, nn.Conv2d) or (isinstance(layer, _BatchNorm) and layer.affine)}
    last = next(reversed(layers), None)
    if last is not None and len(layers[last].get_parameter("weight")) == channels:
        return str(last)
    raise NotApplicable(f"{type(tracker).__name__} has no convolution or normalisation last with the {channels} "
                        "channels of its features")
