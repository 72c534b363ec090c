"""Explainers held against a trigger: rows of a table, for the model and for its clean sibling, beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Localisation
from sidedoor.explain.base import Explainer
from sidedoor.explain.baselines import NAMES, baseline
from sidedoor.explain.faithful import THRESHOLD, THRESHOLDS, chance, pointing, recovery, standardised, vanilla
from sidedoor.explain.triggered import Triggered, explained
from sidedoor.tasks.task import Task

MODEL, SIBLING, NOTHING = "model", "clean sibling", "none"


@dataclass(frozen=True)
class Row:
    """What a method says of the triggered images.

    Args:
        name: of the explainer or baseline.
        of: "model", "clean sibling", or "none" for a baseline.
        found: None where the method does not apply.
        reason: then, why.
        maps: of the images, on the CPU; None where there are none.
    """

    name: str
    of: str
    found: Localisation | None
    reason: str = ""
    maps: Float[Tensor, "n h w"] | None = None


def evaluate_explainers(explainers: Mapping[str, Explainer], model: nn.Module, sibling: nn.Module | None,
                        images: Triggered, task: Task, run: Run) -> tuple[Row, ...]:
    """A row for each explainer on the model, then on the clean sibling, then for each baseline.

    The sibling, which no trigger leads anywhere, is asked to explain the same target: what a method finds there it
    finds for another reason than the backdoor.

    Args:
        explainers: by name.
        sibling: the same network trained without the poison; None: no such rows.

    Raises:
        CannotComplete: a package that a method needs is not installed.
    """
    models = [(MODEL, model)] + ([(SIBLING, sibling)] if sibling is not None else [])
    rows = []
    with run.progress.task("explanations", len(explainers) * len(models)) as advance:
        for of, network in models:
            for name, explainer in explainers.items():
                rows.append(_row(name, of, explainer, network, images, task, run))
                advance()
    for name in NAMES:
        maps = baseline(name, images, run)
        found = localisation(maps, model, images, THRESHOLD)
        rows.append(Row(name, NOTHING, replace(found, method=name), maps=maps))
    return tuple(rows)


def _row(name: str, of: str, explainer: Explainer, network: nn.Module, images: Triggered, task: Task, run: Run) -> Row:
    try:
        maps, seconds = explained(explainer, network, images.triggered, images.target, task, run)
    except NotApplicable as error:
        return Row(name, of, None, str(error))
    found = localisation(maps, network, images, THRESHOLDS.get(name, THRESHOLD))
    return Row(name, of, replace(found, method=name, seconds=seconds), maps=maps)


def localisation(maps: Float[Tensor, "n h w"], model: nn.Module, images: Triggered, threshold: float) -> Localisation:
    """The means over the images of what `explain.faithful` measures.

    Args:
        threshold: of the vanilla evaluation.
    """
    area = images.area.cpu()
    boxed, boxes = vanilla(maps, area, threshold)
    parts = [recovery(model, images.x[k : k + 256], images.triggered[k : k + 256], boxes[k : k + 256])
             for k in range(0, len(maps), 256)]
    recovered, difference, boxless = (torch.cat([getattr(part, name) for part in parts]).mean().item()
                                      for name in ("recovered", "difference", "boxless"))
    return Localisation(pointing=pointing(maps, area).mean().item(), chance=area.float().mean().item(), n=len(maps),
                        iou=standardised(maps, area).mean().item(), chance_iou=chance(area).mean().item(),
                        box_iou=boxed.mean().item(), recovered=recovered, difference=difference, boxless=boxless)
