"""A machine's proxy of the fooling rate: how often a small network takes stamped images for originals.

The fooling rate is that of people who are shown pairs (`apps/study`; Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu,
"Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP 2022, arXiv:2108.02488, section V-B). This is a proxy and
no substitute: a network that has learned one trigger from examples sees single levels, which nobody does, and does not
know what looks odd. A trigger that it does not find is one that people do not see either; the reverse does not hold.

The network learns on half of the test images, which the victim has never seen, and is judged on the other half; an
image and what the trigger makes of it are always in the same half.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.apps.stored import attacked_case
from sidedoor.bench.case import Case, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.store import Store
from sidedoor.data.base import ArrayDataset, stored
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door
from sidedoor.metrics.statistics import wilson
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import stamp

LEARNING = Recipe(optimizer="adam", lr=2e-3, weight_decay=0.0, schedule="one_cycle", epochs=30, batch=64)
FEWEST = 20
"""Eligible test images that a proxy takes, ten to learn from and ten to be judged on."""


@dataclass(frozen=True)
class FoolingProxy:
    """How well a network tells stamped images from originals.

    Args:
        learned, judged: pairs that it learned from and was judged on.
        balanced_error: mean of the share of originals taken for stamped and of stamped images taken for originals; 0.5
            is guessing.
        fooling_proxy: share of pairs in which the stamped image looks more original to it than the original, which is
            what people are asked; ties count half. Then its 95 % interval (Wilson).
    """

    key: str
    attack: str
    learned: int
    judged: int
    balanced_error: float
    fooling_proxy: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fooling_proxy(store: Store, key: str, images: int, machine: Machine) -> FoolingProxy:
    """The proxy for the trigger of a result; the model and its defences make no difference.

    Args:
        images: test images that are taken, at most.

    Raises:
        ConfigError: no finished result of an attacked classifier has the key, or too few test images are eligible.
        CannotComplete: the model cannot be made again as it was, since code or data are others.
    """
    case = attacked_case(store, key, machine)
    if case.spec.task["name"] != "classification":
        raise ConfigError(f"the result {key} is of the task {case.spec.task['name']}; expected one of classification")
    door = next(door for door in train_or_load(case).doors if door.scored)
    eligible = torch.nonzero(door.goal.eligible(case.task, case.test.targets))[:, 0]
    if min(images, len(eligible)) < FEWEST:
        raise ConfigError(f"{min(images, len(eligible))} eligible test images to take; expected at least {FEWEST}")
    order = torch.randperm(len(eligible), generator=torch.Generator().manual_seed(0))[:images]
    learned, judged = eligible[order].chunk(2)
    original, stamped = _scores(case, _network(case, _pairs(case, door, learned)), _pairs(case, door, judged))
    fooled = ((original > stamped).float() + 0.5 * (original == stamped).float()).sum().item()
    error = ((original > 0).float().mean() + (stamped <= 0).float().mean()).item() / 2
    low, high = wilson(fooled, len(judged))
    return FoolingProxy(key, case.spec.attack_name, len(learned), len(judged), error, fooled / len(judged), low, high)


def _pairs(case: Case, door: Door, index: Tensor) -> ArrayDataset:
    """Originals, class 0, then the same images stamped, class 1, as files have them."""
    images: list[Tensor] = []
    for rows in torch.split(index, 256):
        batch = case.test.fetch(rows, case.run.device)
        with torch.no_grad():
            after = stamp(door.trigger.to(case.run.device).eval(), batch.x, batch.index, case.test.space)
        images.append(torch.stack([stored(x, case.test.space).cpu() for x in (batch.x, after)]))
    return ArrayDataset(torch.cat(images, 1).flatten(0, 1), torch.arange(2).repeat_interleave(len(index)), 2)


def _network(case: Case, pairs: ArrayDataset) -> nn.Module:
    run = replace(case.run.within("fooling proxy"), recipe=LEARNING, augment=None)
    build = functools.partial(small_cnn, 2, case.test.shape)
    return run.fit(run.build(build), pairs, Supervised(Classification(2)), name="fooling proxy").eval()


def _scores(case: Case, network: nn.Module, pairs: ArrayDataset) -> Sequence[Float[Tensor, "k"]]:
    """How much originals, and the same images stamped, look stamped: above 0 more than not."""
    logits = []
    for rows in torch.split(torch.arange(len(pairs)), 256):
        with torch.no_grad():
            logits.append(network(pairs.fetch(rows, case.run.device).x).cpu())
    return torch.cat(logits).diff(dim=1)[:, 0].chunk(2)
