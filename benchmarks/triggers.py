"""How fast triggers are stamped into 8-bit rows, beside a plain copy of the same rows, and what that takes in memory.

`python benchmarks/triggers.py [--json]` plans every registered attack on a generated set of 32×32 colour images and
makes poisoned rows with its first door, the way a poisoned data set does: 8 bits to float, trigger, clipping, rounding,
8 bits. Slow triggers are timed on as many rows as they make in about 1.5 seconds; `seconds_50k` is then extrapolated.
Memory is the growth of the process's resident set at its peak, as Linux counts it, over the bytes of the rows made;
where these are few, the buffers of a batch dominate.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import AttackerRun, Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.engine import Recipe
from sidedoor.errors import SidedoorError
from sidedoor.goals.base import Door
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification

SIZE, CLASSES, BATCH, PROBE, SECONDS = 50_000, 10, 1024, 128, 1.5
UNTRAINED: dict[str, dict[str, Any]] = {
    "poison_ink": {"epochs": 1}, "issba": {"epochs": 1}, "advdoor": {"passes": 1, "samples": 20},
    "narcissus": {"passes": 1}, "lf": {"samples": 10, "enough": 0.0}, "label_consistent": {"iterations": 1},
    "trojannn": {"iterations": 1}, "sleeper_agent": {"iterations": 1, "retrain": 0}}
"""Less training than by default: how a trigger came about changes nothing of how fast it is stamped."""
GOAL = {"patch": 1.0, "blend": 1.0, "sinusoid": 1.0}
"""Seconds for 50,000 images on two cores that simple triggers shall not exceed."""


def generated() -> ArrayDataset:
    """Noise images with labels in turn; every class is found in any stretch."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SIZE, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return ArrayDataset(images, torch.arange(SIZE) % CLASSES, CLASSES)


def doors(attack: str, data: ArrayDataset) -> tuple[Door, ...]:
    """The doors that an attack plans on the first 500 images."""
    run = AttackerRun.local(Recipe(epochs=1), device="cpu")
    build = functools.partial(small_cnn, CLASSES, data.shape)
    made: Attack = registry.make("attack", {"name": attack, **UNTRAINED.get(attack, {})})
    some = Subset(data, torch.arange(500))
    return made.plan(some, Classification(CLASSES), build, run).doors


def made(data: ArrayDataset, door: Door, count: int) -> float:
    """Seconds to make `count` poisoned rows."""
    rows = torch.arange(count)
    backdoor = Backdoor((door,), Poison(rows, torch.zeros_like(rows), torch.zeros(count, dtype=torch.bool)))
    start = time.perf_counter()
    PoisonedDataset(data, backdoor, Classification(CLASSES))
    return time.perf_counter() - start


def copied(data: ArrayDataset, count: int) -> float:
    """Seconds to copy the same rows, batch by batch, into a new array."""
    start = time.perf_counter()
    images = torch.empty((count, *data.shape), dtype=torch.uint8)
    for slots in torch.split(torch.arange(count), BATCH):
        images[slots] = data.rows(slots)
    return time.perf_counter() - start


def resident(field: str) -> int | None:
    """Bytes of "VmRSS" (now) or "VmHWM" (peak) of this process; None where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def peak_growth(data: ArrayDataset, door: Door, count: int) -> float | None:
    """Peak growth of the resident set while rows are made, over the bytes of those rows."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    except OSError:
        return None
    before = resident("VmRSS")
    made(data, door, count)
    peak = resident("VmHWM")
    return None if before is None or peak is None else (peak - before) / (count * data.images[0].nbytes)


def measure(attack: str, data: ArrayDataset) -> dict[str, Any]:
    """Figures of one attack, or why it has none."""
    if not issubclass(Classification, tasks := registry.load("attack", attack).tasks):
        return {"attack": attack, "skipped": f"poisons pairs of images, for {', '.join(t.__name__ for t in tasks)}"}
    try:
        door = doors(attack, data)[0]
        made(data, door, PROBE)  # the first call pays for allocations and lazy imports
        count = min(SIZE, max(PROBE, int(PROBE * SECONDS / made(data, door, PROBE))))
        seconds = min(made(data, door, count) for _ in range(3))
    except SidedoorError as error:
        return {"attack": attack, "skipped": str(error)}
    trigger = type(door.trigger).__name__.lower()
    return {"attack": attack, "trigger": trigger, "rows": count, "images_per_second": count / seconds,
            "times_a_copy": seconds / min(copied(data, count) for _ in range(3)),
            "seconds_50k": seconds / count * SIZE, "goal_50k": GOAL.get(trigger),
            "peak_over_rows": peak_growth(data, door, count)}


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "skipped" in row:
        return f"{row['attack']:<18} skipped: {row['skipped']}"
    peak = "-" if row["peak_over_rows"] is None else f"{row['peak_over_rows']:.2f}"
    goal = "" if row["goal_50k"] is None else ("  met" if row["seconds_50k"] <= row["goal_50k"] else "  MISSED")
    return (f"{row['attack']:<18} {row['trigger']:<14} {row['images_per_second']:>12,.0f} {row['times_a_copy']:>8.1f} "
            f"{row['seconds_50k']:>10.2f} {peak:>10}{goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of making poisoned rows, trigger by trigger.")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    parser.add_argument("--attacks", nargs="*", help="names; all by default")
    arguments = parser.parse_args()
    data = generated()
    names = arguments.attacks or [entry.name for entry in registry.entries() if entry.kind == "attack"]
    if arguments.json:
        figures = [measure(name, data) for name in names]
        print(json.dumps({"threads": torch.get_num_threads(), "attacks": figures}, indent=1))
        return
    print(f"{torch.get_num_threads()} threads; memory in bytes of the rows made")
    print(f"{'attack':<18} {'trigger':<14} {'images/s':>12} {'× copy':>8} {'s for 50k':>10} {'peak':>10}  goal 1 s")
    for name in names:
        print(line(measure(name, data)), flush=True)


if __name__ == "__main__":
    main()
