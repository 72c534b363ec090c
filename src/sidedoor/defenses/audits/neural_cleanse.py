"""Neural Cleanse: a model audit that reconstructs every class's smallest trigger and flags an outlier among them.

Paper: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in
Neural Networks", IEEE Symposium on Security and Privacy 2019.

Ours optimises all classes at once on the same images rather than one after another on images of their own. A class for
which no mask reached the success rate counts with the whole image as its mask, so it is never the suspicious one.

The score is how many times the smallest mask goes into the median one, to be compared with that of clean models. The
paper's anomaly index, which stands beside it, is divided by the median absolute deviation of as many numbers as there
are classes; of ten that varies by a factor of three, so the index misses backdoors that the score shows. It is left out
where it is a constant. Of two masks the smaller always lies 0.67 robust deviations below the median. Where half of the
classes or more have no mask, the median, or the deviation from it, is the size of the image: one mask among K classes
then has the index K / 1.25, however large it is. The score tells these masks apart: of two it is half of one more than
their ratio, and where most classes have none it is the size of the image over that of the smallest mask. Without any
mask nothing can be said.

With a `margin` a class is left once its mask is too large to become the smallest, and its norm is estimated as being as
many times the smallest as it was then. On digits that takes a third of the steps; the smallest mask is the same, and
the score 4.8 instead of 5.8 with a backdoor, 1.3 without, so it is to be compared with scores of the same margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.inversion.mask_pattern import Penalty, Recovered, mask_norm
from sidedoor.defenses.audits._mask_inversion import MaskInversionAudit


@dataclass(frozen=True)
class NeuralCleanse(MaskInversionAudit):
    """Minimise cross-entropy towards a class plus a cost times the L1 norm of the mask, for every class.

    The cost starts at 0. After `patience` epochs of success it becomes `cost`, and after every further `patience`
    epochs of success it is multiplied by `raising`; after `patience` epochs without success it is divided by
    `lowering`.

    Args:
        epochs: most epochs per class.
        samples: clean images per epoch.
        batch: clean images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of the mask's norm that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a mask must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs without a smaller mask before a class is finished, once its cost went up and down.
        threshold: anomaly index above which the model counts as backdoored.
        margin: a class is left once its mask is this many times as large as the smallest was by then; 0: never.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1, or `margin` is neither 0 nor above 1.
    """

    version: ClassVar[int] = 3

    def penalties(self) -> tuple[Penalty, ...]:
        return (mask_norm,)

    def size(self, found: Recovered) -> Float[Tensor, "k"]:
        return found.norm

    def scale(self, size: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        return size
