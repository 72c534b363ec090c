"""Kuzushiji-MNIST: 70,000 cursive Japanese characters of ten kinds, 28×28 grey.

Paper: Clanuwat, Bober-Irizar, Kitamoto, Lamb, Yamamoto, Ha, "Deep Learning for Classical Japanese Literature",
NeurIPS Creativity Workshop 2018, arXiv 1812.01718.
"""

from __future__ import annotations

from sidedoor.data.base import Splits
from sidedoor.data.formats import idx
from sidedoor.data.root import Where

CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


def kmnist(where: Where) -> Splits:
    """Read `ROOT/KMNIST/raw`: 60,000 training and 10,000 test images."""
    return idx.load(where, "KMNIST", CLASSES)
