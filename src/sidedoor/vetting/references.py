"""Clean models that a suspect is compared with: trained here on the user's own data, or the user's trusted files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from sidedoor import registry, zoo
from sidedoor.core.foreign_weights import identify
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.models.base import Classifier
from sidedoor.tasks.task import Supervised, Task
from sidedoor.vetting.suspect import Suspect, reverse

SHORTFALL = 0.1
"""How far below the suspect's accuracy that of references may lie, for them to be models like it."""


@dataclass(frozen=True)
class Reference:
    """A clean model.

    Args:
        key: identifies it.
        network: gives it, training it if it has to be.
    """

    key: str
    network: Callable[[], nn.Module]


def trained(suspect: Suspect, train: Dataset, task: Task, run: Run, count: int) -> list[Reference]:
    """Models of the suspect's kind that differ by their seeds; kept on the run's shelf, for the next suspect.

    Each is trained on all of the user's training data by the run's recipe. If the suspect is clean and was trained
    likewise, the p-value of its rank among them is exact; the more its training differed, the less it means.
    """
    about = {"reference": train.fingerprint(), "model": suspect.architecture or suspect.sha256,
             "recipe": registry.plain(run.recipe), "augment": repr(run.augment)}

    def reference(seed: int) -> Reference:
        def make(own: Run) -> nn.Module:
            return own.fit(own.build(suspect.build), train, Supervised(task), name=f"reference {seed}")

        key = about | {"seed": seed}
        kept: list[nn.Module] = []

        def network() -> nn.Module:
            if not kept:
                kept.append(run.of_seed(seed).artefact(key, suspect.build, make))
            return kept[0]

        return Reference(hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest(), network)

    return [reference(run.seed + 1 + number) for number in range(count)]


def trusted(suspect: Suspect, folder: Path, run: Run) -> list[Reference]:
    """The weights files of a folder, networks of the suspect's kind behind the same normalisation.

    Raises:
        CannotComplete: a file is not such a network.
    """
    def reference(path: Path) -> Reference:
        def network() -> nn.Module:
            model, said = zoo.started(suspect.build, zoo.Weights(str(path)))
            if not said and isinstance(model, Classifier) and isinstance(suspect.model, Classifier):
                model.normalize.load_state_dict(suspect.model.normalize.state_dict())
                if suspect.reversed:
                    reverse(model)
            return run.placed(model).eval()

        return Reference(identify(path), network)

    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return [reference(file) for file in files]
