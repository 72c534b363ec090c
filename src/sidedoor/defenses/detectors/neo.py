"""NEO: a black-box input detector that covers parts of an input and pastes what changed its label on clean images.

Paper: Udeshi, Peng, Woo, Loh, Rawshan, Chattopadhyay, "Model Agnostic Defence against Backdoor Attacks in Machine
Learning", IEEE Transactions on Reliability 2022, arXiv:1908.02203.

A block of the dominant colour of the input, the largest of three clusters of its pixels, hides a trigger that lies
under it, and the label changes. So it does where the block hides what the input shows; but only a trigger, pasted in
the same place on clean images, leads most of them to the label that the input had.

Ours tries two sizes of block on a grid of half of their side, where the paper draws places: of the few draws that touch
a corner fewer hide all of a trigger in it. The score is the share of clean images that follow, of the block that wins
most; the paper takes an input for triggered above 0.8. Triggers larger than a block stay unseen, and so do blends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Run
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index

SIDES = (8, 4)
"""How many blocks of each size lie side by side in an image."""
STEPS = 10
"""Of Lloyd's algorithm on the pixels of an input."""


@dataclass(frozen=True)
class NEO(InputDetector):
    """Score an input by the clean images that follow one of its blocks, of those without which its label is another.

    Args:
        images: clean ones that blocks are pasted on.
        step: between neighbouring blocks, as a share of their side, above 0.
    """

    origins: ClassVar[dict[str, str]] = {
        "images": "ours: shares of twenty are fine enough for a threshold",
        "step": "ours: a trigger of half a block's side is hidden wherever it lies",
    }
    quick: ClassVar[dict[str, Any]] = {"images": 8, "step": 1.0}
    needs: ClassVar[Needs] = Needs(model="labels", clean="images")

    images: Count = 20
    step: Positive = 0.5

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to shares of clean images."""
        frozen, blocks = run.frozen(model), grid(*clean.shape[1:], self.step).to(run.device)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.images]
        pasted_on = clean.fetch(chosen, run.device).x

        @torch.no_grad()
        def labels(x: Images) -> Int[Tensor, "b"]:
            with run.autocast():
                found: Tensor = task.predict(frozen, x).argmax(1)
            return found

        usual = labels(pasted_on)

        def changes(x: Images, label: Int[Tensor, "b"]) -> Bool[Tensor, "b p"]:
            """Which of the blocks change the label of each input that they hide a part of."""
            colour = dominant(x)[:, None, :, None, None]
            hidden = torch.where(blocks[:, None], colour, x[:, None])
            return labels(hidden.flatten(0, 1)).view(len(x), -1) != label[:, None]

        def followers(x: Images, place: Bool[Tensor, "b h w"], label: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
            """The share of clean images with other labels that get that of an input with its block."""
            pasted = torch.where(place[:, None, None], x[:, None], pasted_on)
            others = (usual != label[:, None]).float()
            follow = (labels(pasted.flatten(0, 1)).view(len(x), -1) == label[:, None]).float()
            return (follow * others).sum(1) / others.sum(1).clamp(min=1)

        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            label = labels(x)
            changed = torch.cat([changes(x[rows], label[rows])
                                 for rows in run.chunks(len(x), len(blocks) * x[0].numel())])
            row, block = torch.nonzero(changed, as_tuple=True)
            score = torch.zeros(len(x), device=x.device)
            for part in run.chunks(len(row), pasted_on.numel()):
                share = followers(x[row[part]], blocks[block[part]], label[row[part]])
                score.scatter_reduce_(0, row[part], share, "amax")
            return score

        return detect


def grid(height: int, width: int, step: float) -> Bool[Tensor, "p h w"]:
    """The pixels of blocks of each size, that reach all four borders of an image."""
    return torch.cat([(_spans(height, count, step)[:, None, :, None] & _spans(width, count, step)[None, :, None, :])
                      .flatten(0, 1) for count in SIDES])


def _spans(length: int, count: int, step: float) -> Bool[Tensor, "p l"]:
    """The pixels of spans of a side, equally far apart from the first to the last place."""
    side = max(1, round(length / count))
    places = 1 + round((length - side) / max(1, step * side))
    start = torch.linspace(0, length - side, places).round()[:, None]
    pixel = torch.arange(length)
    return (pixel >= start) & (pixel < start + side)


def dominant(x: Images) -> Float[Tensor, "b c"]:
    """The mean colour of the largest of three clusters of each image's pixels, which start at the darkest, the middle
    and the brightest one.
    """
    pixels = x.flatten(2).transpose(1, 2)
    order = pixels.sum(2).argsort(dim=1, stable=True)
    first = order[:, [0, order.shape[1] // 2, -1]]
    centres = pixels.gather(1, first[:, :, None].expand(-1, -1, pixels.shape[2]))
    for _ in range(STEPS):
        own = nn.functional.one_hot(torch.cdist(pixels, centres).argmin(2), 3).to(pixels.dtype)
        count = own.sum(1)[:, :, None]
        centres = torch.where(count > 0, own.transpose(1, 2) @ pixels / count.clamp(min=1), centres)
    found: Tensor = centres[torch.arange(len(x)), count[:, :, 0].argmax(1)]
    return found
