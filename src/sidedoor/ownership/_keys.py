"""What tests of secret labels share: the labels, and the vote of a suspect on each key."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset
from sidedoor.errors import NotApplicable
from sidedoor.ownership.base import OTHER, Suspect, stamped

HYPOTHESIS = ("the suspect does not depend on the labels of the keys, which were drawn at random and kept secret: it "
              "owes nothing to the marked data")


def labels_of(secret: Secret) -> tuple[int, ...]:
    """The labels of a secret.

    Raises:
        NotApplicable: it has none.
    """
    if not secret.labels:
        raise NotApplicable("the watermark leads to no class, so there are no secret labels to test; use decoys")
    return secret.labels


def votes(suspect: Suspect, secret: Secret, images: Dataset, classes: int) -> Iterator[int]:
    """For each key in turn the label that most images with it get; each is asked about when it is its turn."""
    for trigger in secret.triggers:
        yield plurality(suspect.answer(stamped(trigger, images)).labels, classes)


def plurality(labels: Int64[np.ndarray, "n"], classes: int) -> int:
    """The most frequent label, the lowest of several; `OTHER`, the lowest of all, stands for what is no class."""
    known = np.where((labels >= 0) & (labels < classes), labels, OTHER)
    return int(np.bincount(known - OTHER, minlength=classes + 1).argmax()) + OTHER
