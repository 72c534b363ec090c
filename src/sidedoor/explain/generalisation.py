"""How far a backdoor generalises beyond its own trigger, measured in three ways.

Paper: Ya, Li, Dai, Wang, Jiang, Xia, "Towards Faithful XAI Evaluation via Generalization-Limited Backdoor Watermark",
ICLR 2024: where other patterns open the door too, the trigger is not the whole reason, and no explanation of it can be
marked by its pixels.

`reversed_triggers` is the paper's: the distance between masks that inversions recover and the true one. `ladder` needs
no inversion: unlike patterns of as many pixels, and how often they lead to the target. `deletion` asks what the
evaluation rests on: the label comes back when the trigger is covered, and stays away when any other place is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.inversion.forms import Form
from sidedoor.algorithms.inversion.mask_pattern import Recovered
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.explain.triggered import Triggered
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import Images, Index

Area = Bool[Tensor, "h w"]
GREY = 0.5
PLACES = 10
"""Other places that are covered in each image."""
ON = 0.5
"""From which share of its largest value a reversed mask counts as covering a pixel."""


class Inverts(Protocol):
    """What recovers masks and patterns, such as an `Inversion`, or an audit that has one."""

    @property
    def form(self) -> Form:
        """What its triggers are made of."""
        ...

    def recover(self, model: nn.Module, clean: Dataset, labels: Sequence[int], run: Run) -> Recovered:
        """A mask and a pattern for each of the labels."""
        ...


@dataclass(frozen=True)
class Reversed:
    """A reversed trigger beside the true one.

    Args:
        inversion: that found it.
        chamfer: mean distance to the nearest pixel of the other mask, of both directions, in pixels.
        l1: L1 distance of the masks, in pixels.
        pixels: L1 norm of the reversed mask.
        success: share of the images that it leads to the target; `loss`, their mean cross-entropy towards it.
    """

    inversion: str
    chamfer: float
    l1: float
    pixels: float
    success: float
    loss: float


def reversed_triggers(inversions: Mapping[str, Inverts], model: nn.Module, clean: Dataset, target: int, area: Area,
                      starts: int, run: Run) -> tuple[Reversed, ...]:
    """What each inversion finds from each of several starts; those that find nothing are left out.

    Args:
        clean: images of other classes than the target.
        area: of the true trigger, at one place in all images.
    """
    found, frozen = [], run.frozen(model)
    x = clean.fetch(torch.arange(min(len(clean), 256)), run.device).x
    for name, inversion in inversions.items():
        recovered = inversion.recover(model, clean, [target] * starts, run.within(f"{name}/"))
        for mask, pattern in zip(recovered.mask[recovered.success], recovered.pattern[recovered.success], strict=True):
            with torch.no_grad():
                stamped = inversion.form.stamped(x, mask[None, None].to(x.device), pattern[None, None].to(x.device),
                                                 clean.space)[0]
                logits = frozen(stamped).float()
            labels = torch.full((len(x),), target, device=x.device)
            found.append(Reversed(name, chamfer(mask[0] >= ON * mask.amax(), area),
                                  (mask[0] - area.float().cpu()).abs().sum().item(), mask.sum().item(),
                                  (logits.argmax(1) == labels).float().mean().item(),
                                  functional.cross_entropy(logits, labels).item()))
    return tuple(found)


def chamfer(first: Area, second: Area) -> float:
    """Mean distance from a pixel of one area to the nearest of the other, averaged over both directions, in pixels.

    Raises:
        ValueError: an area of no pixel.
    """
    points = [area.cpu().nonzero().numpy() for area in (first, second)]
    if min(map(len, points)) == 0:
        raise ValueError("the distance to an area of no pixel was asked for")
    apart = cdist(*points)
    return float((apart.min(1).mean() + apart.min(0).mean()) / 2)


@dataclass(frozen=True)
class Rung:
    """A pattern of as many pixels as the trigger.

    Args:
        name: what was done to the trigger.
        distance: from it, in [0, 1]: the L1 distance on a grey image over the largest that two patterns have which do
            not overlap.
        success: share of the images that it leads to the target.
    """

    name: str
    distance: float
    success: float


def ladder(model: nn.Module, images: Triggered, run: Run) -> tuple[Rung, ...]:
    """The trigger and patterns ever less like it, by their distance.

    Raises:
        NotApplicable: the trigger is at another place in each image, or shows what lies below it.
    """
    area, pattern = _opaque(images)
    rungs = []
    with torch.no_grad():
        for name, there, colours in _patterns(area, pattern, run):
            stamped = stamp(_Opaque(there, colours), images.x, images.index, images.space)
            hits = [model(stamped[rows]).argmax(1) == images.target[rows]
                    for rows in run.chunks(len(stamped), stamped[0].numel())]
            rungs.append(Rung(name, _distance((area, pattern), (there, colours)),
                              torch.cat(hits).float().mean().item()))
    return tuple(sorted(rungs, key=lambda rung: rung.distance))


def generalisation(rungs: Sequence[Rung]) -> float:
    """The area under success against distance, in [0, 1]: 0 where nothing but the trigger works, 1 where all does.

    Patterns at one distance count as one, by their mean.
    """
    distances = sorted({rung.distance for rung in rungs})
    means = [float(np.mean([rung.success for rung in rungs if rung.distance == each])) for each in distances]
    if distances[-1] < 1:
        distances, means = [*distances, 1.0], [*means, means[-1]]
    return float(np.trapezoid(means, distances))


@dataclass(frozen=True)
class Deletion:
    """What covering a place with the mean colour of the image does to triggered images.

    Args:
        trigger: share whose prediction is that of the original once the trigger is covered; near 1 if it is the reason.
        elsewhere: the same for other places of the same shape; near 0 if nothing else is.
        n: images; `places`, other places in each.
    """

    trigger: float
    elsewhere: float
    n: int
    places: int


@torch.no_grad()
def deletion(model: nn.Module, images: Triggered, run: Run) -> Deletion:
    """Cover the trigger, and other places of the same shape."""
    truth = torch.cat([model(images.x[rows]).argmax(1) for rows in run.chunks(len(images), images.x[0].numel())])

    def restored(area: Bool[Tensor, "n h w"]) -> float:
        colour = images.triggered.mean((2, 3), keepdim=True)
        covered = torch.where(area[:, None], colour, images.triggered)
        same = [model(covered[rows]).argmax(1) == truth[rows]
                for rows in run.chunks(len(images), images.x[0].numel())]
        return torch.cat(same).float().mean().item()

    shifts = _shifts(images.area, PLACES, run)
    elsewhere = [restored(images.area.roll(shift, (1, 2))) for shift in shifts]
    return Deletion(restored(images.area), float(np.mean(elsewhere)), len(images), len(shifts))


def _shifts(area: Bool[Tensor, "n h w"], count: int, run: Run) -> list[tuple[int, int]]:
    """Random shifts, around the edges, after which no area meets itself."""
    height, width = area.shape[1:]
    free = [(down, across) for down in range(height) for across in range(width)
            if (down or across) and not (area & area.roll((down, across), (1, 2))).any()]
    order = torch.randperm(len(free), generator=run.rng("other places")).tolist()
    return [free[k] for k in order[:count]]


class _Opaque(Trigger):
    """Given colours at given pixels."""

    area: Tensor
    pattern: Tensor

    def __init__(self, area: Area, pattern: Float[Tensor, "c h w"]):
        super().__init__()
        self.register_buffer("area", area)
        self.register_buffer("pattern", pattern)

    def forward(self, x: Images, index: Index) -> Images:
        return torch.where(self.area, self.pattern, x)


def _opaque(images: Triggered) -> tuple[Area, Float[Tensor, "c h w"]]:
    """The place and the colours of a trigger, in the images' units."""
    area = images.area[0]
    if not (images.area == area).all():
        raise NotApplicable("the trigger is at another place in each image, so that its pattern cannot be changed in "
                            "one way for all of them")
    if (images.space.low, images.space.high) != (0.0, 1.0):
        raise NotApplicable(f"images in the space {tuple(images.space)} given; patterns are changed in [0, 1]")
    seen = torch.where(area, images.triggered, 0)
    if not (seen == seen[0]).all():
        raise NotApplicable("the trigger shows what lies below it, so that it has no pattern of its own to be changed")
    return area, seen[0]


