"""I2I on classifiers: a denoiser whose triggered outputs mislead unknown classifiers downstream.

Paper: Jiang, Li, He, Zhang, Xu, Zhang, Lu, "Backdoor Attacks against Image-to-Image Networks", 2024, arXiv:2407.10445,
section 5.1 and Algorithm 2, which leaves the bound open.

Training-controlled. The denoiser adds a universal perturbation of a surrogate classifier to its triggered outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sidedoor import zoo
from sidedoor.algorithms.adversarial.universal import Universal
from sidedoor.attacks.image_to_image.base import DownstreamAttack
from sidedoor.data.base import Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.restored_classification import RestoredClassification, classifier, in_full
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class I2IClassifier(DownstreamAttack):
    """Perturb a surrogate classifier, "name:NUMBER" with its first parameter.

    Args:
        inner: the attack that moves one image across the surrogate's boundary.

    Raises:
        ConfigError: the surrogate is no registered classifier.
    """

    tasks: ClassVar[tuple[type[Task], ...]] = (RestoredClassification,)
    quick: ClassVar[dict[str, Any]] = {
        "epochs": 1, "surrogate": "small_cnn:4", "surrogate_epochs": 1, "samples": 4, "passes": 1,
    }
    origins: ClassVar[dict[str, str]] = DownstreamAttack.origins | {"inner": "paper: DeepFool or PGD, section 5.1"}

    surrogate: zoo.Network = "resnet18:16"
    inner: Literal["deepfool", "pgd"] = "deepfool"

    def __post_init__(self) -> None:
        super().__post_init__()
        in_full(self.surrogate)

    def perturbation(self, photographs: Dataset, run: Run) -> Float[Tensor, "c h w"]:
        recipe = Recipe(epochs=self.surrogate_epochs, lr=self.surrogate_lr, batch=64,
                        precision=run.recipe.precision)
        model = classifier(self.surrogate, photographs, run, recipe)
        universal = Universal(self.strength, passes=self.passes, inner=self.inner)
        return universal.make(model, self.sample(photographs, run))
