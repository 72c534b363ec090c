"""Template consistency: an input detector that asks whether a template is found again in itself, changed a little.

Paper: none; ours, against Li, Zhong, Ma, Jiang, Xia, "Few-Shot Backdoor Attacks on Visual Object Tracking", ICLR 2022,
arXiv:2201.13178.

A backdoor of trackers moves the features of an object that carries the trigger away from those without. So a template
with the trigger is still found in itself, and hardly in what the trigger was taken from: the same view blurred, shifted
by less than a cell, or the object in another frame, where the trigger may be gone. The score needs responses alone. Any
conspicuous patch makes a template less like itself, for a clean tracker too: what that scores under the same patch
belongs beside a figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.transforms import functional

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Positive, Whole
from sidedoor.tasks.task import Task
from sidedoor.tasks.tracking import Tracking
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class TemplateConsistency(InputDetector):
    """Score a pair by how much lower the peak of the template is in changed views than in its own.

    Peaks are taken above the mean of their response. The score is 1 less the mean of the peaks in the view blurred, in
    the view shifted, and in the pair's search crop, over the peak in the view itself; at most 1.

    Args:
        sigma: of the blur, in pixels of a crop.
        shift: pixels to the right and down, wrapped around.
    """

    origins: ClassVar[dict[str, str]] = {"sigma": "ours: as wide as a cell of the trigger in the tiny tracker's crops",
                                         "shift": "ours: less than a cell of the response"}
    needs: ClassVar[Needs] = Needs(model="probabilities")
    tasks: ClassVar[tuple[type[Task], ...]] = (Tracking,)
    sign_tested_in: ClassVar[str] = "tests/defenses/test_tracking_detectors.py::test_a_template_unlike_itself_is_found"

    sigma: Positive = 2.0
    shift: Whole = 2

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from pairs to suspicion, the larger the less the template is like itself."""
        frozen = run.frozen(model)
        side = 2 * round(2 * self.sigma) + 1

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            own, search = x.chunk(2, 1)
            blurred = functional.gaussian_blur(own, [side] * 2, [self.sigma] * 2)
            shifted = own.roll((self.shift, self.shift), (2, 3))
            with run.autocast():
                itself, *others = (_peak(task.predict(frozen, torch.cat([own, view], 1)))
                                   for view in (own, blurred, shifted, search))
            return 1 - torch.stack(others).mean(0) / itself.clamp(min=1e-6)

        return detect


def _peak(response: Float[Tensor, "b r r"]) -> Float[Tensor, "b"]:
    """The highest value above the mean."""
    flat = response.float().flatten(1)
    return flat.amax(1) - flat.mean(1)
