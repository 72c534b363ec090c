"""STRIP for image-to-image networks: an input detector that compares outputs of superimposed images.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 6.5, after Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019,
arXiv:1902.06531.

A trigger that survives the superimposition keeps the output fixed. The paper compares outputs by LPIPS; ours uses the
task's own distance. The paper leaves the weights of the sum open; the defaults add and saturate, as STRIP's released
code does, and so noise outside the range of images is clipped. Weights of 0.5 halve the trigger: where that disables
the backdoor, the output of a triggered input differs more from those of its superimpositions than a clean one's does,
and the score points the wrong way.
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
from sidedoor.defenses.detectors.strip import superimposed
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative
from sidedoor.tasks._image_output import Imaging
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class StripI2I(InputDetector):
    """Score an input by minus the mean distance between its output and those of its superimpositions.

    Args:
        overlays: clean inputs that each input is superimposed with.
        input_weight: of the input in the sum.
        overlay_weight: of the clean input in the sum.
    """

    origins: ClassVar[dict[str, str]] = {
        "overlays": "paper: section 6.5", "input_weight": "ours: open in the paper; as STRIP's released code does",
        "overlay_weight": "ours: open in the paper; as STRIP's released code does",
    }
    quick: ClassVar[dict[str, Any]] = {"overlays": 8}
    version: ClassVar[int] = 2  # half of the clean samples fit it, the others set its thresholds
    needs: ClassVar[Needs] = Needs(model="probabilities", clean="images")
    tasks: ClassVar[tuple[type[Task], ...]] = (Imaging,)

    overlays: Count = 400
    input_weight: NonNegative = 1.0
    overlay_weight: NonNegative = 1.0

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        frozen = run.frozen(model)
        blends = superimposed(clean, run, self.overlays, self.input_weight, self.overlay_weight)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                alone = task.predict(frozen, x)
                parts = [task.distance(task.predict(frozen, blend), alone[source])
                         for blend, source in blends(x, index)]
            return -torch.cat(parts).view(len(x), -1).mean(1)

        return detect
