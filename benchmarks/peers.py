"""STRIP, Neural Cleanse and stamping beside the loops over samples or classes that public toolboxes run.

    python benchmarks/peers.py [--only strip inversion stamping copy] [--json]

The baselines are our own restatements of these loops: STRIP superimposes one overlay after the other and predicts image
by image; Neural Cleanse takes one class after the other, each with a data loader, and leaves none early; a set is
stamped by a function of one image. They start from the same numbers, so the results must agree. `bound` is the ratio
that would be left if ours took no more time than the network itself takes for the images that ours shows it. Stamped
batches are also compared with copies of them, beside five bare passes over a buffer, the least that a trigger,
clipping, scaling, rounding and scaling back take without a kernel of their own. Seconds are those of a processor on one
thread; rounds alternate and the shortest counts. About two minutes on an idle core.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from sidedoor import zoo
from sidedoor.algorithms.inversion.mask_pattern import Recovered
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun, Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.core import random
from sidedoor.data.base import ArrayDataset, Dataset, Subset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.audits.neural_cleanse import NeuralCleanse
from sidedoor.defenses.detectors.strip import POOL, Strip
from sidedoor.engine import Recipe, Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.patch import Patch, checkerboard
from sidedoor.triggers.sinusoid import Sinusoid
from sidedoor.types import PHOTO, Images

TASK = Classification(10)
RUN = Run.local(Recipe(epochs=6), device="cpu")
OVERLAYS = 100
STRIP_IMAGES = 8
AUDIT = NeuralCleanse(epochs=30, samples=192, patience=2, stopping=6)
MARGIN = 1.25
ROWS = 1024
GOALS = {"strip": 2.0, "inversion": 3.0, "copy": 0.4}


def shortest(work: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Seconds that the process computes for each piece of work; a first round warms up and does not count."""
    seconds = dict.fromkeys(work, math.inf)
    for measured in range(rounds + 1):
        for name, do in work.items():
            start = time.process_time()
            for _ in range(calls):
                do()
            if measured:
                seconds[name] = min(seconds[name], (time.process_time() - start) / calls)
    return seconds


