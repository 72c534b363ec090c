"""Speed of the training loop: `run.fit` beside a bare PyTorch loop on the same tensors and augmentation.

    python benchmarks/engine.py [--samples N] [--json]

The bare loop computes in float32 on contiguous tensors, as a loop written by hand does. Prints, for each network,
images per second of both and their ratio: the goals are 1.25 in float32, and 1.9 in bf16 on processors that compute in
it (others emulate bf16, which says nothing, so it is left out). Also prints which share of an epoch on poisoned data
goes into fetching and stamping (the goal is at most 0.1). Rounds alternate, so that a busy machine slows all alike;
times are those of the CPU on one thread, and the shortest of each counts. About 90 seconds on an idle core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sidedoor import zoo
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.augment import augmentation
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run, memory_format_of
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

ROUNDS = 8
BATCH = 128
TASK = Classification(10)
RECIPE = Recipe(epochs=1, batch=BATCH)
NETWORKS: dict[str, dict[str, Any]] = {
    "small_cnn": {"name": "small_cnn"}, "resnet18, width 16": {"name": "resnet18", "width": 16}}
GOALS = {"32": 1.25, "bf16": 1.9}


def images(samples: int) -> Dataset:
    """Random images of CIFAR-10's size."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (samples, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ArrayDataset(pixels, torch.randint(0, 10, (samples,), generator=generator), 10)


def computes_in_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.is_file() else []
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def bare_epoch(model: nn.Module, data: Dataset) -> None:
    """One epoch of the loop that one would write by hand, on tensors staged before."""
    x, y = data.rows(torch.arange(len(data))), data.targets
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    augment = augmentation(("crop", "flip"))
    assert augment is not None
    model.train()
    for index in torch.split(torch.randperm(len(x)), BATCH):
        batch = augment(Batch(x[index].float() / 255, y[index], index))
        optimiser.zero_grad(set_to_none=True)
        functional.cross_entropy(model(batch.x), batch.y).backward()
        optimiser.step()


def fetch_epoch(data: Dataset) -> None:
    """Every batch of an epoch, stamped rows included."""
    for index in torch.split(torch.randperm(len(data)), BATCH):
        data.fetch(index)


def shortest(work: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds that the process computes for each piece of work; the first round warms up and does not count."""
    seconds = dict.fromkeys(work, math.inf)
    for measured in range(ROUNDS + 1):
        for name, do in work.items():
            start = time.process_time()
            do()
            if measured:
                seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def speed(network: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """Images per second of the bare loop and of ours in each precision, and the ratios."""
    data = images(samples)
    build = zoo.network(network, data)
    run = Run.local(RECIPE, augment=augmentation(("crop", "flip")), device="cpu")
    bare, ours = build(), run.build(build)
    work: dict[str, Callable[[], object]] = {"bare": lambda: bare_epoch(bare, data)}
    for precision in ("32", "bf16") if computes_in_bf16() else ("32",):
        own = replace(run, recipe=replace(RECIPE, precision=precision))
        work[precision] = lambda own=own: own.fit(ours, data, Supervised(TASK), name="bench")
    seconds = shortest(work)
    rates = {f"{name}_images_per_s": samples / second for name, second in seconds.items()}
    ratios = {f"{name}_to_bare": seconds["bare"] / second for name, second in seconds.items() if name != "bare"}
    return rates | ratios | {"memory_format": memory_format_of(ours)}


def poisoning(samples: int) -> dict[str, float]:
    """Seconds of stamping and fetching as a share of an epoch of small_cnn on poisoned data."""
    data = images(samples)
    build = zoo.network("small_cnn", data)
    run = Run.local(RECIPE, augment=augmentation(("crop", "flip")), device="cpu")
    backdoor = BadNets(rate=0.05).plan(data, TASK, build, run)
    poisoned, model = PoisonedDataset(data, backdoor, TASK), run.build(build)
    seconds = shortest({
        "stamping": lambda: PoisonedDataset(data, backdoor, TASK), "fetching": lambda: fetch_epoch(poisoned),
        "epoch": lambda: run.fit(model, poisoned, Supervised(TASK), name="bench")})
    return {"loading_and_stamping_share": (seconds["stamping"] + seconds["fetching"]) / seconds["epoch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512, help="images an epoch, a multiple of 128")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as cells of a sweep compute
    figures = {name: speed(network, options.samples) for name, network in NETWORKS.items()}
    share = poisoning(options.samples)
    if options.json:
        print(json.dumps({"bf16": computes_in_bf16(), **figures, **share}))
        return
    for name, found in figures.items():
        print(f"{name}: bare {found['bare_images_per_s']:.0f} images/s, weights {found['memory_format']}")
        for precision, goal in GOALS.items():
            if f"{precision}_to_bare" in found:
                print(f"  precision {precision:<5} {found[f'{precision}_images_per_s']:7.0f} images/s, "
                      f"{found[f'{precision}_to_bare']:.2f} times the bare loop (goal {goal})")
    if not computes_in_bf16():
        print("bf16: left out, because this processor would emulate it")
    print(f"fetching and stamping: {share['loading_and_stamping_share']:.3f} of an epoch (goal at most 0.1)")


if __name__ == "__main__":
    main()
