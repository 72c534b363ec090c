"""IBD-PSC: an input detector that amplifies batch normalisation and watches whether the prediction stays confident.

Paper: Hou, Feng, Hua, Luo, Zhang, Li, "IBD-PSC: Input-level Backdoor Detection via Parameter-oriented Scaling
Consistency", ICML 2024, arXiv:2405.09786.

Scale and shift of the last k batch normalisations are multiplied by a factor. k grows until clean images are mostly
misclassified, and the models from that k on are asked for the probability of the first prediction. The released code
amplifies one layer more than it chose, and fails where no k is enough or too few layers are left.

Ours also applies to networks of few layers: where all of them amplified leave clean accuracy high, the factor is raised
by half until it falls; models that lack a further layer raise it by a tenth each. Where no factor is enough, the
premise does not hold, and the method is not applicable. On small networks it may point the wrong way: a blended trigger
in the digits scored below clean images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index

LARGEST = 100.0
"""Factor beyond which amplification is given up."""
RAISING = 1.5
STEP = 0.1


@dataclass(frozen=True)
class IBDPSC(InputDetector):
    """Score an input by the mean probability of its prediction in models of amplified batch normalisation.

    Args:
        factor: of scales and shifts, above 1.
        error: share of clean images that the first amplified model must misclassify.
        models: amplified models that are asked.

    Raises:
        ConfigError: `factor` is not above 1.
    """

    origins: ClassVar[dict[str, str]] = {"factor": "paper", "error": "paper", "models": "paper"}
    quick: ClassVar[dict[str, int]] = {"models": 3}
    needs: ClassVar[Needs] = Needs(model="weights", clean="labelled")

    factor: Positive = 1.5
    error: Share = 0.6
    models: Count = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor <= 1:
            raise ConfigError(f"factor = {self.factor} given; expected above 1")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to mean probabilities.

        Raises:
            NotApplicable: no batch normalisation, or clean images are classified well whatever the factor.
        """
        frozen = run.frozen(model)
        amplified_models = [amplified(frozen, *each) for each in self.amplifications(frozen, clean, task, run)]

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                label = task.predict(frozen, x).argmax(1, keepdim=True)
                found = [task.predict(each, x).gather(1, label)[:, 0] for each in amplified_models]
            return torch.stack(found).mean(0)

        return detect

    def amplifications(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> list[tuple[int, float]]:
        """How many layers are amplified in each of the models, and by what."""
        layers = len(batch_norms(model))
        if not layers:
            raise NotApplicable(f"{type(model).__name__} has no batch normalisation to amplify")
        misclassified = 0.0
        for count, factor in self.attempts(layers):
            misclassified = error_of(amplified(model, count, factor), clean, task, run)
            if misclassified > self.error:
                return [(min(count + i, layers), factor * (1 + STEP * max(0, count + i - layers)))
                        for i in range(self.models)]
        raise NotApplicable(f"clean images are misclassified at a rate of {misclassified:.2f} with all {layers} batch "
                            f"normalisations amplified by {factor:.3g}; expected more than {self.error:g}")

    def attempts(self, layers: int) -> Iterator[tuple[int, float]]:
        """Numbers of layers and factors in the order in which they are tried."""
        yield from ((count, self.factor) for count in range(1, layers + 1))
        factor = self.factor * RAISING
        while factor <= LARGEST:
            yield layers, factor
            factor *= RAISING


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations that have a scale and a shift, in order of registration."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]


def amplified(model: nn.Module, count: int, factor: float) -> nn.Module:
    """A copy whose last batch normalisations are multiplied by a factor."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        for layer in batch_norms(made)[-count:]:
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)
    return made


def error_of(model: nn.Module, clean: Dataset, task: Task, run: Run) -> float:
    """Share of the clean images that a model misclassifies."""
    def rows(batch: Batch) -> dict[str, Tensor]:
        return {"right": task.agree(task.predict(model, batch.x), batch.y)}

    return 1 - run.per_sample(model, clean, rows)["right"].mean().item()
