"""TED++: an input detector that follows, layer by layer, how near an input is to clean samples of its prediction.

Papers: Mo, Zhang, Zhang, Luo, Sun, Hu, Gao, Xiang, "Robust Backdoor Detection for Deep Learning via Topological
Evolution Dynamics", IEEE Symposium on Security and Privacy 2024, arXiv:2312.02673; Le et al., "TED++", 2025,
arXiv:2510.14299.

At every layer the nearest clean sample of the predicted class has a rank among all clean samples by distance. A clean
input has a low one throughout; the features of a stamped input resemble its own class first and the target's at the
end. TED++ gives the worst rank to inputs that lie outside the neighbourhood of that nearest sample. Ours takes the
outputs of stages, averaged over space, and scores ranks by the Mahalanobis distance of their logarithms, in place of an
outlier detector on principal components; ranks of the clean samples themselves leave the sample out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.features.class_statistics import class_statistics
from sidedoor.algorithms.features.cut import recorded, stages
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index


@dataclass(frozen=True)
class TED(InputDetector):
    """Score an input by how unusual the ranks of its predicted class are over the layers.

    Args:
        neighbourhood: share of the samples of its class that lie within the radius of a clean sample.
    """

    origins: ClassVar[dict[str, str]] = {"neighbourhood": "release: of TED++"}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    neighbourhood: Share = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to squared Mahalanobis distances.

        Raises:
            NotApplicable: the network has no stage that gives maps.
        """
        frozen = run.frozen(model)
        names = stages(frozen, clean.shape)

        def rows(batch: Batch) -> dict[str, Tensor]:
            vectors, output = looked(frozen, names, batch.x)
            return vectors | {"label": output.argmax(1)}

        table = run.per_sample(frozen, clean, rows)
        labels = clean.targets.to(run.device)
        layers = {name: Layer.of(table[name].to(run.device), labels, self.neighbourhood) for name in names}
        own = torch.stack([layers[name].ranks(layers[name].vectors, table["label"].long().to(run.device), True)
                           for name in names], 1)
        statistics = class_statistics(own.cpu(), torch.zeros(len(own), dtype=torch.int64), 1)

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                vectors, output = looked(frozen, names, x)
            found = torch.stack([layers[name].ranks(vectors[name].float(), output.argmax(1)) for name in names], 1)
            return statistics.distances(found.cpu())[:, 0].float().to(x.device)

        return detect


def looked(model: nn.Module, names: list[str], x: Images) -> tuple[dict[str, Tensor], Float[Tensor, "b k"]]:
    """The outputs of modules, averaged over space, and of the model, by one forward pass."""
    with recorded(model, names) as seen:
        output: Tensor = model(x)
    return {name: maps.mean((2, 3)) for name, maps in seen.items()}, output


class Layer(NamedTuple):
    """Clean samples at one layer.

    Args:
        radii: distance of each to the furthest of the nearest samples of its class.
    """

    vectors: Float[Tensor, "n d"]
    labels: Int[Tensor, "n"]
    radii: Float[Tensor, "n"]

    @staticmethod
    def of(vectors: Float[Tensor, "n d"], labels: Int[Tensor, "n"], neighbourhood: float) -> Layer:
        """With radii that hold a share of the other samples of each class, at least one; 0 for a single sample."""
        distance = distances(vectors, vectors).fill_diagonal_(torch.inf)
        distance.masked_fill_(labels[:, None] != labels, torch.inf)
        ordered = distance.sort(1).values
        others = (labels[:, None] == labels).sum(1) - 1
        place = (others * neighbourhood).ceil().long().clamp(min=1) - 1
        radii = ordered.gather(1, place[:, None])[:, 0]
        return Layer(vectors, labels, torch.where(others > 0, radii, 0.0))

    def ranks(self, vectors: Float[Tensor, "b d"], predicted: Int[Tensor, "b"],
              themselves: bool = False) -> Float[Tensor, "b"]:
        """Logarithms of one more than the samples that are nearer than the nearest of the predicted class.

        Args:
            themselves: the vectors are those of the samples, each of which leaves itself out.
        """
        distance = distances(vectors, self.vectors)
        if themselves:
            distance.fill_diagonal_(torch.inf)
        nearest, place = distance.masked_fill(predicted[:, None] != self.labels, torch.inf).min(1)
        rank = (distance < nearest[:, None]).sum(1)
        return torch.where(nearest <= self.radii[place], rank, len(self.labels)).float().log1p()


def distances(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"]) -> Float[Tensor, "b n"]:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
