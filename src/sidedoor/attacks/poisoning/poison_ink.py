"""The edges of each image, coloured with ink and hidden in the image by a network, on mislabelled samples.

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488.

Only data is poisoned, as its threat model says; the authors' release stamps half of every batch. The hiding network is
trained on the data that is poisoned (`sidedoor.hiding`) and kept for all victims.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning._train_image_hiding import SIZES, Hiding, Pair
from sidedoor.backdoor import select
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Count, Level, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.ink import Ink, Pen, mixed
from sidedoor.types import Build


@dataclass(frozen=True)
class PoisonInk(Attack):
    """Hide inked edges in a share of the eligible samples and change their labels.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        ink: red, green and blue in 8-bit levels, such as `coded(message)`; further targets have other inks, grey images
            their brightness.
        operator, threshold, line_width, density: of the edges, see `Pen`; the threshold is in 8-bit levels. A density
            gives dark images as much of a trigger as bright ones.
        picture: one whose edges are hidden in all images, for the paper's ablation; empty: each image's own edges.
        relearn: whether a picture has a network that learned to hide it, rather than the one for images' own edges.
        strength: of the change that the network makes to an image. The paper has none, which is 1; other values give
            triggers of several visibilities from one network.
        size: of the networks, see `SIZES`; `epochs`, `interference`, `adversarial`, `invisible` of training: see
            `Hiding`; `network_seed`, to share them between runs of several seeds: None for the run's own.
    """

    version: ClassVar[int] = 2

    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.1
    ink: tuple[Level, Level, Level] = (80, 160, 80)
    operator: str = "sobel"
    threshold: NonNegative = 28.0
    line_width: Count = 1
    density: Annotated[Share, LATER] = 0.0
    picture: str = ""
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

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        network, pen = self.networks(train, run).injection, self.pen()
        doors = tuple(Door(Ink(network, mixed(self.ink, k, train.shape[0]), pen, self.strength), goal)
                      for k, goal in enumerate(self.goal.parts()))
        return Backdoor(doors, select.random(train, task, doors, self.rate, run.rng("poison")))

    def pen(self) -> Pen:
        """How edges are drawn."""
        return Pen(self.operator, self.threshold / 255, self.line_width, self.picture, self.density)

    def networks(self, train: Dataset, run: Run) -> Pair:
        """The injection network, and the extractor that shows what it hid; trained unless the run's shelf has them."""
        how = Hiding(**SIZES[self.size], epochs=self.epochs, interference=self.interference,
                     adversarial=self.adversarial, invisible=self.invisible)
        pen = self.pen() if self.relearn else replace(self.pen(), picture="")
        return how.learned(train, pen, run.of_seed(self.network_seed))
