"""From a model and the truth to numbers: the four scores, how well a detector separates, how visible a trigger is.

Only this side knows triggers, targets and poisoned rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.detectors.base import Detect
from sidedoor.engine import Run
from sidedoor.goals.base import Door
from sidedoor.metrics import image_quality
from sidedoor.metrics.statistics import auroc, clustered, operating_point, wilson
from sidedoor.tasks.task import Scores, Task
from sidedoor.triggers.base import stamp
from sidedoor.types import Batch, Purify

FPRS = (0.01, 0.05)
STEALTH_SAMPLES = 1000


def evaluate(model: nn.Module, test: Dataset, task: Task, doors: Sequence[Door], run: Run,
             purify: Purify | None = None) -> Scores:
    """The four numbers of every test sample through every scored door; the clean one, which needs no door, once.

    Args:
        doors: of the backdoor; none for a model that was not attacked.
        purify: a fitted purifier that stands before the model.
    """
    scored: list[Door | None] = [*_scored(doors, run)]
    parts = [task.score(model, test, door, run, purify) for door in scored or [None]]
    if len(parts) == 1:
        return parts[0]
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Scores(parts[0].clean, torch.cat([part.attack for part in parts]),
                  torch.cat([part.recovered for part in parts]), torch.cat([part.idle for part in parts]), columns)


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
    for door in _scored(doors, run):
        for chunk in torch.split(index, 250):
            x, _, position = test.fetch(chunk, run.device)
            with torch.no_grad():
                stamped = stamp(door.trigger, x, position, test.space)
            for name, found in parts.items():
                found.append(getattr(image_quality, name)(x, stamped))
    return {name: _pooled(values) for name, values in parts.items()}


def suspicion(detect: Detect, test: Dataset, doors: Sequence[Door], task: Task, run: Run) -> dict[str, Tensor]:
    """What a detector says of eligible stamped test images and of their clean originals, door after door.

    Without a door all test images are innocent.
    """
    columns: dict[str, list[Tensor]] = {"suspicious": [], "innocent": []}
    if not doors:
        innocent = run.per_sample(nn.Identity(), test, lambda batch: {"innocent": detect(batch.x, batch.index)})
        return {"suspicious": torch.zeros(0)} | innocent
    for door in _scored(doors, run):

        def rows(batch: Batch, door: Door = door) -> dict[str, Tensor]:
            stamped = stamp(door.trigger, batch.x, batch.index, test.space)
            return {"suspicious": detect(stamped, batch.index), "innocent": detect(batch.x, batch.index),
                    "eligible": door.goal.eligible(task, batch.y)}

        table = run.per_sample(nn.Identity(), test, rows)
        for name, column in columns.items():
            column.append(table[name][table["eligible"].bool()])
    return {name: torch.cat(column) for name, column in columns.items()}


def separation(positive: Float[Tensor, "p"], negative: Float[Tensor, "q"],
               calibration: Float[Tensor, "c"]) -> dict[str, float | None]:
    """AUROC, and at 1 % and 5 % nominal false positives the detection rate and the rate realised on the negatives.

    Thresholds come from the calibration scores alone: clean samples that the defender owns.
    """
    figures: dict[str, float | None] = {"auroc": auroc(positive.numpy(), negative.numpy())}
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
