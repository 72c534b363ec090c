"""Poison Ink: inked image edges, hidden by a network, a sample-specific trigger on dirty-label samples.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488.

Only data is poisoned, as its threat model says; the authors' release stamps half of every batch. The injection network
is trained on the data that is poisoned (`ImageHidingTraining`) and kept for all victims.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.attacks.poisoning._train_image_hiding import SIZES, ImageHidingNetworks, ImageHidingTraining
from sidedoor.data.base import Dataset
from sidedoor.data.pictures import PictureName
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Count, Level, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.ink import Ink, Pen, ink_of_target
from sidedoor.types import Build


@dataclass(frozen=True)
class PoisonInk(PoisoningAttack):
    """Hide inked edges in a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        ink: red, green, blue in levels, see `ink_of_message`; further targets have others, grey images brightness.
        operator, threshold, line_width, density: of the edges, see `Pen`; the threshold is in 8-bit levels. A density
            gives dark images as much of a trigger as bright ones.
        picture: one whose edges are hidden in all images, for the paper's ablation; empty: each image's own edges.
        relearn: whether a picture has a network that learned to hide it, rather than the one for images' own edges.
        strength: of the network's change to an image; the paper's is 1, others make it more or less visible.
        size: of the networks, see `SIZES`; `epochs`, `interference`, `adversarial`, `invisible` of training: see
            `ImageHidingTraining`; `network_seed`, to share them between runs of several seeds: None for the run's own.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "sample_specific"})
    version: ClassVar[int] = 2
    quick: ClassVar[dict[str, Any]] = {"size": "tiny", "epochs": 1}
    origins: ClassVar[dict[str, str]] = {
        "rate": "paper: 10 %, section V-A", "ink": "paper: section V-A", "operator": "paper: section V-A",
        "threshold": "release: 28 levels", "line_width": "ours: edges as the operator finds them",
        "density": "ours: 0, the threshold decides, as in the release", "picture": "paper: each image's own edges",
        "relearn": "paper: a network of its own in the ablation of the edge structure",
        "strength": "paper: 1, by Eq. 4", "size": "paper: Tables II and III",
        "epochs": "paper: 200, section V-A", "interference": "paper: each operator with probability 1/2",
        "adversarial": "release: 0.01", "invisible": "ours: the release's order", "network_seed": "ours: the run's own",
    }

    ink: tuple[Level, Level, Level] = (80, 160, 80)
    operator: str = "sobel"
    threshold: NonNegative = 28.0
    line_width: Count = 1
    density: Annotated[Share, LATER] = 0.0
    picture: PictureName = ""
    relearn: Annotated[bool, LATER] = True
    strength: Annotated[Positive, LATER] = 1.0
    size: Literal["paper", "small", "tiny"] = "paper"
    epochs: Count = 200
    interference: Share = 0.5
    adversarial: NonNegative = 0.01
    invisible: NonNegative = 3.0
    network_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pen()

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        network, pen = self.networks(train, run).injection, self.pen()
        return tuple(Door(Ink(network, ink_of_target(self.ink, k, train.shape[0]), pen, self.strength), goal)
                     for k, goal in enumerate(self.goal.parts()))

    def pen(self) -> Pen:
        """How edges are drawn."""
        return Pen(self.operator, self.threshold / 255, self.line_width, self.picture, self.density)

    def on_shelf(self, seed: int) -> Any:
        training, pen = self._training()
        return training.deciding(pen, seed if self.network_seed is None else self.network_seed)

    def _training(self) -> tuple[ImageHidingTraining, Pen]:
        training = ImageHidingTraining(**SIZES[self.size], epochs=self.epochs, interference=self.interference,
                                       adversarial=self.adversarial, invisible=self.invisible)
        return training, self.pen() if self.relearn else replace(self.pen(), picture="")

    def networks(self, train: Dataset, run: Run) -> ImageHidingNetworks:
        """The injection network and the extractor, from the run's shelf if it has them."""
        training, pen = self._training()
        return training.train_or_load(train, pen, run.of_seed(self.network_seed))
