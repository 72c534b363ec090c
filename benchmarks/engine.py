"""Speed of the training loop: `run.fit` beside a bare PyTorch loop on the same model, tensors and augmentation.

    python benchmarks/engine.py [--data-root DIR] [--samples N] [--json]

Prints images a second of both and their ratio (the goal is at least 0.9), and which share of an epoch on poisoned data
goes into fetching and stamping (at most 0.1). Uses Fashion-MNIST from the data root if there is one, else
random images of its size. Rounds alternate, so that a busy machine slows both; the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from sidedoor import zoo
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.augment import augmentation
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

ROUNDS = 5
BATCH = 128


def images(root: Path | None, samples: int) -> Dataset:
    """Training images, real if there are any."""
    if root is not None:
        train = zoo.load("fashion_mnist", root).train
        first = torch.arange(samples)
        return ArrayDataset(train.rows(first), train.targets[first], train.classes)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (samples, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return ArrayDataset(pixels, torch.randint(0, 10, (samples,), generator=generator), 10)


def bare_epoch(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of one epoch of the loop that one would write by hand, on tensors staged before."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    augment = augmentation(("crop", "flip"))
    assert augment is not None
    model.train()
    start = time.perf_counter()
    order = torch.randperm(len(x))
    for index in torch.split(order, BATCH):
        batch = augment(Batch(x[index].float() / 255, y[index], index))
        optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()
    return time.perf_counter() - start


def engine_epoch(run: Run, model: nn.Module, data: Dataset) -> float:
    """Seconds of one epoch of `run.fit`."""
    start = time.perf_counter()
    run.fit(model, data, Supervised(Classification(10)), name="bench")
    return time.perf_counter() - start


def fetch_epoch(data: Dataset) -> float:
    """Seconds of fetching every batch of an epoch, stamped rows included."""
    start = time.perf_counter()
    for index in torch.split(torch.randperm(len(data)), BATCH):
        data.fetch(index)
    return time.perf_counter() - start


def measure(root: Path | None, samples: int) -> dict[str, float]:
    """All figures; the first round warms up and does not count."""
    data = images(root, samples)
    run = Run.local(Recipe(epochs=1, batch=BATCH), augment=augmentation(("crop", "flip")))
    model = run.build(zoo.network("small_cnn", data))
    x, y = data.rows(torch.arange(samples)), data.targets
    task = Classification(10)
    backdoor = BadNets(rate=0.05).plan(data, task, zoo.network("small_cnn", data), run)
    start = time.perf_counter()
    poisoned = PoisonedDataset(data, backdoor, task)
    stamping = time.perf_counter() - start
    rounds = [(bare_epoch(model, x, y), engine_epoch(run, model, data), engine_epoch(run, model, poisoned),
               fetch_epoch(poisoned)) for _ in range(ROUNDS + 1)][1:]
    bare, engine, victim, fetching = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        "threads": torch.get_num_threads(), "samples": samples, "bare_images_per_s": samples / bare,
        "engine_images_per_s": samples / engine, "engine_to_bare": bare / engine,
        "poisoned_epoch_s": victim, "stamping_s": stamping, "fetching_s": fetching,
        "loading_and_stamping_share": (fetching + stamping) / victim,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=os.environ.get("SIDEDOOR_DATA"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(Path(options.data_root) if options.data_root else None, options.samples)
    if options.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<28} {value:12.3f}")


if __name__ == "__main__":
    main()
