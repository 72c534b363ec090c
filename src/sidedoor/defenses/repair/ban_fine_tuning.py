"""BAN fine-tuning: a repair that fine-tunes with the loss under adversarial noise on neurons beside the plain one.

Paper: Xu, Liu, Koffas, Yu, Picek, "BAN: Detecting Backdoors Activated by Adversarial Neuron Noise", NeurIPS 2024,
arXiv:2405.19928, its fine-tuning against what it detects.

Noise on the scales and biases of channels wakes the backdoor up, as in ANP, and the network learns to answer rightly
under it: CE + λ · CE under noise. Noise is drawn within ε, goes up the loss once, and stays within ε. The release
trains masks of its noise along by weight decay; ours adds the noise to the weights and takes it off again, so that
nothing is left of it. Passes under noise keep no running statistics.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.algorithms.optim.at import at, carrying, gradients, trained
from sidedoor.algorithms.optim.batch_norm import without_updates
from sidedoor.algorithms.pruning.gates import gated_layers
from sidedoor.algorithms.short_training import for_steps
from sidedoor.data.base import Dataset
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Objective, Run
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Batch


@dataclass(frozen=True)
class BANFineTuning(Repair):
    """Fine-tune on clean samples, with the worst noise on channels and without.

    Args:
        epsilon: bound of the noise, as a share of scales and biases.
        weight: λ, of the loss under noise; 0 is plain fine-tuning.
        steps: of SGD, rounded up to whole epochs.
        lr: learning rate, constant.
        batch: samples a step, at most a quarter of them.

    Raises:
        NotApplicable: the model has no layer whose channels noise could be put on.
    """

    origins: ClassVar[dict[str, str]] = {
        "epsilon": "release: 0.3", "weight": "release: 0.5 in its README", "lr": "release: 0.005 in its README",
        "steps": "ours: 25 epochs in its README, of more images", "batch": "ours: of few images",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 4}

    epsilon: NonNegative = 0.3
    weight: NonNegative = 0.5
    steps: Count = 1000
    lr: Positive = 0.005
    batch: Count = 64

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        tuned = copy.deepcopy(model).requires_grad_(True)
        recipe = for_steps(run, clean, self.steps, self.batch, optimizer="sgd", lr=self.lr, momentum=0.9,
                           weight_decay=5e-4, schedule="constant", clip=0.0)
        objective = UnderNoise(task, gated_layers(tuned), self.epsilon, self.weight)
        return run.fit(tuned, clean, objective, name="under noise", recipe=recipe)


class UnderNoise(Objective):
    """The task's loss, and beside it that with noise which raises it.

    Args:
        layers: names of those whose weights and biases have noise, a number for each channel.
        epsilon: bound of the noise.
        weight: of the second loss.
    """

    def __init__(self, task: Task, layers: Sequence[str], epsilon: float, weight: float):
        super().__init__()
        self.task, self.epsilon, self.weight = task, epsilon, weight
        self.layers = frozenset(layers)

    def losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "1"]:
        parameters = trained(model)

        def loss() -> Tensor:
            return self.task.loss(model, batch).mean()

        value = loss()
        plain = gradients(value, parameters)
        with without_updates(model):
            noise = self.worst(model, batch)
            noisy = at(parameters, _shift(parameters, noise), loss)
        # What a factor 1 + n on a weight does to its gradient.
        both = [g + self.weight * h * (1 + n) for g, h, n in zip(plain, noisy, noise, strict=True)]
        return carrying(value, parameters, both)

    def worst(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Noise within the bound for each parameter, broadcast over a channel; 0 for those that have none."""
        parameters = trained(model)
        noise = [self._drawn(name, p) for name, p in model.named_parameters() if p.requires_grad]
        slopes = at(parameters, _shift(parameters, noise), lambda: self.task.loss(model, batch).mean())
        ascent = [_over_channels(p.detach() * g).sign() * self.epsilon
                  for p, g in zip(parameters, slopes, strict=True)]
        return [(n + up * (n != 0)).clamp(-self.epsilon, self.epsilon) for n, up in zip(noise, ascent, strict=True)]

    def _drawn(self, name: str, parameter: Tensor) -> Tensor:
        shape = (len(parameter), *[1] * (parameter.ndim - 1)) if parameter.ndim else ()
        if name.rpartition(".")[0] not in self.layers:
            return parameter.new_zeros(shape)
        return parameter.new_empty(shape).uniform_(-self.epsilon, self.epsilon)


def _shift(parameters: Sequence[Tensor], noise: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach() * n for p, n in zip(parameters, noise, strict=True)]


def _over_channels(values: Tensor) -> Tensor:
    """Summed over all but the first axis, which stays with as many axes."""
    return values.sum(tuple(range(1, values.ndim)), keepdim=True) if values.ndim > 1 else values
