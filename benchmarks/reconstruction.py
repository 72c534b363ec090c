"""What an iteration of the bi-level attack costs, beside a plain training step on as many samples.

`python benchmarks/reconstruction.py [--json]` times both autoencoders on generated images of 28 pixels: a step of
gradient descent on 125 samples, and an iteration of BLO (two unrolled steps of 125, an outer batch of 125) with the
exact and with the first-order gradient. One thread; medians, with ratios to the step in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sidedoor.attacks.image_to_image._unrolled import weights_of
from sidedoor.attacks.image_to_image.blo import BLO
from sidedoor.models.autoencoder import autoencoder
from sidedoor.tasks.reconstruction import Reconstruction
from sidedoor.types import Batch

REPEATS = 15


def median(work: Callable[[], object]) -> float:
    """Seconds of one call; the first two do not count."""
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def measured(kernel: Any) -> dict[str, Any]:
    """Seconds of a step and of an iteration of each order."""
    torch.manual_seed(0)
    model, task = autoencoder((1, 28, 28), 1, kernel), Reconstruction()
    inner, outer = (Batch(torch.rand(125, 1, 28, 28), torch.rand(125, 1, 28, 28), torch.arange(125)) for _ in range(2))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimiser.zero_grad()
        task.loss(model, inner).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    found: dict[str, Any] = {"kernel": kernel, "step": median(step)}
    weights, pattern = weights_of(model), torch.rand(1, 28, 28)
    for order in ("exact", "first"):
        attack = BLO(order=order)  # type: ignore[arg-type]
        found[order] = median(lambda attack=attack: attack.hypergradient(  # type: ignore[misc]
            model, weights, pattern, inner, outer, task))
        found[f"{order}_ratio"] = found[order] / found["step"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the bi-level attack on reconstruction.")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(kernel) for kernel in (5, 3)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'kernel':<8}{'step s':>10}{'exact s':>10}{'ratio':>8}{'first s':>10}{'ratio':>8}")
    for row in rows:
        print(f"{row['kernel']}×{row['kernel']:<6}{row['step']:>10.4f}{row['exact']:>10.4f}{row['exact_ratio']:>8.2f}"
              f"{row['first']:>10.4f}{row['first_ratio']:>8.2f}")


if __name__ == "__main__":
    main()
