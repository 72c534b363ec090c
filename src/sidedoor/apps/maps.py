"""Maps of a stored model: its attack success while the trigger looks otherwise than in training; nothing is trained.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR 2021 workshop, arXiv:2104.02361, which
moves the trigger and changes its pixel value. Further axes and the robust area are ours.

The clean sibling is asked about the same images: what it answers with the target class is no backdoor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sidedoor.apps.stored import attacked_case
from sidedoor.bench.case import Case, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.store import Store
from sidedoor.data.jpeg import compressed
from sidedoor.data.print_capture import photographed
from sidedoor.errors import ConfigError, unknown
from sidedoor.goals.base import Door
from sidedoor.metrics.statistics import wilson
from sidedoor.triggers.base import Axis, Trigger, stamp
from sidedoor.types import Batch, Images, Index

UNTOUCHED = 100
"""The JPEG quality that stands for no compression at all."""


class Line(NamedTuple):
    """One axis of a map.

    Args:
        words: with the unit.
        trained: where the trigger is as in training; None if that depends on it.
        on_image: what is done to a whole image with its trigger, by an amount; None: the trigger alone is varied.
    """

    words: str
    amounts: tuple[float, ...]
    trained: float | None
    on_image: Callable[[Images, Index, float], Images] | None = None


def _jpeg(x: Images, index: Index, quality: float) -> Images:
    return x if quality == UNTOUCHED else compressed(x, int(quality))


def _warmer(x: Images, index: Index, share: float) -> Images:
    """Red gains and blue loses by a share, as under a warmer light."""
    gains = torch.tensor([1 + share, 1.0, 1 - share], device=x.device)
    return (x * gains[:, None, None]).clamp(0, 1)


def _camera(x: Images, index: Index, strength: float) -> Images:
    return photographed(x, index, 0, strength)


_PIXELS = tuple(map(float, range(-5, 6)))
_TENTHS = tuple(k / 10 for k in range(11))
LINES: dict[str, Line] = {
    "right": Line("pixels to the right", _PIXELS, 0.0),
    "down": Line("pixels down", _PIXELS, 0.0),
    "value": Line("8-bit level of the lit pixels", (*map(float, range(0, 255, 16)), 255.0), None),
    "opacity": Line("opacity", _TENTHS, None),
    "size": Line("size, as a factor", (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), 1.0),
    "rotation": Line("degrees anticlockwise", (-45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0), 0.0),
    "blur": Line("blur of the trigger, σ in pixels", (0.0, 0.5, 1.0, 1.5, 2.0), 0.0),
    "amplitude": Line("amplitude, as a factor", tuple(2 * k for k in _TENTHS), 1.0),
    "jpeg": Line("JPEG quality of the image", (100.0, 95.0, 80.0, 65.0, 50.0, 35.0, 20.0), UNTOUCHED, _jpeg),
    "temperature": Line("red gained and blue lost, as a share", (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3), 0.0, _warmer),
    "camera": Line("simulated print and photograph, strength", (0.0, 0.25, 0.5, 0.75, 1.0), 0.0, _camera),
}
SHORT = {"shift": "right+down"}


@dataclass(frozen=True)
class Map:
    """Attack success over one axis or two.

    Args:
        axes: across and, if there are two, down.
        amounts: of each axis.
        success: (down, across), in [0, 1]; one row for one axis. Empty if not applicable.
        sibling: the same of the clean sibling.
        outside: where a part of the trigger lies outside the image.
        robust_area: share of the cells with at least half of the success as trained; None if that is below one half.
        robust_inside: the same share of the cells with the whole trigger in the image, where it is moved.
        not_applicable: why there is no map; empty if there is one.
    """

    axes: tuple[str, ...]
    amounts: tuple[tuple[float, ...], ...] = ()
    success: tuple[tuple[float, ...], ...] = ()
    sibling: tuple[tuple[float, ...], ...] = ()
    outside: tuple[tuple[bool, ...], ...] = ()
    robust_area: float | None = None
    robust_inside: float | None = None
    not_applicable: str = ""

    @property
    def name(self) -> str:
        return "+".join(self.axes)


@dataclass(frozen=True)
class Mapped:
    """The maps of one model.

    Args:
        images: that were asked about, of `eligible` test images; through each of the `doors`.
        trained: attack success on them as trained, with its 95 % Wilson interval; `sibling`, of the clean sibling.
    """

    key: str
    attack: str
    seed: int
    images: int
    eligible: int
    doors: int
    trained: float
    interval: tuple[float, float]
    sibling: float
    maps: tuple[Map, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Asked(NamedTuple):
    """Eligible images for one door."""

    door: Door
    batch: Batch


def axes_of(text: str) -> tuple[tuple[str, ...], ...]:
    """The maps that are asked for: names of axes, separated by commas; two joined by + are one map.

    Raises:
        ConfigError: an unknown axis, more than two in a map, or one twice.
    """
    found = tuple(tuple(SHORT.get(part.strip(), part.strip()).split("+")) for part in text.split(",") if part.strip())
    for axes in found or ((),):
        for axis in axes:
            if axis not in LINES:
                raise unknown("axis", axis, [*LINES, *SHORT])
        if not 1 <= len(set(axes)) == len(axes) <= 2:
            raise ConfigError(f"--axes {text!r} given; expected axes separated by commas, at most two different ones "
                              "joined by +, such as shift,value+opacity")
    return found


def map_model(store: Store, key: str, axes: Sequence[tuple[str, ...]], images: int, machine: Machine) -> Mapped:
    """The maps of the attacked model behind a result; defences are not applied.

    Args:
        images: that are asked about at most; spread over the eligible test images, the same for every model.

    Raises:
        ConfigError: no finished result of an attacked model has the key.
        CannotComplete: the model cannot be made again as it was, since code or data are others.
    """
    case = attacked_case(store, key, machine)
    attacked, clean = train_or_load(case), train_or_load(case.twin(case.spec.clean_models()[0]))
    models = attacked.model.eval(), clean.model.eval()
    asked = list(_asked(case, [door for door in attacked.doors if door.scored], images))
    with torch.no_grad(), case.run.autocast():
        trained = _success(case, models, asked, [part.door.trigger for part in asked], ())
        found = tuple(_map(case, models, asked, names, trained[0]) for names in axes)
    many = sum(len(part.batch.x) for part in asked)
    eligible = int(asked[0].door.goal.eligible(case.task, case.test.targets).sum())
    return Mapped(key, case.spec.attack_name, case.spec.seed, len(asked[0].batch.x), eligible, len(asked), trained[0],
                  wilson(trained[0] * many, many), trained[1], found)


def _asked(case: Case, doors: Sequence[Door], count: int) -> Iterator[_Asked]:
    for door in doors:
        eligible = torch.nonzero(door.goal.eligible(case.task, case.test.targets))[:, 0]
        order = torch.randperm(len(eligible), generator=torch.Generator().manual_seed(0))
        door.trigger.to(case.run.device).eval()
        yield _Asked(door, case.test.fetch(eligible[order[:count]].sort().values, case.run.device))


def _map(case: Case, models: Sequence[nn.Module], asked: Sequence[_Asked], axes: tuple[str, ...],
         trained: float) -> Map:
    lines = [LINES[axis] for axis in axes]
    if "temperature" in axes and case.test.shape[0] != 3:
        return Map(axes, not_applicable="grey images have no colour temperature")
    across, down = lines[0].amounts, lines[1].amounts if len(lines) == 2 else (0.0,)
    success: Float[Tensor, "models down across"] = torch.zeros(2, len(down), len(across))
    outside: Bool[Tensor, "down across"] = torch.zeros(len(down), len(across), dtype=torch.bool)
    for (k, b), (n, a) in itertools.product(enumerate(down), enumerate(across)):
        given = tuple(zip(axes, (a, b), strict=False))
        triggers = [_varied(part.door.trigger, given) for part in asked]
        there = [trigger for trigger in triggers if trigger is not None]
        if len(there) < len(triggers):
            return Map(axes, not_applicable=f"{type(asked[0].door.trigger).__name__} has no {' or '.join(axes)} that "
                                            "could be varied")
        success[:, k, n] = torch.tensor(_success(case, models, asked, there, given))
        outside[k, n] = any(map(_lost, (part.door.trigger for part in asked), there, asked)) if _moves(axes) else False
    kept, robust = success[0] >= trained / 2, trained >= 0.5
    return Map(axes, tuple(line.amounts for line in lines), _rows(success[0]), _rows(success[1]), _rows(outside),
               kept.float().mean().item() if robust else None,
               kept[~outside].float().mean().item() if robust and _moves(axes) and bool((~outside).any()) else None)


def _rows(grid: Tensor) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, grid.tolist()))


def _varied(trigger: Trigger, given: Sequence[tuple[str, float]]) -> Trigger | None:
    """The trigger with all that concerns it; as it is where an axis is one of whole images."""
    varied: Trigger | None = trigger
    for axis, amount in given:
        if varied is not None and LINES[axis].on_image is None:
            varied = varied.varied(cast(Axis, axis), amount)
    return varied


def _success(case: Case, models: Sequence[nn.Module], asked: Sequence[_Asked], triggers: Sequence[Trigger],
             given: Sequence[tuple[str, float]]) -> tuple[float, ...]:
    """The attack success of each model over the images of all doors."""
    reached: list[list[Tensor]] = [[] for _ in models]
    for (door, (x, y, index)), trigger in zip(asked, triggers, strict=True):
        stamped = stamp(trigger, x, index, case.test.space)
        for axis, amount in given:
            stamped = change(stamped, index, amount) if (change := LINES[axis].on_image) else stamped
        for model, found in zip(models, reached, strict=True):
            for part in case.run.chunks(len(x), x[0].numel()):
                found.append(case.task.reached(door.goal, case.task.predict(model, stamped[part]), y[part],
                                               index[part]))
    return tuple(torch.cat(found).mean().item() for found in reached)


def _moves(axes: tuple[str, ...]) -> bool:
    return not {"right", "down"}.isdisjoint(axes)


def _lost(before: Trigger, after: Trigger, part: _Asked) -> bool:
    """Whether a trigger changes fewer pixels once it is moved."""
    grey = torch.full_like(part.batch.x[:1], 0.37)
    changed = [int((trigger(grey, part.batch.index[:1]) != grey).any(1).sum()) for trigger in (before, after)]
    return changed[1] < changed[0]
