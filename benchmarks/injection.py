"""How long Poison Ink's networks take to train, at each of their sizes.

`python benchmarks/injection.py [--json]` trains each size for one epoch on generated 32×32 colour images, and prints
images a second, the ratio to the small size, and what 20 epochs over 6,000 images would take.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

from sidedoor.attacks.poisoning._train_image_hiding import SIZES, ImageHidingTraining
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.triggers.ink import Pen

COUNT = {"small": 960, "paper": 160}
"""Images of an epoch: enough for steps to settle."""
PASSES = 20 * 6000


def speed(size: str) -> float:
    """Images a second in training."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT[size], 3, 32, 32), dtype=torch.uint8, generator=rng)
    data = ArrayDataset(images, torch.zeros(COUNT[size], dtype=torch.int64), 1)
    start = time.perf_counter()
    ImageHidingTraining(**SIZES[size], epochs=1).train_or_load(data, Pen(), Run.local(seed=0, device="cpu"))
    return COUNT[size] / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of training Poison Ink's networks.")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args()
    speed("small")  # the first call pays for lazy imports
    speeds = {size: speed(size) for size in COUNT}
    rows: list[dict[str, Any]] = [{"size": size, "images_per_second": found, "times_small": speeds["small"] / found,
                                   "seconds_20_epochs": PASSES / found} for size, found in speeds.items()]
    if arguments.json:
        print(json.dumps({"threads": torch.get_num_threads(), "sizes": rows}, indent=1))
        return
    print(f"{torch.get_num_threads()} threads\n{'size':<8} {'images/s':>10} {'× small':>9} {'s for 20 × 6,000':>18}")
    for row in rows:
        print(f"{row['size']:<8} {row['images_per_second']:>10.1f} {row['times_small']:>9.1f} "
              f"{row['seconds_20_epochs']:>18,.0f}")


if __name__ == "__main__":
    main()
