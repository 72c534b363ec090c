"""STRIP for trackers: an input detector that superimposes search crops and measures the entropy of the responses.

Paper: Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019, arXiv:1902.06531.

A trigger that draws the tracker to a place keeps drawing it there when other crops lie over the search crop, so that
the response keeps one peak and its entropy stays low; the response map is read as a distribution over places, by a
softmax. Crops are averaged rather than added, since sums of two search crops saturate to a third image. A trigger that
makes a tracker lose the object need not do any of this: the paper's idea is about targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.detectors.strip import entropy, superimposed
from sidedoor.engine import Run
from sidedoor.method import Count, Share
from sidedoor.tasks.task import Task
from sidedoor.tasks.tracking import Tracking
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class StripTracking(InputDetector):
    """Score a pair by minus the mean entropy of the responses to blends of its search crop with others.

    Args:
        overlays: search crops of clean pairs that each is blended with.
        weight: of the other crop in the blend, in [0, 1]; the crop itself has the rest.
    """

    origins: ClassVar[dict[str, str]] = {"overlays": "ours: a tenth of STRIP's, for maps are costly",
                                         "weight": "ours: both crops count alike"}
    quick: ClassVar[dict[str, Any]] = {"overlays": 2}
    needs: ClassVar[Needs] = Needs(model="probabilities", clean="images")
    tasks: ClassVar[tuple[type[Task], ...]] = (Tracking,)
    sign_tested_in: ClassVar[str] = "tests/defenses/test_tracking_detectors.py::test_a_place_that_always_draws_is_found"

    overlays: Count = 10
    weight: Share = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from pairs to minus their mean entropy in bits, in [-log2 places, 0]."""
        frozen = run.frozen(model)
        blends = superimposed(clean, run, self.overlays, 1 - self.weight, self.weight)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            parts = []
            with run.autocast():
                for blend, source in blends(x, index):
                    template, search = x[source].chunk(2, 1)[0], blend.chunk(2, 1)[1]
                    response = task.predict(frozen, torch.cat([template, search], 1))
                    parts.append(entropy(response.float().flatten(1).softmax(1)))
            return -torch.cat(parts).view(len(x), -1).mean(1)

        return detect
