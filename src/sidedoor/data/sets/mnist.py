"""MNIST: 70,000 handwritten digits, 28×28 grey.

Paper: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 1998.
"""

from __future__ import annotations

from sidedoor.data.base import Splits
from sidedoor.data.formats import idx
from sidedoor.data.root import Where


def mnist(where: Where) -> Splits:
    """Read `ROOT/MNIST/raw`: 60,000 training and 10,000 test images."""
    return idx.load(where, "MNIST", tuple("0123456789"))
