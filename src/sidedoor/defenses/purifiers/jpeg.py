"""JPEG compression: a purifier that discards the detail that a lossy encoder does.

Paper: Xue, Wang, Sun, Zhang, Wang, Liu, "Compression-Resistant Backdoor Attack against Deep Neural Networks", 2022,
arXiv:2201.00672, on the defence; against image-to-image backdoors Jiang et al., arXiv:2407.10445, section 6.5.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from sidedoor.data.base import Dataset, stored, unit
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.engine import Run
from sidedoor.method import Bounds
from sidedoor.tasks.task import Task
from sidedoor.types import PHOTO, Images, Purify


@dataclass(frozen=True)
class Jpeg(Purifier):
    """Write inputs as JPEG files and read them again; noise outside [0, 1] is clipped by that.

    Args:
        quality: of the encoder, 1 to 95.
    """

    origins: ClassVar[dict[str, str]] = {"quality": "ours: the papers try several; Pillow's default"}
    tasks: ClassVar[tuple[type[Task], ...]] = (Task,)

    quality: Annotated[int, Bounds(1, 95)] = 75

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        return in_place(lambda x, index: compressed(x, self.quality))


def compressed(x: Images, quality: int) -> Images:
    """What is read from JPEG files of the images, grey or RGB, clipped to [0, 1] first."""
    pixels = stored(x.detach().clamp(0, 1), PHOTO).cpu().numpy()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(lambda image: _through(image, quality), pixels))
    return unit(torch.from_numpy(np.stack(rows)).to(x.device), PHOTO)


def _through(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    grey = len(image) == 1
    Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        read = np.array(opened)
    return read[None] if grey else read.transpose(2, 0, 1)
