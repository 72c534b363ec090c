"""TeCo: a black-box input detector that corrupts an input more and more and compares when its prediction changes.

Paper: Liu, Li, Wang, Hu, Ye, Jin, Wu, Xiao, "Detecting Backdoors During the Inference Stage Based on Corruption
Robustness Consistency", CVPR 2023, arXiv:2303.18191.

The paper's observation: clean images are about as robust against every kind of corruption, and stamped ones against
some kinds only. The released code applies every corruption to what the one before left, severities and kinds alike;
ours applies each to the input, as the paper says, and has eleven kinds instead of fifteen.

A trigger that survives everything never changes its prediction and scores 0, the least there is, while clean images
change theirs at different severities: on such triggers the score points the wrong way. `teco_two_sided` finds both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.consistency import Variant, answers, unchanged
from sidedoor.core import random
from sidedoor.data.base import Dataset
from sidedoor.data.corruptions import CORRUPTIONS, SEVERITIES
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, unknown
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index

ALL = tuple(CORRUPTIONS)


@dataclass(frozen=True)
class TeCo(InputDetector):
    """Score an input by the standard deviation, over corruptions, of the severity that changes its prediction.

    Args:
        corruptions: at least two, by name.

    Raises:
        ConfigError: fewer, or an unknown one.
    """

    origins: ClassVar[dict[str, str]] = {"corruptions": "ours: eleven of the paper's fifteen kinds or alike"}
    quick: ClassVar[dict[str, tuple[str, ...]]] = {"corruptions": ("brightness", "contrast", "gaussian_noise", "jpeg")}
    needs: ClassVar[Needs] = Needs(model="labels")

    corruptions: tuple[str, ...] = ALL

    def __post_init__(self) -> None:
        super().__post_init__()
        require_corruptions(self.corruptions)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to standard deviations of severities, from 0 to 2.5."""
        return robustness_spread(run.frozen(model), self.corruptions, task, run)


def robustness_spread(model: nn.Module, corruptions: Sequence[str], task: Task, run: Run) -> Detect:
    """The standard deviation of the severities at which predictions change first; 6 where one never does."""
    variants = [unchanged, *(corrupted(name, severity, run) for name in corruptions
                             for severity in range(1, SEVERITIES + 1))]

    def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
        label = answers(model, x, index, variants, task, run).argmax(2)
        kept = (label[:, 1:] == label[:, :1]).view(len(x), len(corruptions), SEVERITIES).long()
        return (1 + kept.cumprod(2).sum(2)).float().std(1, correction=0)

    return detect


def corrupted(name: str, severity: int, run: Run) -> Variant:
    """A corruption at one severity; its randomness is the same at all of them."""
    seed = random.seed_of(run.seed, f"{run.scope}{name}")
    return lambda x, index: CORRUPTIONS[name](x, index, severity, seed)


def require_corruptions(names: Sequence[str]) -> None:
    """Refuse unknown corruptions, and too few to compare.

    Raises:
        ConfigError: there are such, or so few.
    """
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    if len(names) < 2:
        raise ConfigError(f"corruptions = {names} given; expected at least two, whose severities are compared")
