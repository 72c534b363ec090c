"""What a test of ownership is: it asks a suspect about images with the owner's secret triggers, and gives a verdict.

A verdict is a statement about chance in the owner's secret, not about images: who drew labels or triggers at random and
kept them to themselves knows how often a model that never saw the data answers so. Tests whose chance lies elsewhere,
in the images or in the training of one model, are registered as they were published and are no evidence (`exact`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset, stored
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Verdict
from sidedoor.method import Method, Share
from sidedoor.tasks.task import Task
from sidedoor.triggers.base import Trigger, stamp

OTHER = -1
"""The label of an answer that names no class of the task, such as a refusal. It counts as an answer, and as a miss."""


class Answers(NamedTuple):
    """What a suspect said of images, in their order.

    Args:
        labels: the most probable class of each image, or `OTHER`.
        probabilities: of each class, in [0, 1]; None where the suspect tells labels only.
    """

    labels: Int64[np.ndarray, "n"]
    probabilities: Float32[np.ndarray, "n k"] | None = None


class Suspect(Protocol):
    """A model that can be asked, and about which nothing else is known."""

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """What it says of images of 8-bit pixels; c is 1 or 3.

        Raises:
            CannotComplete: it does not answer now, or its budget is spent; what was answered so far is kept.
        """


@dataclass(frozen=True)
class Verifier(Method, ABC):
    """A test of the claim that a suspect was trained on the owner's watermarked data.

    Args:
        alpha: the level, decided before the test.

    Attributes:
        needs: what of the suspect's answers it looks at.
        exact: whether a suspect that owes nothing to the data is accused with a probability of at most alpha,
            whatever suspect it is. Tests that are not exact are no evidence.
    """

    needs: ClassVar[Needs]
    exact: ClassVar[bool]

    alpha: Share = 0.01

    @abstractmethod
    def verify(self, suspect: Suspect, secret: Secret, images: Dataset, task: Task, run: Run) -> Verdict:
        """Ask and decide.

        Args:
            images: labelled, and chosen without looking at the secret.

        Raises:
            NotApplicable: the secret or the answers lack what the test is about.
        """


def pixels(images: Dataset) -> UInt8[np.ndarray, "n h w c"]:
    """All images of a data set as a suspect is shown them."""
    return _channels_last(images.rows(torch.arange(len(images))))


def stamped(trigger: Trigger, images: Dataset) -> UInt8[np.ndarray, "n h w c"]:
    """All images of a data set with a trigger, as a suspect is shown them."""
    x, _, index = images.fetch(torch.arange(len(images)))
    with torch.no_grad():
        return _channels_last(stored(stamp(trigger, x, index, images.space), images.space))


def _channels_last(rows: torch.Tensor) -> UInt8[np.ndarray, "n h w c"]:
    return np.ascontiguousarray(rows.cpu().permute(0, 2, 3, 1).numpy())


def probabilities(answers: Answers) -> Float32[np.ndarray, "n k"]:
    """Those of the answers.

    Raises:
        NotApplicable: the suspect tells labels only.
    """
    if answers.probabilities is None:
        raise NotApplicable("the suspect tells labels only, and this test needs probabilities; use a test of labels, "
                            "such as keys")
    return answers.probabilities
