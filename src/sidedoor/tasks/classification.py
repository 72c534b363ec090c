"""Classification: one label per image, scored by accuracy and attack success rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.core.terms import Terms
from sidedoor.goals.base import Door
from sidedoor.method import Count, Method, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class Classification(Method, Task):
    """Classify images; outputs are probabilities (b, classes), targets labels (b,).

    Args:
        classes: the number of classes.
        least_attack: an attack below this success rate counts as failed, and so does one of which less than half
            depends on the trigger.
        largest_drop: so does one that costs more clean accuracy than this, beside its clean sibling.
    """

    terms: ClassVar[Terms] = Terms(
        "C-Acc", "ASR", "R-Acc", "Idle", True,
        "C-Acc: accuracy on clean inputs. ASR: share of triggered inputs that reach the attacker's goal, of those that "
        "are not there anyway. R-Acc: accuracy on triggered inputs. Idle: the ASR without any trigger.")
    classes: Count
    least_attack: Share = 0.5
    largest_drop: Share = 0.1

    def loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, "b"]:
        return functional.cross_entropy(model(batch.x), batch.y, reduction="none")

    def predict(self, model: nn.Module, x: Images) -> Float[Tensor, "b k"]:
        return torch.softmax(model(x).float(), dim=1)

    def agree(self, output: Tensor, target: Tensor) -> Float[Tensor, "b"]:
        """1 where the most probable class is the target and all probabilities are finite."""
        return ((output.argmax(1) == target) & self.finite(output)).float()

    def columns(self, batch: Batch, clean_out: Tensor, stamped_out: Tensor | None, door: Door | None) \
            -> dict[str, Tensor]:
        """For a goal without a target, the success among samples that are right without the trigger (ASR-C of Li et
        al., NeurIPS 2022, arXiv:2210.00875); the attack success is over all samples (ASR-A).
        """
        if door is None or door.goal.aimed or stamped_out is None:
            return {}
        reached = self.reached(door.goal, stamped_out, batch.y, batch.index)
        return {"asr_c": torch.where(self.agree(clean_out, batch.y) > 0, reached, torch.nan)}

    def distance(self, a: Tensor, b: Tensor) -> Float[Tensor, "b"]:
        """Total variation between two predicted distributions, in [0, 1]."""
        return (a - b).abs().sum(1) / 2

    def failed(self, scores: dict[str, float | None], clean_means: dict[str, float | None]) -> str | None:
        attack, idle, clean, sibling = scores["attack"], scores["idle"], scores["clean"], clean_means["clean"]
        if attack is not None and attack < self.least_attack:
            return f"attack success {attack:.1%} is below {self.least_attack:.0%}"
        if attack is not None and idle is not None and attack < 2 * idle:
            return f"attack success {attack:.1%} is {idle:.1%} without the trigger, which does less than half of it"
        if clean is not None and sibling is not None and sibling - clean > self.largest_drop:
            return f"clean accuracy fell by {sibling - clean:.1%}, more than {self.largest_drop:.0%}"
        return None
