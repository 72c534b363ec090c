"""The owner's own trial: a network trained on the marked data, and one on the same rows without the mark."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sidedoor import registry
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.secret import Secret
from sidedoor.claims.result import Trial
from sidedoor.claims.suspects.model import ModelSuspect
from sidedoor.data.base import Dataset, Subset
from sidedoor.engine import Run
from sidedoor.metrics.dispersibility import dispersibility
from sidedoor.ownership.base import Verifier, pixels, stamped
from sidedoor.ownership.keys import Keys
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised

HELD_OUT = 0.2
"""Share of the rows that the networks are tested on."""
MOST = 2000
"""Rows that they are tested on."""


def tried(architecture: str | Mapping[str, Any], base: Dataset, marked: Dataset, secret: Secret, held: Dataset,
          test: Verifier, run: AttackerRun) -> Trial:
    """What the mark costs and whether it takes.

    Args:
        base: the rows of the release without the mark.
        held: the images of the test.
    """
    start, task = time.monotonic(), Classification(len(base.classes))
    order = torch.randperm(len(base), generator=run.rng("trial"))
    cut = max(1, round(HELD_OUT * len(base)))
    tested, rest = order[:min(cut, MOST)], order[cut:]
    reference = registry.reference("model", architecture)
    build = registry.make("model", reference, classes=task.classes, shape=base.shape)

    def trained(data: Dataset, name: str) -> ModelSuspect:
        model: nn.Module = run.fit(run.build(build), Subset(data, rest), Supervised(task), name=name)
        return ModelSuspect(model, task.classes, replace(run, scope="", history={}))

    unmarked, suspect, images = trained(base, "unmarked"), trained(marked, "marked"), Subset(base, tested)
    right = [float((each.answer(pixels(images)).labels == images.targets.numpy()).mean())
             for each in (unmarked, suspect)]
    verdict = test.verify(suspect, secret, held, task, Run(run.fabric, seed=run.seed))
    hits = round(Keys().verify(suspect, secret, held, task, run).statistic) if secret.labels else None
    spread, wrong, most = zip(*(_answers(suspect, stamped(trigger, images), images) for trigger in secret.triggers),
                              strict=True)
    return Trial(reference["name"], len(rest), len(tested), right[0], right[1], verdict.p_value, hits,
                 float(np.mean(spread)), float(np.mean(wrong)), float(np.mean(most)), time.monotonic() - start)


def _answers(suspect: ModelSuspect, asked: np.ndarray, images: Dataset) -> tuple[float, float, float]:
    """Of images with a trigger: dispersibility of their labels, share of wrong ones, share of the most frequent one."""
    labels = suspect.answer(asked).labels
    spread = dispersibility(torch.from_numpy(labels), images.targets, suspect.classes).value
    return spread, float((labels != images.targets.numpy()).mean()), float(np.bincount(labels).max() / len(labels))
