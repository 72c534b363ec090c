"""What every defence is: a stage of a model's life, one verb, and what it declares to need and is therefore given.

Higher scores are more suspicious everywhere. Thresholds belong to the evaluator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from sidedoor.core import restricted
from sidedoor.data.base import Dataset
from sidedoor.data.restricted import Absent, Unlabelled
from sidedoor.method import Method
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Stage:
    """A stage at which a model is defended.

    Args:
        name: of the stage.
        verb: the method that members implement.
        words: what they do.
        place: in a pipeline, in which places must not fall.
        several: whether a pipeline may have several of them.
        on_training_data: whether they get the training data, so that they mean nothing where the attacker trains.
        compared: whether their scores are compared with those of clean models.
    """

    name: str
    verb: str
    words: str
    place: int
    several: bool = False
    on_training_data: bool = False
    compared: bool = False

    def __str__(self) -> str:
        return self.name


ModelAccess = Literal["none", "labels", "probabilities", "gradients", "weights"]
CleanAccess = Literal["none", "images", "labelled"]
MODEL: tuple[ModelAccess, ...] = ("none", "labels", "probabilities", "gradients", "weights")
"""How much of the model somebody may have, from least to most."""
CLEAN: tuple[CleanAccess, ...] = ("none", "images", "labelled")
"""How much of the defender's clean data, from least to most."""


@dataclass(frozen=True)
class Needs:
    """What a method needs and is given; what it does not declare it cannot reach.

    Args:
        model: of the model: "labels" or "probabilities" of inputs, "gradients" at inputs, or the "weights".
        clean: of the defender's clean data: "images", or "labelled" ones.
        train: the training data, of unknown origin and sealed.
        shadows: clean and backdoored models that the defender trains on the clean data.
    """

    model: ModelAccess = "none"
    clean: CleanAccess = "none"
    train: bool = False
    shadows: bool = False

    def __str__(self) -> str:
        named = {"labels": "the model's labels", "probabilities": "the model's probabilities",
                 "gradients": "gradients at the model's input", "weights": "the model",
                 "images": "clean images", "labelled": "labelled clean images"}
        parts = [named[access] for access in (self.model, self.clean) if access != "none"]
        parts += ["the training data"] * self.train + ["shadow models"] * self.shadows
        return ", ".join(parts) or "inputs only"

    def model_for(self, model: nn.Module, task: Task) -> nn.Module:
        """A model as it is handed over, in evaluation mode."""
        if self.model == "weights":
            return model.eval()
        if self.model in ("labels", "probabilities") and task.output != "labels":
            return restricted.outputs_of(model.eval(), f"the model's {self.model}")
        cut: dict[str, Callable[[nn.Module], nn.Module]] = {
            "none": restricted.nothing_of, "labels": restricted.labels_of,
            "probabilities": restricted.probabilities_of, "gradients": restricted.gradients_of}
        return cut[self.model](model.eval())

    def clean_for(self, clean: Dataset) -> Dataset:
        """The defender's clean data as they are handed over."""
        if self.clean == "labelled":
            return clean
        return Unlabelled(clean) if self.clean == "images" else Absent(clean)


@dataclass(frozen=True)
class Defense(Method):
    """A defence at one stage of a model's life.

    Attributes:
        stage: of a model's life.
        needs: what it is given.
        tasks: the kinds of task that it can defend.
        because: why not others, for messages.
        inspects: whether it looks at a model trained on the data (`algorithms.inspection`), which all that do share.
        sign_tested_in: the test, "tests/defenses/test_x.py::test_name", that higher scores are more suspicious, of a
            filter, audit or input detector whose contract cannot show it on its small data.
    """

    stage: ClassVar[Stage]
    needs: ClassVar[Needs]
    tasks: ClassVar[tuple[type[Task], ...]] = (Classification,)
    because: ClassVar[str] = ""
    inspects: ClassVar[bool] = False
    sign_tested_in: ClassVar[str] = ""
