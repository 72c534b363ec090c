"""Spectral signatures: a data filter that finds outliers along the top singular vector of a class's features.

Paper: Tran, Li, Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018, arXiv:1811.00636.

The paper compares scores within one class; ours standardises the squared correlations of Algorithm 1 within each class
by the median and the median absolute deviation, so that all classes can be ranked together. Removing the rows with the
highest scores and training again are left to the caller.

The paper's Algorithm 1 centres features on their class before it projects them on the main direction. The authors' code
(MadryLab/backdoor_data_poisoning) finds that direction of the centred features too, but projects the features as they
are, so that scores also say how far a row lies from the origin; `projection = "uncentred"` does so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.features.collect import collect
from sidedoor.algorithms.inspection import inspection_model
from sidedoor.data.base import Dataset
from sidedoor.defenses.filters.base import DataFilter, standardised
from sidedoor.engine import Run
from sidedoor.method import LATER
from sidedoor.tasks.task import Task
from sidedoor.types import Build


@dataclass(frozen=True)
class SpectralSignatures(DataFilter):
    """Score rows by how far the features of a model trained on them lie along the main direction of their class.

    It finds poison that is a minority of its observed class: at half of the class, poisoned and clean rows lie equally
    far from the centre.

    Args:
        projection: what is projected on the main direction of a class: "centred" features, as in the paper, or
            "uncentred" ones, as in the authors' code.
    """

    inspects: ClassVar[bool] = True
    origins: ClassVar[dict[str, str]] = {"projection": "paper: Algorithm 1, line 7"}

    projection: Annotated[Literal["centred", "uncentred"], LATER] = "centred"

    def score(self, train: Dataset, task: Task, build: Build, run: Run) -> Float[Tensor, "n"]:
        features = collect(inspection_model(train, task, build, run), train, run).features
        scores = torch.empty(len(train), dtype=torch.float64)
        for label in torch.unique(train.targets):
            members = train.targets == label
            scores[members] = signature(features[members].double(), self.projection == "centred")
        return standardised(scores, train.targets).float()


def signature(features: Float[Tensor, "k d"], centring: bool = True) -> Float[Tensor, "k"]:
    """Squared projection of each feature vector on the top right singular vector of the centred ones.

    Args:
        centring: whether the vectors that are projected are the centred ones (Algorithm 1, line 7).
    """
    centred = features - features.mean(0)
    top: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]  # eigenvalues ascend
    return ((centred if centring else features) @ top).square()
