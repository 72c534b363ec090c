"""CIFAR-100: 60,000 photographs of a hundred kinds of things, 32×32 colour, with the fine labels.

Paper: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

from sidedoor.data.base import Splits
from sidedoor.data.formats import cifar
from sidedoor.data.root import Where

LAYOUT = cifar.Layout(
    name="CIFAR100", folder="cifar-100-python", train=("train",), test="test", meta="meta",
    labels="fine_labels", names="fine_label_names",
)


def cifar100(where: Where) -> Splits:
    """Read `ROOT/cifar-100-python`: 50,000 training and 10,000 test images."""
    return cifar.load(where, LAYOUT)
