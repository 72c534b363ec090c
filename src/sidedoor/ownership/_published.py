"""What the published tests share: answers with and without the first trigger, and a one-sided t-test."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import Dataset, Subset
from sidedoor.errors import NotApplicable
from sidedoor.ownership._keys import labels_of
from sidedoor.ownership.base import Answers, Suspect, pixels, stamped


def others_than(secret: Secret, images: Dataset) -> tuple[Dataset, int]:
    """The images that are not of the first trigger's label, and the label.

    Raises:
        NotApplicable: there are fewer than two, or the watermark leads to no class.
    """
    label = labels_of(secret)[0]
    rows = torch.nonzero(images.targets != label)[:, 0]
    if len(rows) < 2:
        raise NotApplicable(f"{len(rows)} of {len(images)} images are not of class {label}; the test needs two")
    return Subset(images, rows), label


def moved(suspect: Suspect, secret: Secret, images: Dataset) -> tuple[Answers, Answers]:
    """What the suspect says of images as they are, and with the first trigger."""
    return suspect.answer(pixels(images)), suspect.answer(stamped(secret.triggers[0], images))


def paired_t(difference: Float[np.ndarray, "n"]) -> tuple[float, float]:
    """t and the p-value of the hypothesis that a mean is at most 0; where all are equal, the limit for no spread."""
    exact = difference.astype(np.float64)
    if np.ptp(exact) == 0:
        return float(np.sign(exact[0]) * 1e6), 0.0 if exact[0] > 0 else 1.0
    found = stats.ttest_1samp(exact, 0.0, alternative="greater")
    return float(found.statistic), float(found.pvalue)
