"""GTSRB: about 39,000 photographs of 43 German traffic signs, whole images resized to a square.

Paper: Stallkamp, Schlipsing, Salmen, Igel, "Man vs. computer: Benchmarking machine learning algorithms for traffic
sign recognition", Neural Networks 2012.
"""

from __future__ import annotations

import csv
from pathlib import Path

from sidedoor.core import opening
from sidedoor.data.base import Splits
from sidedoor.data.formats.images import FolderDataset, Frame, class_files, gather
from sidedoor.data.root import Where, download
from sidedoor.errors import CannotComplete
from sidedoor.method import Count

CLASSES = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80",
    "end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing over 3.5 t",
    "right of way", "priority road", "yield", "stop", "no vehicles", "no vehicles over 3.5 t", "no entry",
    "general caution", "curve left", "curve right", "double curve", "bumpy road", "slippery road",
    "road narrows right", "road work", "traffic signals", "pedestrians", "children", "bicycles", "ice or snow",
    "wild animals", "end of all limits", "turn right", "turn left", "ahead only", "straight or right",
    "straight or left", "keep right", "keep left", "roundabout", "end of no passing", "end of no passing over 3.5 t",
)
TABLE_LIMIT = 2**24
TRAIN, TEST, TRUTH = "GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv"


def gtsrb(where: Where, size: Count = 32) -> Splits:
    """Read `ROOT/gtsrb`: 26,640 training and 12,630 test images in torchvision's layout, decoded once.

    Args:
        size: pixels a side; the aspect ratio is not kept.

    Raises:
        CannotComplete: files or classes are missing, or the table of test labels is damaged.
    """
    top = where.folder("gtsrb", (TRAIN, TEST, TRUTH), _fetch)
    found = class_files(top / TRAIN, top)
    if list(found) != [f"{k:05d}" for k in range(len(CLASSES))]:
        raise CannotComplete(f"{top / TRAIN} has the folders {', '.join(found)}; "
                             "expected 00000 to 00042; fetch it again")
    parts = ([(file, k) for k, files in enumerate(found.values()) for file in files], _truth(top / TRUTH))
    return Splits(*(gather(FolderDataset(top, files, CLASSES, Frame(size, 3)), "gtsrb") for files in parts))


def _truth(table: Path) -> list[tuple[str, int]]:
    """(file, label) of the test images."""
    try:
        rows = csv.DictReader(opening.text(table, TABLE_LIMIT).splitlines(), delimiter=";")
        return [(f"{TEST}/{row['Filename']}", int(row["ClassId"])) for row in rows]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise CannotComplete(f"{table} is damaged ({error!r}); expected the columns Filename and ClassId, "
                             "separated by semicolons; fetch it again") from error


def _fetch(root: Path) -> None:
    for part in ("train", "test"):
        download(root, "GTSRB", split=part)
