"""Faithful evaluation: how well saliency maps of triggered images lie on the trigger, which is known to be the reason.

Papers: Lin, Lee, Celik, "What Do You See? Evaluation of Explainable Artificial Intelligence (XAI) Interpretability
through Neural Backdoors", KDD 2021 (`vanilla`, `recovery`); Ya, Li, Dai, Wang, Jiang, Xia, "Towards Faithful XAI
Evaluation via Generalization-Limited Backdoor Watermark", ICLR 2024 (`standardised`).

The vanilla evaluation has a threshold of each method's own and the bounding box of Canny edges, so a few salient pixels
far away decide it. The standardised one takes as many of the most salient pixels as the trigger has. The released code
takes the better of two ways to break ties; ours takes the expectation over their orders, so that a constant map has
what a random one has. Its recovery difference is divided by 224·224 whatever the size of the images, ours by their own
pixels. Canny's edges lie a pixel outside of what they surround, so the trigger's box is found in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor, nn

from sidedoor.errors import ConfigError
from sidedoor.types import Images

Maps = Float[Tensor, "n h w"]
Masks = Bool[Tensor, "n h w"]

THRESHOLDS = {"gradient": 0.5, "guided_backprop": 0.8, "grad_cam": 0.9, "guided_grad_cam": 0.75, "occlusion": 0.9,
              "feature_ablation": 0.9, "lime": 0.9}
"""Of the released vanilla evaluation; other methods have `THRESHOLD`."""
THRESHOLD = 0.9
CANNY = (10.0, 40.0)
"""Thresholds of the released code, on maps of 0 and 255: every step is an edge."""
EMPTY = -1
"""All four sides of a box around nothing."""


def standardised(maps: Maps, mask: Masks) -> Float[Tensor, "n"]:
    """Expected intersection over union of the trigger and as many of the most salient pixels, in [0, 1].

    Pixels that tie for the last places are taken in a random order, and the number of them on the trigger is
    hypergeometric.

    Raises:
        ConfigError: a map that is not finite, or a mask of no pixel.
    """
    _check(maps, mask)
    found = torch.empty(len(maps), dtype=torch.float64)
    flat, truth = maps.flatten(1).double().cpu(), mask.flatten(1).cpu()
    size = truth.sum(1)
    last = flat.sort(1, descending=True).values.gather(1, size[:, None] - 1)
    above, tied = flat > last, flat == last
    sure = (above & truth).sum(1)
    for k, (total, good, drawn) in enumerate(zip(tied.sum(1).tolist(), (tied & truth).sum(1).tolist(),
                                                 (size - above.sum(1)).tolist(), strict=True)):
        hits = np.arange(max(0, drawn + good - total), min(drawn, good) + 1)
        both = int(sure[k]) + hits
        found[k] = float((stats.hypergeom.pmf(hits, total, good, drawn) * both / (2 * int(size[k]) - both)).sum())
    return found.float()


def chance(mask: Masks) -> Float[Tensor, "n"]:
    """What `standardised` gives a map that knows nothing: about M / (2N - M) for M of N pixels."""
    return standardised(torch.zeros(mask.shape), mask)


def pointing(maps: Maps, mask: Masks) -> Float[Tensor, "n"]:
    """Whether the most salient pixel lies on the trigger; of several that tie, the share that does."""
    _check(maps, mask)
    highest = maps == maps.amax((1, 2), keepdim=True)
    share: Tensor = (highest & mask.to(maps.device)).sum((1, 2)) / highest.sum((1, 2))
    return share


def vanilla(maps: Maps, mask: Masks, threshold: float) -> tuple[Float[Tensor, "n"], Int[Tensor, "n 4"]]:
    """Intersection over union of the boxes around the salient pixels and around the trigger, in [0, 1]; and the boxes.

    Args:
        threshold: of maps that are stretched to [0, 1].

    Returns:
        the values, 0 where nothing is salient or everything is; (top, left, bottom, right) of the maps' boxes, the last
        two exclusive, all `EMPTY` there.
    """
    _check(maps, mask)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
    found, truth = _boxes(stretched >= threshold), _boxes(mask)
    top, left, bottom, right = (torch.cat([torch.maximum(found, truth)[:, :2], torch.minimum(found, truth)[:, 2:]], 1)
                                .unbind(1))
    both = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
    either = _area(found) + _area(truth) - both
    return both / either.clamp(min=1), found


@dataclass(frozen=True)
class Recovery:
    """What becomes of triggered images whose boxes are filled from the originals.

    Args:
        recovered: whether the model's prediction is that of the original again.
        difference: share of the pixels that still differ from the original, in [0, 1].
        boxless: whether there is no box, so that nothing was filled.
    """

    recovered: Float[Tensor, "n"]
    difference: Float[Tensor, "n"]
    boxless: Float[Tensor, "n"]


@torch.no_grad()
def recovery(model: nn.Module, x: Images, triggered: Images, boxes: Int[Tensor, "b 4"]) -> Recovery:
    """Paste the originals into boxes of the triggered images.

    Args:
        boxes: as `vanilla` gives them.
    """
    filled = torch.where(inside(boxes, x.shape[2], x.shape[3]).to(x.device)[:, None], x, triggered)
    same = model(filled).argmax(1) == model(x).argmax(1)
    differs = (filled != x).any(1).float().mean((1, 2))
    return Recovery(same.float().cpu(), differs.cpu(), (boxes[:, 0] == EMPTY).float().cpu())


def inside(boxes: Int[Tensor, "n 4"], height: int, width: int) -> Bool[Tensor, "n h w"]:
    """The pixels of each box."""
    top, left, bottom, right = boxes.cpu()[:, :, None].unbind(1)
    rows, columns = torch.arange(height), torch.arange(width)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return down[:, :, None] & across[:, None, :]


def _boxes(binary: Bool[Tensor, "n h w"]) -> Int[Tensor, "n 4"]:
    """Around all edge points of each image."""
    from skimage.feature import canny

    height, width = binary.shape[1:]
    found = []
    # Its hysteresis follows connected pixels, which cannot be batched well; at its border it finds nothing.
    for image in np.pad(binary.cpu().numpy(), ((0, 0), (2, 2), (2, 2))):
        rows, columns = np.nonzero(canny(255.0 * image, 0, *CANNY)) if not image[2:-2, 2:-2].all() else ((), ())
        found.append([EMPTY] * 4 if len(rows) == 0 else
                     [max(min(rows) - 2, 0), max(min(columns) - 2, 0), min(max(rows) - 1, height),
                      min(max(columns) - 1, width)])
    return torch.tensor(np.array(found, dtype=np.int64).reshape(-1, 4))


def _area(boxes: Int[Tensor, "n 4"]) -> Int[Tensor, "n"]:
    area: Tensor = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _check(maps: Maps, mask: Masks) -> None:
    if not maps.isfinite().all():
        raise ConfigError("a saliency map with values that are not finite given; expected numbers")
    if not mask.flatten(1).any(1).all():
        raise ConfigError("a trigger mask of no pixel given; expected at least one for each image")