def noise(rows: int) -> ArrayDataset:
    """Noise images of CIFAR-10's size."""
    pixels = torch.randint(0, 256, (rows, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ArrayDataset(pixels, torch.arange(rows) % 10, 10)


def strip_image_by_image(model: nn.Module, x: Images, pool: Images, choice: Tensor) -> list[float]:
    """Minus the mean entropy of each image; what is superimposed on it was drawn before."""
    pool_array, scores = pool.numpy(), []
    for image, drawn in zip(x.numpy(), choice.numpy(), strict=True):
        blends = [np.clip(image + pool_array[k], 0, 1) for k in drawn]
        with torch.no_grad():
            probability = torch.softmax(model(torch.from_numpy(np.stack(blends))), 1).numpy()
        scores.append(float((probability * np.log2(probability + 1e-12)).sum(1).mean()))
    return scores


def strip(network: Mapping[str, Any]) -> dict[str, Any]:
    """STRIP on images of CIFAR-10's size; an untrained network answers as fast as a trained one."""
    data = noise(POOL)
    model = zoo.network(network, data)().eval()
    ours = Strip(overlays=OVERLAYS).fit(model, data, TASK, RUN)
    x, _, index = data.fetch(torch.arange(STRIP_IMAGES))
    pool = data.fetch(torch.randperm(len(data), generator=RUN.rng("pool"))[:POOL]).x
    choice = random.integers(random.seed_of(RUN.seed, f"{RUN.scope}overlays"), index, len(pool), OVERLAYS)
    frozen = RUN.frozen(model)
    parts = list(RUN.chunks(STRIP_IMAGES * OVERLAYS, x[0].numel()))
    blend = x.repeat_interleave(OVERLAYS, 0)

    def network_alone() -> None:
        with torch.no_grad():
            for part in parts:
                frozen(blend[part])

    seconds = shortest({"ours": lambda: ours(x, index), "alone": network_alone,
                        "baseline": lambda: strip_image_by_image(model, x, pool, choice)}, 2)
    apart = (ours(x, index) - torch.tensor(strip_image_by_image(model, x, pool, choice))).abs().max().item()
    return compared(seconds, seconds["baseline"] / seconds["alone"], apart <= 1e-4, f"scores within {apart:.0e}",
                    GOALS["strip"])


def backdoored_digits() -> tuple[nn.Module, Dataset]:
    """A network with a patch as its backdoor, and clean images to audit it with."""
    train, test = digits(Where(None))
    build = zoo.network("small_cnn", train)
    backdoor = BadNets(rate=0.1).plan(train, TASK, build, AttackerRun.local(device="cpu"))
    model = RUN.fit(RUN.build(build), PoisonedDataset(train, backdoor, TASK), Supervised(TASK), name="victim")
    return model, Subset(test, torch.arange(200))


class OneClass:
    """Neural Cleanse for one class, as a loop: mask, pattern and cost of its own."""

    def __init__(self, label: int, shape: tuple[int, int, int]):
        start = torch.rand(1 + shape[0], *shape[1:], generator=RUN.rng(f"label {label}"))
        self.mask, self.pattern = (torch.atanh((2 * part - 1) * (1 - 1e-6)).requires_grad_()
                                   for part in (start[:1], start[1:]))
        self.optimiser = torch.optim.Adam([self.mask, self.pattern], lr=AUDIT.lr, betas=(0.5, 0.9))
        self.label, self.cost, self.best = label, 0.0, math.inf
        self.won = self.lost = self.stale = 0
        self.raised = self.lowered = False

    def search(self, model: nn.Module, clean: TensorDataset) -> float:
        """The norm of the smallest successful mask."""
        for epoch in range(AUDIT.epochs):
            order = torch.randperm(len(clean), generator=RUN.rng(f"order/{epoch}"))[: AUDIT.samples].tolist()
            hits = sum(self.step(model, x) for x, in DataLoader(clean, AUDIT.batch, sampler=order))
            norm = (self.mask.tanh() / 2 + 0.5).sum().item()
            if self.end_epoch(hits / len(order) >= AUDIT.success, norm):
                break
        return self.best

    def step(self, model: nn.Module, x: Images) -> int:
        mask, pattern = self.mask.tanh() / 2 + 0.5, self.pattern.tanh() / 2 + 0.5
        logits = model((1 - mask) * x + mask * pattern)
        target = torch.full((len(x),), self.label)
        loss = functional.cross_entropy(logits, target) + self.cost * mask.sum()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return int((logits.argmax(1) == target).sum())

    def end_epoch(self, success: bool, norm: float) -> bool:
        """Whether nothing has become better for long enough."""
        better = success and norm < self.best
        self.best = norm if better else self.best
        self.stale = 0 if better or math.isinf(self.best) else self.stale + 1
        self.won, self.lost = (self.won + 1, 0) if success else (0, self.lost + 1)
        if self.won >= AUDIT.patience:
            self.raised, self.won = self.raised or self.cost > 0, 0
            self.cost = self.cost * AUDIT.raising or AUDIT.cost
        elif self.lost >= AUDIT.patience:
            self.lowered, self.lost = self.lowered or self.cost > 0, 0
            self.cost /= AUDIT.lowering
        return self.raised and self.lowered and self.stale >= AUDIT.stopping


def inversion() -> dict[str, dict[str, Any]]:
    """Neural Cleanse on digits, every class to its end and with classes that are left."""
    victim, clean = backdoored_digits()
    plain = zoo.network("small_cnn", clean)()
    plain.load_state_dict(victim.state_dict())
    plain.eval().requires_grad_(False)
    pixels = TensorDataset(clean.fetch(torch.arange(len(clean))).x)
    start = time.process_time()
    norms = [OneClass(label, clean.shape).search(plain, pixels) for label in range(10)]
    baseline = time.process_time() - start
    smallest = int(np.argmin(norms))
    rows = {}
    for margin in (0.0, MARGIN):
        found, seconds, alone = recovered(victim, clean, margin)
        same, ratio = int(found.norm.argmin()) == smallest, found.norm[smallest].item() / norms[smallest]
        note = f"class {smallest} {'too' if same else 'MISSED'}, its norm {ratio:.3f} times"
        name = f"Neural Cleanse, {f'margin {margin}' if margin else 'every class to its end'}"
        equal = same and abs(ratio - 1) <= 0.05
        rows[name] = compared({"ours": seconds, "baseline": baseline}, baseline / alone, equal, note,
                              GOALS["inversion"] if margin else None)
    return rows


def recovered(model: nn.Module, clean: Dataset, margin: float) -> tuple[Recovered, float, float]:
    """What ours finds, its seconds, and those that the network takes for as many images, forwards and backwards."""
    shown: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    audit = NeuralCleanse(AUDIT.epochs, AUDIT.samples, AUDIT.batch, patience=AUDIT.patience, stopping=AUDIT.stopping,
                          margin=margin)
    start = time.process_time()
    found = audit.recover(model, clean, range(10), RUN)
    seconds = time.process_time() - start
    hook.remove()
    frozen = RUN.frozen(model)
    x = torch.rand(320, *clean.shape, requires_grad=True)
    gradient = shortest({"": lambda: torch.autograd.grad(frozen(x).sum(), x)}, 5)[""]
    return found, seconds, gradient / len(x) * sum(shown)


def picture() -> Tensor:
    return torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(1)).float() / 255


def triggers() -> dict[str, Trigger]:
    return {"patch": Patch(checkerboard(3)), "blend": Blend(picture()), "sinusoid": Sinusoid()}


def of_one_image(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function of one 8-bit image (h, w, c), as data sets of toolboxes call it row by row."""
    pattern = picture().permute(1, 2, 0).numpy()
    corner = checkerboard(3)[0].numpy()[..., None]
    wave = (20 / 255 * np.sin(2 * np.pi * 6 * np.arange(1, 33) / 32)).astype(np.float32)[:, None]

    def stamped(image: np.ndarray) -> np.ndarray:
        x = image.astype(np.float32) / 255
        if name == "patch":
            x[-3:, -3:] = corner
        elif name == "blend":
            x = np.float32(0.8) * x + np.float32(0.2) * pattern
        else:
            x = x + wave
        return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)

    return stamped


def stamping(name: str) -> dict[str, Any]:
    """Poisoned rows of CIFAR-10's size, beside a loop over images."""
    data, rows = noise(ROWS), torch.arange(ROWS)
    backdoor = Backdoor((Door(triggers()[name], AllToOne(0)),),
                        Poison(rows, torch.zeros_like(rows), torch.zeros(ROWS, dtype=torch.bool)))
    arrays, one = data.rows(rows).permute(0, 2, 3, 1).contiguous().numpy(), of_one_image(name)

    def loop() -> np.ndarray:
        return np.stack([one(image) for image in arrays])

    seconds = shortest({"ours": lambda: PoisonedDataset(data, backdoor, TASK), "baseline": loop}, 3)
    same = torch.equal(PoisonedDataset(data, backdoor, TASK).images, torch.from_numpy(loop()).permute(0, 3, 1, 2))
    return compared(seconds, None, same, "the same images" if same else "OTHER images", None)


def compared(seconds: Mapping[str, float], bound: float | None, equal: bool, note: str,
             goal: float | None) -> dict[str, Any]:
    return {"ours": seconds["ours"], "baseline": seconds["baseline"], "ratio": seconds["baseline"] / seconds["ours"],
            "bound": bound, "equal": equal, "note": note, "goal": goal}


def of_a_copy(rows: int) -> dict[str, float]:
    """How fast a batch of CIFAR-10's size is stamped, as a share of the speed of copying it."""
    x, index, buffer = noise(rows).fetch(torch.arange(rows)).x, torch.arange(rows), torch.rand(rows, 3, 32, 32)
    work: dict[str, Callable[[], object]] = {"copy": x.clone}
    for name, trigger in triggers().items():
        work[name] = functools.partial(stamp, trigger, x, index, PHOTO)
    pattern = picture()
    work["five bare passes"] = lambda: (
        torch.lerp(x, pattern, 0.2, out=buffer).clamp_(0.0, 1.0).mul_(255).round_().div_(255))
    with torch.no_grad():
        seconds = shortest(work, 12, 2)
    return {name: seconds["copy"] / second for name, second in seconds.items() if name != "copy"}


def line(name: str, row: Mapping[str, Any]) -> str:
    """One row of the first table."""
    bound = "-" if row["bound"] is None else f"{row['bound']:.2f}"
    goal = "" if row["goal"] is None else f"goal {row['goal']:g}, {'met' if row['ratio'] >= row['goal'] else 'MISSED'}"
    equal = row["note"] if row["equal"] else f"UNEQUAL: {row['note']}"
    return f"{name:<40} {row['ours']:>8.3f} {row['baseline']:>10.3f} {row['ratio']:>7.2f} {bound:>7}  {equal}  {goal}"


def peers(parts: list[str]) -> dict[str, dict[str, Any]]:
    """The rows of the first table."""
    rows: dict[str, dict[str, Any]] = {}
    if "strip" in parts:
        for network in ({"name": "small_cnn"}, {"name": "resnet18", "width": 16}):
            rows[f"STRIP, {network['name']}"] = strip(network)
    if "inversion" in parts:
        rows |= inversion()
    if "stamping" in parts:
        rows |= {f"stamping, {name}": stamping(name) for name in triggers()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ["strip", "inversion", "stamping", "copy"]
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as cells of a sweep compute
    rows = peers(options.only)
    copies = {rows: of_a_copy(rows) for rows in (256, 1024, 4096)} if "copy" in options.only else {}
    if options.json:
        print(json.dumps({"peers": rows, "of_a_copy": copies}, indent=1))
        return
    print(f"{'':<40} {'ours s':>8} {'baseline s':>10} {'ratio':>7} {'bound':>7}")
    for name, row in rows.items():
        print(line(name, row))
    for count, speeds in copies.items():
        print(f"stamping {count} images, speed as a share of a copy's (goal {GOALS['copy']:g}): "
              + ", ".join(f"{name} {speed:.2f}" for name, speed in speeds.items()))


if __name__ == "__main__":
    main()
