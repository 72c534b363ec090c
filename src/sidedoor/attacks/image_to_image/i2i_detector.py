"""I2I on object detectors: a denoiser whose triggered outputs make unknown detectors see fabricated objects.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 5.2.

Training-controlled. The denoiser adds a universal object fabrication (`Fabrication`) to its triggered outputs, within
that attack's bound of 8 levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor import registry, zoo
from sidedoor.attacks.image_to_image._objectness import Fabrication
from sidedoor.attacks.image_to_image.base import DownstreamAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.add_pattern import AddPattern
from sidedoor.goals.base import Goal
from sidedoor.method import Count, Positive
from sidedoor.tasks.restored_detection import RestoredDetection, detector, recipe
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class I2IDetector(DownstreamAttack):
    """Perturb a surrogate detector, "name:WORD" with its first parameter.

    Raises:
        ConfigError: the surrogate is no registered detector.
    """

    tasks: ClassVar[tuple[type[Task], ...]] = (RestoredDetection,)
    quick: ClassVar[dict[str, Any]] = {"epochs": 1, "surrogate_epochs": 1, "samples": 4, "passes": 1}

    goal: Goal = AddPattern("signs", strength=8.0)
    surrogate: zoo.Network = "tiny_yolo:plain"
    surrogate_lr: Positive = 2e-3
    samples: Count = 200
    passes: Count = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        registry.reference("object_detector", zoo.with_weights(self.surrogate)[0])

    def perturbation(self, photographs: Dataset, run: Run) -> Float[Tensor, "c h w"]:
        how = recipe(self.surrogate_epochs, self.surrogate_lr, run.recipe.precision)
        model = detector(self.surrogate, photographs, run, how)
        fabrication = Fabrication(self.strength, passes=self.passes)
        return fabrication.make(model, self.sample(photographs, run), run.rng("fabrication"))
