"""What a backdoor in a restoration network costs: seconds of its trigger by network, of an epoch by weighting.

    python benchmarks/restoration.py [--size 32] [--json]

Tables 4 and 5 of arXiv:2407.10445 give seconds on a GPU; ratios compare across machines. The universal perturbation is
made on networks of the published size with initial weights, which cost what trained ones do, on one image rather than
ten: its seconds are proportional to the images. An epoch is one of a small DRUNet on random patches, clean and
triggered; rounds alternate between weightings, and the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from sidedoor import registry, zoo
from sidedoor.attacks.image_to_image.base import BothTasks
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.goals.base import Door
from sidedoor.goals.one_image import OneImage
from sidedoor.tasks.restoration import Restoration
from sidedoor.trigger_designs.base import Setting
from sidedoor.trigger_designs.random_sign import RandomSign
from sidedoor.trigger_designs.uap import UAP

TASK, GOAL = Restoration(sigma=25.0), OneImage()
SMALL = {"name": "drunet", "widths": [16, 32, 64, 64], "blocks": 1}
PATCHES, ROUNDS = 128, 5
UAP_PAPER = {"drunet": 18, "scunet": 50, "mprnet": 52, "mirnet": 128, "rrdbnet": 58}
"""Seconds of Table 4; its DPIR is the DRUNet here, its ESRGAN the RRDBNet."""
EPOCH_PAPER = {"static 0.9, 0.1": 13.64, "uncertainty": 8.93, "dwa": 14.15, "pcgrad": 16.58}
"""Seconds of Table 5 for its DPIR."""
WEIGHTINGS: dict[str, Any] = {
    "static 0.9, 0.1": {"name": "static", "weights": [0.9, 0.1]}, "uncertainty": "uncertainty", "dwa": "dwa",
    "pcgrad": "pcgrad", "pcgrad symmetric": {"name": "pcgrad", "variant": "symmetric"},
}


@dataclass(frozen=True)
class Line:
    """One row of a table; the ratio is to its first row."""

    name: str
    seconds: float
    ratio: float
    paper: float | None = None


def patches(size: int, count: int) -> Dataset:
    """Noisy patches of random smooth colours."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    data = ArrayDataset((pixels * 255).round().to(torch.uint8), torch.arange(count), count)
    return TASK.make_dataset(data)


def uap_seconds(network: str, size: int) -> float:
    """Of Algorithm 1 on one image, 20 steps."""
    run, data = Run.local(Recipe(), device="cpu"), patches(size, 4)
    model = run.build(zoo.network(network, data, 1)).eval()
    model(data.fetch(torch.zeros(1, dtype=torch.int64)).x)  # pays for allocations
    start = time.perf_counter()
    UAP(samples=1).make(Setting(data, TASK, GOAL, lambda: model, run))
    return time.perf_counter() - start


def epoch_seconds(weighting: Any, run: Run, data: Dataset, door: Door) -> float:
    """Of one epoch of both tasks."""
    model = run.build(zoo.network(SMALL, data, 1))
    objective = BothTasks(TASK, door, data.space, registry.make("weighting", weighting).start(2))
    start = time.perf_counter()
    run.fit(model, data, objective, name="bench")
    return time.perf_counter() - start


def table4(size: int) -> list[Line]:
    """Every network of the paper."""
    seconds = {network: uap_seconds(network, size) for network in UAP_PAPER}
    first = seconds["drunet"]
    return [Line(name, s, s / first, UAP_PAPER[name] / UAP_PAPER["drunet"]) for name, s in seconds.items()]


def table5(size: int) -> list[Line]:
    """Every weighting; the first round warms up and does not count."""
    run = Run.local(Recipe("adam", lr=1e-3, weight_decay=0.0, epochs=1, batch=8), device="cpu")
    data = patches(size, PATCHES)
    door = Door(RandomSign().make(Setting(data, TASK, GOAL, lambda: torch.nn.Identity(), run)), GOAL)
    rounds = [[epoch_seconds(w, run, data, door) for w in WEIGHTINGS.values()] for _ in range(ROUNDS + 1)][1:]
    seconds = [statistics.median(column) for column in zip(*rounds, strict=True)]
    paper = {name: s / EPOCH_PAPER["static 0.9, 0.1"] for name, s in EPOCH_PAPER.items()}
    return [Line(name, s, s / seconds[0], paper.get(name)) for name, s in zip(WEIGHTINGS, seconds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="pixels a side of a patch")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    found = {"universal perturbation, one image": table4(options.size), "one epoch": table5(options.size)}
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "size": options.size}
                         | {what: [vars(line) for line in lines] for what, lines in found.items()}, indent=1))
        return
    for what, lines in found.items():
        print(f"{what}, {options.size}×{options.size}, {torch.get_num_threads()} threads")
        print(f"{'':<18} {'seconds':>9} {'ratio':>7} {'paper':>7}")
        for line in lines:
            paper = "" if line.paper is None else f"{line.paper:7.1f}"
            print(f"{line.name:<18} {line.seconds:9.2f} {line.ratio:7.2f} {paper}")


if __name__ == "__main__":
    main()
