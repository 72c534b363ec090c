"""Pixel inversion: Neural Cleanse with a change of few pixels in place of a mask and a pattern, a model audit.

Paper: Tao, Shen, Liu, An, Xu, Ma, Li, Zhang, "Better Trigger Inversion Optimization in Backdoor Scanning" (Pixel), CVPR
2022.

A trigger is the difference of what raises each value and what lowers it, both in [0, 1] by a tanh; its size is a smooth
count of the pixels in which one of the channels changes. It starts from small changes, so it is as small as it is from
the beginning, and needs no mask that has to become sharp. The schedule of the cost, no success, few classes and the
score are as in Neural Cleanse. The paper flags a number of pixels below a bound that it sets for each data set; the
rule beside the score is that of Neural Cleanse on these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from sidedoor.algorithms.inversion.forms import Added, Form
from sidedoor.algorithms.inversion.mask_pattern import Penalty, Recovered, mask_norm
from sidedoor.defenses.audits._mask_inversion import MaskInversionAudit


@dataclass(frozen=True)
class PixelInversion(MaskInversionAudit):
    """Minimise cross-entropy towards a class plus a cost times the number of changed pixels, for every class.

    The cost starts at 0. After `patience` epochs of success it becomes `cost`, and after every further `patience`
    epochs of success it is multiplied by `raising`; after `patience` epochs without success it is divided by
    `lowering`.

    Args:
        epochs: most epochs per class.
        samples: clean images per epoch.
        batch: clean images per step; every class sees all of them.
        lr: of Adam with betas (0.5, 0.9).
        cost: first cost of a changed pixel that is not 0.
        raising: factor of the cost, above 1.
        lowering: divisor of the cost, above 1.
        success: share of an epoch's images that a trigger must lead to its class to count.
        patience: epochs before the cost changes.
        stopping: epochs without a smaller trigger before a class is finished, once its cost went up and down.
        threshold: anomaly index above which the model counts as backdoored.
        margin: a class is left once its trigger is this many times as large as the smallest was by then; 0: never.

    Raises:
        ConfigError: `raising` or `lowering` is not above 1, or `margin` is neither 0 nor above 1.
    """

    origins: ClassVar[dict[str, str]] = {
        **dict.fromkeys(MaskInversionAudit.origins, "ours: as Neural Cleanse, whose schedule the paper takes over"),
        "margin": MaskInversionAudit.origins["margin"],
    }
    sign_tested_in: ClassVar[str] = ("tests/defenses/test_pixel_inversion.py::"
                                     "test_the_target_is_named_and_a_clean_sibling_is_less_suspicious")
    form: ClassVar[Form] = Added()

    def penalties(self) -> tuple[Penalty, ...]:
        return (mask_norm,)

    def size(self, found: Recovered) -> Float[Tensor, "k"]:
        return found.norm

    def scale(self, size: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
        return size
