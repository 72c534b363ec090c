"""Contract of an attack's tags: what the registry says of it, beside what its poison and its triggers do."""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection, Sequence

import torch
from torch import nn

from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access, Backdoor
from sidedoor.data.base import Dataset
from sidedoor.goals.base import Door
from sidedoor.metrics.image_quality import psnr, ssim
from sidedoor.registry import FACETS
from sidedoor.testing.ground import Ground, equal_states, require
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import PHOTO

SEEN = ((27.0, 0.93), (33.0, 0.965))
"""PSNR in dB and SSIM below which a trigger is visible, and above which it is not: 30 and 0.95, less and more what the
images make of it. Between them the attack's word counts."""
SAMPLES = 8


def check_tags(who: str, tags: Collection[str], attack: Attack, backdoor: Backdoor, delivered: Sequence[Door],
               here: Ground) -> None:
    """An attack has a tag of each facet, and those that can be measured are right.

    Args:
        tags: as the registry has them.
        delivered: the doors with what training taught their triggers.

    Raises:
        AssertionError: which tag is missing or wrong.
    """
    _check_complete(who, tags, attack)
    _check_goal(who, tags, attack, here)
    if attack.access is Access.DATA:
        _same(who, tags, "label", "clean_label" if keeps_labels(backdoor, here.train) else "poison_label",
              "going by the labels of its poisoned rows")
    _same(who, tags, "trigger", "optimised" if _learned(attack, backdoor, delivered, here) else "fixed",
          "since its trigger {} on the network that it is planted with".format(
              "depends" if "fixed" in tags else "does not depend"))
    for door in delivered:
        if door.scored:
            _check_change(who, tags, door.trigger, here)


def _check_complete(who: str, tags: Collection[str], attack: Attack) -> None:
    """One tag of each facet, and none that there is not."""
    free = {"label"} if attack.access is not Access.DATA else set()
    free |= {"targets"} if not attack.goal.aimed else set()
    for facet, known in FACETS.items():
        said = [tag for tag in tags if tag in known]
        require(len(said) == (facet not in free), who, f"has the tags {said} of the facet {facet!r}; expected "
                f"{'none' if facet in free else 'one'} of {', '.join(known)}")
    declared = {tag for base in type(attack).__mro__ for tag in vars(base).get("tags", ())}
    unknown = declared - {tag for known in FACETS.values() for tag in known}
    require(not unknown, who, f"declares unknown tags: {', '.join(sorted(unknown))}")


def _same(who: str, tags: Collection[str], facet: str, measured: str, why: str) -> None:
    said = next(tag for tag in tags if tag in FACETS[facet])
    require(said == measured, who, f"is tagged {said}, but it is {measured}, {why}")


def _check_goal(who: str, tags: Collection[str], attack: Attack, here: Ground) -> None:
    aimed = attack.goal.aimed
    _same(who, tags, "aim", "targeted" if aimed else "untargeted", "going by its goal")
    if aimed and attack.goal.output == "labels":
        several = len(_targets(attack, here)) > 1
        _same(who, tags, "targets", "multi_target" if several else "single_target", "going by its goal's targets")


def _targets(attack: Attack, here: Ground) -> set[int]:
    """The classes that eligible samples are led to."""
    y, index, found = here.train.targets, torch.arange(len(here.train)), set[int]()
    for part in attack.goal.parts():
        eligible = part.eligible(here.task, y)
        found |= set(part.target(here.task, y, index)[eligible].tolist())
    return found


def keeps_labels(backdoor: Backdoor, train: Dataset) -> bool:
    """Whether the poisoned rows have their true labels."""
    poison = backdoor.poison
    return poison.targets is not None and torch.equal(poison.targets, train.targets[poison.index])


def _learned(attack: Attack, planned: Backdoor, delivered: Sequence[Door], here: Ground) -> bool:
    """Whether training changed the triggers, or another surrogate would have."""
    if attack.access is Access.DATA:
        delivered = attack.plan(here.train, here.task, functools.partial(_turned, here), here.attacker).doors
    return not all(equal_states([before.trigger, after.trigger])
                   for before, after in zip(planned.doors, delivered, strict=True))


def _turned(here: Ground) -> nn.Module:
    """A network with all weights negated."""
    network = here.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    return network


def _check_change(who: str, tags: Collection[str], trigger: Trigger, here: Ground) -> None:
    x, _, index = here.test.fetch(torch.arange(SAMPLES))
    with torch.no_grad():
        own = _depends_on_image(trigger, x, index)
        _same(who, tags, "specificity", "sample_specific" if own else "agnostic",
              f"since what becomes of a pixel depends on {'more than' if own else 'nothing but'} the pixel")
        # How visible a network's stamp is, a few steps of training do not show.
        if next(trigger.parameters(), None) is None and here.test.space == PHOTO:
            stamped = stamp(trigger.eval(), x, index, here.test.space)
            _check_visible(who, tags, psnr(x, stamped).mean().item(), ssim(x, stamped).mean().item())


def _depends_on_image(trigger: Trigger, x: torch.Tensor, index: torch.Tensor) -> bool:
    """Whether two images mixed pixel by pixel are stamped otherwise than what the two become, mixed alike."""
    trigger, x = copy.deepcopy(trigger).eval().double(), x.double()
    first = torch.rand(1, *x.shape[2:], generator=torch.Generator().manual_seed(0)) < 0.5
    other, at = x.roll(1, 0), index.roll(1, 0)
    mixed = torch.where(first, trigger(x, index), trigger(other, at))
    return not torch.allclose(trigger(torch.where(first, x, other), index), mixed, rtol=0, atol=1e-9)


def _check_visible(who: str, tags: Collection[str], db: float, similarity: float) -> None:
    (low, least), (high, most) = SEEN
    measured = f"PSNR {db:.1f} dB and SSIM {similarity:.3f} on the contract's images"
    if db < low or similarity < least:
        _same(who, tags, "visibility", "visible", f"with {measured}")
    elif db > high and similarity > most:
        _same(who, tags, "visibility", "invisible", f"with {measured}")
