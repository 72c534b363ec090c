"""Query-based re-activation: a trigger near the old one that works on the delivered model, found by asking it.

Paper: Zhu, Liang, Wu, "Breaking the False Sense of Security in Backdoor Defense through Re-Activation Attack", NeurIPS
2024, arXiv:2405.16134: the backdoor often stays in a defended model and answers to a trigger close to the planted one.
The search here is the random one of Square Attack (Andriushchenko et al., ECCV 2020, arXiv:1912.00049, sampling of
squares as in their section 3.2) for one perturbation of all images, which is added to what the trigger makes of
them.

The same search is made on the clean sibling: a perturbation of this size misleads any network now and then, and only
the difference speaks for the backdoor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.universal_towards import margin
from sidedoor.bench.after.base import eligible_rows
from sidedoor.bench.case import Case
from sidedoor.bench.record import Means
from sidedoor.evaluation import evaluate
from sidedoor.goals.base import Door
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Images, Index

BOUND = 16 / 255
"""Largest change of a value of the triggered image."""
IMAGES = 64
QUERIES = 300
"""Batches of images that the model is asked about."""
FIRST_SHARE = 0.3
"""Of the image, that the first square covers; the side shrinks with the root of what is left to ask."""


class Moved(Trigger):
    """A trigger with a perturbation added.

    Args:
        delta: of every image.
    """

    def __init__(self, trigger: Trigger, delta: Float[Tensor, "c h w"]):
        super().__init__()
        self.trigger = trigger
        self.register_buffer("delta", delta)

    def forward(self, x: Images, index: Index) -> Images:
        moved: Tensor = self.trigger(x, index) + self.delta
        return moved


def measure(case: Case, doors: Sequence[Door], finished: nn.Module, clean: nn.Module | None) -> Means:
    """Attack success of the best trigger found on the delivered model, `searched`, and on its clean sibling,
    `searched_clean`.
    """
    return {} if clean is None else reached(case, doors, {"searched": finished, "searched_clean": clean})


def reached(case: Case, doors: Sequence[Door], models: Mapping[str, nn.Module]) -> Means:
    """Attack success of the best trigger found on each model, by the model's name."""
    door = next((door for door in doors if door.scored), None)
    if door is None:
        return {}
    columns: Means = {}
    for name, model in models.items():
        near = Door(Moved(door.trigger, found(case, door, model)).to(case.run.device), door.goal)
        columns[name] = evaluate(model, case.test, case.task, [near], case.run).means()["attack"]
    return columns


@torch.no_grad()
def found(case: Case, door: Door, model: nn.Module) -> Float[Tensor, "c h w"]:
    """The perturbation within `BOUND` under which the mean margin of the target is largest, of those tried."""
    rng, train, device = case.run.rng("after/search"), case.train, case.run.device
    x, y, index = train.fetch(eligible_rows(train, case, door, IMAGES, "searched"), device)
    label = door.goal.target(case.task, y, index)
    model.eval()

    def value(delta: Tensor) -> float:
        moved = Moved(door.trigger, delta).to(device)
        return margin(model(stamp(moved, x, index, train.space)).float(), label).mean().item()

    channels, height, width = train.shape
    best = torch.zeros(train.shape, device=device)
    reached = value(best)
    for query in range(QUERIES):
        area = FIRST_SHARE * height * width * (1 - query / QUERIES)
        side = max(1, min(round(math.sqrt(area)), height, width))
        top, left = (int(torch.randint(0, size - side + 1, (), generator=rng)) for size in (height, width))
        sign = torch.randint(0, 2, (channels, 1, 1), generator=rng).to(device) * 2.0 - 1
        tried = best.clone()
        tried[:, top : top + side, left : left + side] = BOUND * sign
        if (now := value(tried)) > reached:
            best, reached = tried, now
    return best
