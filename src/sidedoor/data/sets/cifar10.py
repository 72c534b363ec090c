"""CIFAR-10: 60,000 photographs of ten kinds of things, 32×32 colour.

Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from sidedoor.data.base import Splits
from sidedoor.data.formats import cifar
from sidedoor.data.root import Where

LAYOUT = cifar.Layout(
    name="CIFAR10", folder="cifar-10-batches-py", train=tuple(f"data_batch_{k}" for k in range(1, 6)),
    test="test_batch", meta="batches.meta", labels="labels", names="label_names",
)


def cifar10(where: Where) -> Splits:
    """Read `ROOT/cifar-10-batches-py`: 50,000 training and 10,000 test images."""
    return cifar.load(where, LAYOUT)
