"""BTI-DBF (U) with path-aware minimisation: a repair that inverts triggers by decoupled features and unlearns them.

Papers: Xu, Huang, Li, Qin, Ren, "Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign
Features", ICLR 2024; PAM: Min, Qin, Zhang, Shen, Cheng, "Uncovering, Explaining, and Mitigating the Superficial Safety
of Backdoor Defense", NeurIPS 2024, arXiv:2410.09838.

In each round a mask finds the features that the model needs for clean images, and a generator images close to them
whose other features differ, as those of triggered images do (the audit `bti_dbf` is made of the same search). The model
is then trained on clean batches of which a tenth went through the generator, under their true labels, with their
features drawn to those of the images themselves. PAM takes the gradient of that loss at w + rho · w0 / ‖w0‖, with w0
the weights of the model as it was given, so that the result is also good a little on the way back to it, and a few
poisoned samples do not bring the backdoor back as fast; `rho=0` leaves it out.

The release looks for the mask with the model in training mode; ours freezes it. It also draws the generator to the
class suspected in rounds before, which ours leaves to the search. Bounds of the change are as in the audit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.universal_towards import box
from sidedoor.algorithms.features.cut import cut, recorded
from sidedoor.algorithms.inversion.decoupling import Decoupling
from sidedoor.algorithms.inversion.generator import Descent
from sidedoor.algorithms.optim.at import at, carrying, norm, trained
from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive, Share
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images


@dataclass(frozen=True)
class BTIDBFUnlearning(Repair):
    """Unlearn images whose features differ where clean ones are not looked at, with gradients on the way back.

    Args:
        rounds: of search and unlearning.
        rho: distance, towards the weights as given, at which gradients are taken; 0 for plain unlearning.
        changed: share of each batch that goes through the generator; at least one sample does.
        unlearning_steps: of SGD in each round, rounded up to whole epochs.
        unlearning_lr: their learning rate, constant.
        batch: samples a step, at most a quarter of them.
        mask_steps: of Adam, for the mask.
        steps: of Adam, for the generator.
        lr: of Adam, for both.
        distance: most mean squared change of images, in units of the squared range.
        drift: most mean squared change of the features that clean images need, in units of their mean square.
        width: channels of the generator, at least 4.
    """

    origins: ClassVar[dict[str, str]] = {
        "rounds": "release: 3 with PAM, 5 without", "rho": "paper: 0.5", "changed": "release: 0.1",
        "unlearning_steps": "release: 30 epochs of 2,500 images", "unlearning_lr": "release: with PAM",
        "batch": "ours: 256 in the release, of more images", "mask_steps": "release: 20 epochs, of 20 batches",
        "steps": "ours: as in the audit", "lr": "release: of the mask; ours of the generator, as in the audit",
        "distance": "ours: 0.02, as in the audit", "drift": "ours: as in the audit",
        "width": "ours: a quarter of the release's",
    }
    quick: ClassVar[dict[str, Any]] = {"rounds": 1, "unlearning_steps": 4, "mask_steps": 10, "steps": 10}

    rounds: Count = 3
    rho: NonNegative = 0.5
    changed: Share = 0.1
    unlearning_steps: Count = 300
    unlearning_lr: Positive = 0.01
    batch: Count = 64
    mask_steps: Count = 400
    steps: Count = 150
    lr: Positive = 0.01
    distance: Positive = 0.02
    drift: Positive = 1.0
    width: Count = 8

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        repaired = run.placed(copy.deepcopy(model)).requires_grad_(True)
        given = [parameter.detach().clone() for parameter in trained(repaired)]
        x = clean.fetch(torch.arange(len(clean)), run.device).x
        recipe = for_steps(run, clean, self.unlearning_steps, self.batch, optimizer="sgd", lr=self.unlearning_lr,
                           momentum=0.1, weight_decay=0.0, schedule="constant", clip=0.0)
        for n in range(self.rounds):
            generator, place = self._inverted(repaired, x, clean, run.within(f"round {n}"))
            objective = _Unlearning(self, generator, place, given)
            run.fit(repaired, clean, objective, name=f"unlearn {n}", recipe=recipe)
        return repaired

    def _inverted(self, model: nn.Module, x: Images, clean: Dataset, run: Run) -> tuple[nn.Module, str]:
        """A generator, and the name of the stage whose maps it changes.

        Raises:
            NotApplicable: the network cannot be cut, or the images have no bounded range.
        """
        parts, space = cut(run.frozen(model), clean.shape), box(clean)
        search = Decoupling(Descent(self.mask_steps, self.batch, self.lr), Descent(self.steps, self.batch, self.lr),
                            self.distance, self.drift, self.width)
        return search.generated(parts, search.masked(parts, x, run), x, space, run), parts.name


class _Unlearning(Objective):
    def __init__(self, method: BTIDBFUnlearning, generator: nn.Module, place: str, given: Sequence[Tensor]):
        super().__init__()
        self.method, self.place = method, place
        self.fixed = (generator, given)  # in a tuple, so that they are no part of the phase's state

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        parameters = trained(model)
        generator, given = self.fixed
        count = max(1, int(self.method.changed * len(batch.x)))
        with torch.no_grad():
            changed = generator(batch.x[:count])
        value = self.loss(model, batch, changed)
        if self.method.rho == 0:
            return value[None]
        shift = towards(given, self.method.rho)
        # The pass at the weights themselves is for the running statistics, and for what the history shows.
        with without_updates(model):
            return carrying(value.detach(), parameters, at(parameters, shift, lambda: self.loss(model, batch, changed)))

    def loss(self, model: nn.Module, batch: Batch, changed: Images) -> Tensor:
        """Of a batch whose first images are changed."""
        count = len(changed)
        with recorded(model, [self.place]) as maps:
            logits = model(torch.cat([changed, batch.x]))
            features = maps[self.place]
        # The images themselves lie behind the changed ones, the same that were changed first.
        drawn = functional.mse_loss(features[:count], features[count : 2 * count].detach())
        loss = functional.cross_entropy(torch.cat([logits[:count], logits[2 * count :]]), batch.y)
        return loss + drawn


def towards(given: Sequence[Tensor], rho: float) -> list[Tensor]:
    """A shift of length rho along the weights as they were given."""
    factor = rho / norm(given).clamp(min=1e-12)
    return [factor * weight for weight in given]
