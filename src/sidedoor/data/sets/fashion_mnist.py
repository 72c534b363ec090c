"""Fashion-MNIST: 70,000 articles of clothing, 28×28 grey.

Paper: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
2017, arXiv 1708.07747.
"""

from __future__ import annotations

from sidedoor.data.base import Splits
from sidedoor.data.formats import idx
from sidedoor.data.root import Where

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def fashion_mnist(where: Where) -> Splits:
    """Read `ROOT/FashionMNIST/raw`: 60,000 training and 10,000 test images."""
    return idx.load(where, "FashionMNIST", CLASSES)
