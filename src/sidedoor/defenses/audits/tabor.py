"""TABOR: Neural Cleanse with penalties on large, scattered and overlaying triggers, a model audit.

Paper: Guo, Wang, Xing, Du, Song, "TABOR: A Highly Accurate Approach to Inspecting and Restoring Trojan Backdoors in AI
Systems", 2019, arXiv:1908.01763.

Ours follows the weights of the public ports where the paper leaves them open, as proportions to that of the mask, with
pixels in [0, 1]; the ports' are in [0, 255], where the norm of a pattern is 255 times and its square 65,025 times as
large. All terms share one cost that follows success as in Neural Cleanse. The term for triggers that hide the object
(the true class of images without what the mask covers) has the weight 0 in the ports and is left out, so no labels are
needed. Of the paper's metric we take sparsity and smoothness of the mask; success is above a threshold for every mask
that counts, and the share of images in which an attribution method points at the trigger is left out. No mask, few
classes and the score are as in Neural Cleanse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sidedoor.algorithms.inversion.mask_pattern import Candidate, Penalty, Recovered
from sidedoor.defenses.audits._mask_inversion import MaskInversionAudit
from sidedoor.method import NonNegative


@dataclass(frozen=True)
class TABOR(MaskInversionAudit):
    """Penalise masks that are large or scattered, patterns outside them, and triggers that do not work alone.

    The cost starts at 0. After `patience` epochs of success it becomes `cost`, and after every further `patience`
    epochs of success it is multiplied by `raising`; after `patience` epochs without success it is divided by
    `lowering`. The weights are relative to that of the mask's L1 plus squared L2 norm.

    Args:
        epochs: most epochs per class.
        samples: clean images per epoch.
        batch: clean images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of the penalties that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a mask must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs without a smaller mask before a class is finished, once its cost went up and down.
        threshold: anomaly index above which the model counts as backdoored.
        margin: a class is left once its mask is this many times as large as the smallest was by then; 0: never.
        outside: weight of the L1 plus squared L2 norm of the pattern outside the mask.
        scattered: weight of the squared differences of neighbouring pixels of the mask.
        scattered_outside: weight of those of the pattern outside the mask.
        alone: weight of the cross-entropy of the trigger without an image behind it.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1, or `margin` is neither 0 nor above 1.
    """

    origins: ClassVar[dict[str, str]] = {
        **MaskInversionAudit.origins,
        **dict.fromkeys(("epochs", "samples", "batch", "lr", "cost", "raising", "lowering", "success", "patience",
                         "stopping"), "ours: as the release of Neural Cleanse, on which the paper builds"),
        "threshold": "paper: as Neural Cleanse",
        "outside": "ours: ten times the mask's, as in the ports",
        "scattered": "ours: a tenth of the mask's, as in the ports",
        "scattered_outside": "ours: a hundredth of the mask's, as in the ports",
        "alone": "ours: 0.01 at the first cost, as in the ports",
    }

    outside: NonNegative = 10.0
    scattered: NonNegative = 0.1
    scattered_outside: NonNegative = 0.01
    alone: NonNegative = 10.0

    def penalties(self) -> tuple[Penalty, ...]:
        weights = ((1.0, large), (self.outside, large_outside), (self.scattered, scattered),
                   (self.scattered_outside, scattered_outside), (self.alone, alone))
        return tuple(partial(_weighted, weight, term) for weight, term in weights if weight > 0)

    def size(self, found: Recovered) -> Float[Tensor, "k"]:
        """Share of the image that the mask covers, times the mean squared difference of neighbouring pixels of it."""
        height, width = found.mask.shape[-2:]
        pairs = 2 * height * width - height - width
        return found.norm / (height * width) * _variation(found.mask.double()[:, None]) / pairs

    def scale(self, size: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        return size.log()


def large(candidate: Candidate) -> Float[Tensor, "g"]:
    """The elastic net of the mask."""
    return _elastic(candidate.mask)


def large_outside(candidate: Candidate) -> Float[Tensor, "g"]:
    """The elastic net of the pattern outside the mask, where it does nothing."""
    return _elastic((1 - candidate.mask) * candidate.pattern)


def scattered(candidate: Candidate) -> Float[Tensor, "g"]:
    """The variation of the mask."""
    return _variation(candidate.mask)


def scattered_outside(candidate: Candidate) -> Float[Tensor, "g"]:
    """The variation of the pattern outside the mask."""
    return _variation((1 - candidate.mask) * candidate.pattern)


def alone(candidate: Candidate) -> Float[Tensor, "g"]:
    """The cross-entropy towards the class of the trigger on black, which an overlay that needs the image misses."""
    image = candidate.values(candidate.mask * candidate.pattern).flatten(0, 1)
    return functional.cross_entropy(candidate.model(image), candidate.labels, reduction="none")


def _weighted(weight: float, term: Callable[[Candidate], Float[Tensor, "g"]], candidate: Candidate) \
        -> Float[Tensor, "g"]:
    return weight * term(candidate)


def _elastic(x: Float[Tensor, "g 1 c h w"]) -> Float[Tensor, "g"]:
    """L1 plus squared L2 norm, of values of at least 0."""
    norm: Tensor = (x + x.square()).sum((1, 2, 3, 4))
    return norm


def _variation(x: Float[Tensor, "g 1 c h w"]) -> Float[Tensor, "g"]:
    """Sum of the squared differences of neighbouring pixels."""
    down, across = x.diff(dim=-2).square(), x.diff(dim=-1).square()
    variation: Tensor = down.sum((1, 2, 3, 4)) + across.sum((1, 2, 3, 4))
    return variation
