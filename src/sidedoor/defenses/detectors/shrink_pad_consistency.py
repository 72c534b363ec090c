"""ShrinkPad consistency: a black-box input detector that shrinks and moves an input and counts changed predictions.

Paper: Li, Zhai, Jiang, Li, Xia, "Backdoor Attack in the Physical World", ICLR Workshop on Security and Safety in
Machine Learning Systems 2021, arXiv:2104.02361, on the transformation.

A trigger that was always learnt in one place and one size loses the target when it is moved, while clean images mostly
keep their class: suspicious is what changes, the opposite of SCALE-UP. Ours, made of the purifier `shrink_pad`. It sees
nothing of triggers that survive, such as blends, squares that a network finds anywhere, or those of an attacker who
trained with the same transformation; and clean images must survive, as stripes whose width is their class do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.consistency import Variant, answers, unchanged
from sidedoor.data.base import Dataset
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.purifiers.shrink_pad import ShrinkPad
from sidedoor.engine import Run
from sidedoor.method import Count
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Index


@dataclass(frozen=True)
class ShrinkPadConsistency(InputDetector):
    """Score an input by the share of its shrunken and moved copies that get another prediction.

    Args:
        shrink: pixels by which height and width are reduced.
        copies: of each input, at places of its own.

    Raises:
        ConfigError: images that are not larger than `shrink`.
    """

    origins: ClassVar[dict[str, str]] = {
        "shrink": "paper: ShrinkPad-4", "copies": "ours: shares of eight are fine enough for a threshold",
    }
    needs: ClassVar[Needs] = Needs(model="labels")
    sign_tested_in: ClassVar[str] = ("tests/defenses/test_shrink_pad_consistency.py::"
                                     "test_a_trigger_that_must_stay_in_its_place_loses_its_class")

    shrink: Count = 4
    copies: Count = 8

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to shares of copies."""
        frozen, method = run.frozen(model), ShrinkPad(self.shrink)

        def moved(copy: int) -> Variant:
            purify = method.fit(model, clean, task, run.within(f"copy {copy}"))
            return lambda x, index: purify(x, index)[0]

        variants = [unchanged, *map(moved, range(self.copies))]

        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            label = answers(frozen, x, index, variants, task, run).argmax(2)
            return (label[:, 1:] != label[:, :1]).float().mean(1)

        return detect
