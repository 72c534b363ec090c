"""From a model and the truth to numbers: the four scores, how well a detector separates, how visible a trigger is.

Only this side knows triggers, targets and poisoned rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.core import random
from sidedoor.data.base import Dataset, Subset
from sidedoor.defenses.detectors.base import Detect
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.metrics import image_quality
from sidedoor.metrics.statistics import auroc, clustered, operating_point, wilson
from sidedoor.tasks.task import Scores, Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Purify

FPRS = (0.01, 0.05)
STEALTH_SAMPLES = 1000
STEALTH_VALUES = 2**22
"""Of the images that are compared at a time."""
AGAIN = 64
"""Inputs that a detector is asked about a second time."""


def evaluate(model: nn.Module, test: Dataset, task: Task, doors: Sequence[Door], run: Run,
             purify: Purify | None = None) -> Scores:
    """The four numbers of every test sample through every scored door; the clean one, which needs no door, once.

    Args:
        doors: of the backdoor; none for a model that was not attacked.
        purify: a fitted purifier that stands before the model.
    """
    parts = task.scores(model, test, _scored(doors, run), run, purify)
    if len(parts) == 1:
        return parts[0]
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Scores(parts[0].clean, torch.cat([part.attack for part in parts]),
                  torch.cat([part.recovered for part in parts]), torch.cat([part.idle for part in parts]), columns,
                  parts[0].groups)


def intervals(scores: Scores, task: Task, groups: Tensor | None = None) -> dict[str, tuple[float, float]]:
    """95 % intervals of the four numbers, over the samples that have them.

    Wilson's where a number is 0 or 1 for each sample. Elsewhere Student's over the means of groups, such as
    photographs, or over samples where there are none.
    """
    named = {"clean": scores.clean, "attack": scores.attack, "recovered": scores.recovered, "idle": scores.idle}
    found: dict[str, tuple[float, float]] = {}
    for name, values in named.items():
        present = ~values.isnan()
        if task.binary and present.any():
            found[name] = wilson(values[present].sum().item(), int(present.sum()))
        elif present.any():
            members = torch.arange(len(values)) if groups is None else groups.repeat(len(values) // len(groups))
            interval = clustered(values[present].numpy(), members[present].numpy())
            found |= {name: interval} if interval else {}
    return found


def stealth(test: Dataset, doors: Sequence[Door], run: Run) -> dict[str, float | None]:
    """Mean PSNR, SSIM and LPIPS between clean and stamped test images, 8-bit, over at most 1,000 images a door."""
    # Spread over the set, which may be in the order of its classes.
    count = min(len(test), STEALTH_SAMPLES)
    index = torch.arange(count) * len(test) // count
    parts: dict[str, list[Tensor | None]] = {"psnr": [], "ssim": [], "lpips": []}
    at_once = max(1, min(250, STEALTH_VALUES // math.prod(test.shape)))
    for door in _scored(doors, run):
        for chunk in torch.split(index, at_once):
            x, _, position = test.fetch(chunk, run.device)
            with torch.no_grad():
                stamped = stamp(door.trigger, x, position, test.space)
            for name, found in parts.items():
                found.append(getattr(image_quality, name)(x, stamped))
    return {name: _pooled(values) for name, values in parts.items()}


def suspicion(twins: tuple[Detect, Detect], test: Dataset, doors: Sequence[Door], task: Task, run: Run) \
        -> dict[str, Tensor]:
    """What a detector says of eligible stamped test images and of their clean originals, door after door.

    An image and its original never go to the same detector, which could remember the one and compare, and both kinds
    are asked about in one order that it cannot guess. Without a door all test images are innocent.

    Args:
        twins: the detector, fitted twice alike.

    Raises:
        ConfigError: the detector says something else of an input when it is asked again beside others.
    """
    if not doors:
        innocent = run.per_sample(nn.Identity(), test, lambda batch: {"innocent": twins[0](batch.x, batch.index)})
        return {"suspicious": torch.zeros(0)} | innocent
    parts = [_of_door(twins, test, door, task, run) for door in _scored(doors, run)]
    return {name: torch.cat([part[k] for part in parts]) for k, name in enumerate(("suspicious", "innocent"))}


def _of_door(twins: tuple[Detect, Detect], test: Dataset, door: Door, task: Task, run: Run) -> tuple[Tensor, Tensor]:
    """The suspicion of each eligible image with the trigger, and without it."""
    rows = torch.nonzero(door.goal.eligible(task, test.targets))[:, 0]
    # The content of the test set enters the order: the seed alone could be guessed.
    drawn = random.uniform(random.seed_of(run.seed, f"asked/{test.fingerprint()}"), rows)
    first = drawn.argsort().argsort() < len(rows) / 2
    found = torch.empty(2, len(rows))
    for carries, detect in zip((first, ~first), twins, strict=True):
        score = _answers(detect, _Asked(test, rows, carries, door, task), drawn.argsort(), run)
        found[0, carries], found[1, ~carries] = score[carries], score[~carries]
    return found[0], found[1]


def _answers(detect: Detect, asked: Dataset, order: Int[Tensor, "n"], run: Run) -> Float[Tensor, "n"]:
    """The suspicion of each input, asked for in an order."""
    def ask(batch: Batch) -> dict[str, Tensor]:
        return {"score": detect(batch.x, batch.index)}

    score = run.per_sample(nn.Identity(), Subset(asked, order), ask)["score"]
    again = run.per_sample(nn.Identity(), Subset(asked, order[:AGAIN].flip(0)), ask)["score"].flip(0)
    _check_again(score, again)
    return score[order.argsort()]


def _check_again(score: Tensor, again: Tensor) -> None:
    """Kernels round a sample otherwise in another batch, so that a few may differ; what has a memory differs in most.

    Raises:
        ConfigError: most differ.
    """
    off = (score[: len(again)] - again).abs() > 0.05 * score.std() + 1e-6
    if off.float().mean() > 0.5:
        raise ConfigError("the detector scores an input otherwise when it is asked again among others; a score must "
                          "depend on the input and its index alone, not on its neighbours or on earlier calls")


class _Asked(Dataset):
    """Test images of which some carry the trigger."""

    def __init__(self, test: Dataset, at: Int[Tensor, "n"], carries: Bool[Tensor, "n"], door: Door, task: Task):
        self.shape, self.classes, self.space, self.lazy = test.shape, test.classes, test.space, test.lazy
        self.targets, self.test, self.at_rows, self.carries = test.targets[at], test, at, carries
        self.door, self.task = door, task

    def rows(self, index: Tensor) -> Tensor:
        raise ConfigError("images that are stamped when they are asked for have no rows; use fetch")

    def position(self, index: Tensor) -> Tensor:
        return self.test.position(self.at_rows[index.cpu()])

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        index = index.cpu()
        batch = self.test.fetch(self.at_rows[index], device)
        stamped = self.task.triggered(self.door, batch, self.space)
        carries = self.carries[index][:, None, None, None].to(batch.x.device)
        return batch._replace(x=torch.where(carries, stamped, batch.x))

    def fingerprint(self) -> str:
        return self.test.fingerprint()


def separation(positive: Float[Tensor, "p"], negative: Float[Tensor, "q"],
               calibration: Float[Tensor, "c"]) -> dict[str, Any]:
    """AUROC, and at 1 % and 5 % nominal false positives the detection rate and the rate realised on the negatives.

    Thresholds come from the calibration scores alone: clean samples that the defender owns.
    """
    figures: dict[str, Any] = {"auroc": auroc(positive.numpy(), negative.numpy())}
    for fpr in FPRS:
        point = operating_point(positive.numpy(), negative.numpy(), calibration.numpy(), fpr)
        name = f"{fpr * 100:.0f}"
        figures |= {f"tpr_at_{name}": point["tpr"], f"fpr_at_{name}": point["fpr"],
                    f"too_small_at_{name}": float(bool(point["too_small"]))}
    return figures | {"n_positive": len(positive), "n_negative": len(negative), "n_calibration": len(calibration)}


def _scored(doors: Sequence[Door], run: Run) -> list[Door]:
    """The doors that count, their triggers on the run's device."""
    scored = [door for door in doors if door.scored]
    for door in scored:
        door.trigger.to(run.device).eval()
    return scored


def _pooled(values: list[Tensor | None]) -> float | None:
    present = [value for value in values if value is not None]
    return torch.cat(present).double().mean().item() if present else None