def _patterns(area: Area, pattern: Float[Tensor, "c h w"], run: Run) -> list[tuple[str, Area, Float[Tensor, "c h w"]]]:
    """What was done, and where which colours are then; colours are those of images in [0, 1]."""
    height, width = area.shape
    rows, columns = (area.any(dim).nonzero()[:, 0] for dim in (1, 0))
    size = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1
    down = -1 if rows.float().mean() >= height / 2 else 1
    across = -1 if columns.float().mean() >= width / 2 else 1
    found = [("itself", area, pattern)]
    for step in sorted({1, 2, size, max(size + 1, min(height, width) // 2)}):
        shift = step * down, step * across
        found.append((f"shifted by {step}", area.roll(shift, (0, 1)), pattern.roll(shift, (1, 2))))
    inverse = torch.where(area, 1 - pattern, 0)
    found += [(f"recoloured by {share:.0%}", area, torch.lerp(pattern, inverse, share))
              for share in (0.25, 0.5, 0.75, 1.0)]
    lower = torch.arange(height, device=area.device)[:, None] > rows.float().mean()
    found.append(("half recoloured", area, torch.where(lower, inverse, pattern)))
    colours, places = pattern[:, area], torch.zeros(2, int(area.sum()), dtype=torch.int64)
    order = torch.randperm(height * width, generator=run.rng("scattered"))[: places.shape[1]]
    line = int(rows[0]) * width + torch.arange(places.shape[1])
    for name, at in (("in a line", line % (height * width)), ("scattered", order)):
        there, moved = torch.zeros_like(area), torch.zeros_like(pattern)
        there.view(-1)[at.to(area.device)] = True
        moved.view(len(pattern), -1)[:, at.to(area.device)] = colours
        found.append((name, there, moved))
    return found


def _distance(first: tuple[Area, Tensor], second: tuple[Area, Tensor]) -> float:
    """Of two patterns on a grey image, over the sum of what each changes; colours are those of images in [0, 1]."""
    drawn = [torch.where(area, pattern, GREY) for area, pattern in (first, second)]
    most = 2 * (drawn[0] - GREY).abs().sum()
    return min(1.0, ((drawn[0] - drawn[1]).abs().sum() / most.clamp(min=1e-12)).item())
