"""FCT: a data filter by how much a row's features change when the image is rotated and moved.

Paper: Chen, Wu, Wang, "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS 2022.

The first step of D-ST and D-BR, as scores of the rows instead of a split; see `algorithms/sensitivity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.sensitivity import Sensitivity
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.engine import Run
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class FCTFilter(DataFilter):
    """Score rows by the change of their features under transformations, in a network trained for a short time.

    Two `epochs` are hundreds of steps on the paper's 50,000 rows. Where they are a few dozen raise them: a network that
    has not met the trigger yet does not change with it. A trigger all over the image may change less than anything else
    under transformations, and its rows then score lowest.

    Args:
        epochs: of ordinary training, without augmentation.
        apart_epochs: in which class centres are driven apart.
        lr: of both.
        degrees: largest rotation, either way.
        draws: transformations of each image.

    Raises:
        NotApplicable: a network without a head.
    """

    origins: ClassVar[dict[str, str]] = {
        "epochs": "release", "apart_epochs": "release", "lr": "release", "degrees": "release",
        "draws": "ours: one in the release, which is noisy",
    }
    sign_tested_in: ClassVar[str] = "tests/defenses/test_fct_filter.py::test_features_of_poisoned_rows_change_most"
    quick: ClassVar[dict[str, Any]] = {"apart_epochs": 2, "draws": 2}

    epochs: Count = 2
    apart_epochs: Count = 10
    lr: Positive = 0.01
    degrees: NonNegative = 180.0
    draws: Count = 4

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        """The mean squared change."""
        how = Sensitivity(self.epochs, self.apart_epochs, self.lr, self.degrees, self.draws)
        return how.of(train, task, build, run)
