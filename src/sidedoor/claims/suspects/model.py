"""A weights file as a suspect: read as safely as any file of unknown origin, and asked here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from sidedoor.claims.suspects.base import Known, Opened
from sidedoor.core.progress import Silent
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete
from sidedoor.ownership.base import Answers
from sidedoor.tasks.classification import Classification
from sidedoor.types import Batch
from sidedoor.vetting import suspect as vetting
from sidedoor.vetting.described import network_in_words

AT_ONCE = 4096
"""Images of a call."""


def open_model(where: str, known: Known) -> Opened:
    """The model of a weights file.

    Raises:
        CannotComplete: it cannot be read, or is of another network.
        ConfigError: no known architecture fits.
    """
    found = vetting.open_suspect(Path(where), known.architecture, known.images, known.normalization, "", known.run)
    facts = {"kind": "model", "file": found.name, "sha256": found.sha256,
             "network": f"{network_in_words(found.architecture)}, {found.how}", "normalization": found.normalization}
    facts |= {"notes": "; ".join(found.notes)} if found.notes else {}
    return Opened(ModelSuspect(found.model, len(known.images.classes), known.run), facts, AT_ONCE)


@dataclasses.dataclass(frozen=True)
class ModelSuspect:
    """A network that is at hand, asked as if it were not.

    Args:
        classes: that it has.
    """

    model: nn.Module
    classes: int
    run: Run

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", dataclasses.replace(self.run, progress=Silent()))  # a call takes a moment

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """Its labels and probabilities."""
        rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        data = ArrayDataset(rows, np.zeros(len(rows), dtype=np.int64), self.classes, "questions")
        task = Classification(self.classes)
        found = self.run.per_sample(self.model, data, lambda batch: self._row(task, batch))
        return Answers(found["label"].numpy().astype(np.int64), found["probabilities"].numpy().astype(np.float32))

    def _row(self, task: Classification, batch: Batch) -> dict[str, torch.Tensor]:
        said = task.predict(self.model, batch.x)
        if said.shape[1] != self.classes:
            raise CannotComplete(f"the model has {said.shape[1]} outputs; expected one for each of {self.classes} "
                                 "classes of the secret")
        return {"label": said.argmax(1), "probabilities": said}
