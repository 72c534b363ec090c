"""Tiny ImageNet: 110,000 photographs of 200 kinds of things, 64×64 colour; its validation part is the test set.

Paper: Le, Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N 2015.
"""

from __future__ import annotations

from pathlib import Path

from sidedoor.core import opening
from sidedoor.data.base import Splits
from sidedoor.data.formats.images import FolderDataset, Frame, class_files, gather
from sidedoor.data.root import Where
from sidedoor.errors import CannotComplete
from sidedoor.method import Count

ADVICE = "torchvision does not fetch it: unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip into the data root"
TABLE_LIMIT = 2**24
TRUTH = "val/val_annotations.txt"


def tiny_imagenet(where: Where, size: Count = 64) -> Splits:
    """Read `ROOT/tiny-imagenet-200`: 100,000 training and 10,000 test images, decoded once.

    Classes are WordNet ids in the order of their names.

    Raises:
        CannotComplete: files are missing, or the table of test labels is damaged.
    """
    top = where.folder("tiny-imagenet-200", ("train", "val/images", TRUTH), advice=ADVICE)
    found = class_files(top / "train", top)
    classes = tuple(found)
    train = [(file, k) for k, files in enumerate(found.values()) for file in files]
    parts = (train, _truth(top / TRUTH, classes))
    return Splits(*(gather(FolderDataset(top, files, classes, Frame(size, 3)), "tiny_imagenet") for files in parts))


def _truth(table: Path, classes: tuple[str, ...]) -> list[tuple[str, int]]:
    """(file, label) of the validation images; the boxes behind them are not used."""
    label = {name: k for k, name in enumerate(classes)}
    try:
        rows = [line.split("\t") for line in opening.text(table, TABLE_LIMIT).splitlines() if line]
        return [(f"val/images/{row[0]}", label[row[1]]) for row in rows]
    except (OSError, KeyError, IndexError) as error:
        raise CannotComplete(f"{table} is damaged ({error!r}): expected a file and a class of train/ on each line, "
                             "separated by tabs; unpack it again") from error
