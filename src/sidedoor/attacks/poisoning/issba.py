"""ISSBA: a message that a StegaStamp encoder hides in each image, a sample-specific trigger; dirty-label.

Paper: Li, Li, Wu, Li, He, Lyu, "Invisible Backdoor Attack with Sample-Specific Triggers", ICCV 2021, arXiv:2012.03816.

The encoder and its decoder are trained on the data that is poisoned (`StegaStampTraining`) and kept for all victims.
Only data is poisoned; what releases do, poisoned samples in every batch, is `per_batch` with this attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from sidedoor.attacks.base import PoisoningAttack
from sidedoor.attacks.poisoning._train_stegastamp import StegaStampTraining
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.method import LATER, Count, NonNegative, Positive, lasting
from sidedoor.tasks.task import Task
from sidedoor.triggers.encoded import Encoded, messages
from sidedoor.types import Build


@dataclass(frozen=True)
class ISSBA(PoisoningAttack):
    """Hide one message in a share of the eligible samples and change their labels; further targets have another.

    Args:
        rate: share of the eligible training samples, in [0, 1].
        bits, epochs, lr, invisible, perceptual, critic: of the networks' training, see `StegaStampTraining`. The
            authors' release, for images of 224×224, has 100 bits.
        network_seed: of the networks, to share them between runs of several seeds: None for the run's own.
    """

    tags: ClassVar[frozenset[str]] = frozenset({"invisible", "sample_specific"})
    quick: ClassVar[dict[str, Any]] = {"bits": 4, "epochs": 1}
    origins: ClassVar[dict[str, str]] = {
        "rate": "release: 10 %", "bits": "release: 20 for small images (BackdoorBox)",
        "epochs": "release: 20 (BackdoorBox)", "lr": "release: 1e-4 (BackdoorBox)",
        "invisible": "release: 2 (BackdoorBox)",
        "perceptual": "ours: 0, since it needs weights of the user's; the release has 1.5 (BackdoorBox)",
        "critic": "release: off, and 0.5 where it is on (BackdoorBox)",
        "network_seed": "ours: networks of the run's own",
    }

    bits: Count = 20
    epochs: Count = 20
    lr: Positive = 1e-4
    invisible: NonNegative = 2.0
    perceptual: Annotated[NonNegative, LATER] = 0.0
    critic: Annotated[NonNegative, LATER] = 0.0
    network_seed: int | None = None

    def doors(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> tuple[Door, ...]:
        goals, network_run = self.goal.parts(), run.of_seed(self.network_seed)
        network = self._training().train_or_load(train, network_run).encoder
        texts = messages(len(goals), self.bits, network_run.rng("messages"))
        return tuple(Door(Encoded(network, text), goal) for text, goal in zip(texts, goals, strict=True))

    def on_shelf(self, seed: int) -> Any:
        return {"writing": lasting(self._training()), "seed": seed if self.network_seed is None else self.network_seed}

    def _training(self) -> StegaStampTraining:
        return StegaStampTraining(self.bits, self.epochs, self.lr, self.invisible, perceptual=self.perceptual,
                                  critic=self.critic)
