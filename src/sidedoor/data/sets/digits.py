"""The 1,797 handwritten digits that ship with scikit-learn, 16×16 grey: real data without a download.

Paper: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository 1998.

The originals are 8×8 with values 0 to 16. Each pixel becomes a block of 2×2, so that nothing is invented (the
original can be read back) and a network with two poolings still has a map to look at.
"""

from __future__ import annotations

import numpy as np

from sidedoor.data.base import ArrayDataset, Splits, split
from sidedoor.data.root import Where, self_contained

SPLIT_SEED = 0
TEST_SHARE = 0.25


@self_contained
def digits(where: Where) -> Splits:
    """A quarter of each class is the test set, the same rows for every experiment seed."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).round().astype(np.uint8)
    images = pixels.repeat(2, axis=1).repeat(2, axis=2)[:, None]
    return Splits(*split(ArrayDataset(images, bunch.target, 10, "digits"), TEST_SHARE, SPLIT_SEED))
