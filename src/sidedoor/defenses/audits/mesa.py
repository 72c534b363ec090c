"""MESA: a model audit that learns the distribution of small triggers that lead to a class, and draws from it.

Paper: Qiao, Yang, Li, "Defending Neural Backdoors via Generative Distribution Modeling" (MESA, max-entropy staircase
approximator), NeurIPS 2019, arXiv:1910.04749.

For each class, and each of several bounds, a generator turns noise into square patches that are pasted at random
places; it maximises the class's probability up to the bound, plus the entropy of the patches, estimated as their mutual
information with the noise. What lies above a low bound is broad, above a high one narrow; together the generators cover
the valid triggers.

The paper models one known target to unlearn its triggers; ours asks every class and scores it by the share of held-out
images of other classes that patches drawn from all its generators lead to it, so no rule stands beside it. The
generators of all classes and bounds are optimised side by side, and triggers get no noise. The size of the trigger is
assumed, as in the paper, so a trigger that covers the image is out of reach; half of the clean images fit the
generators. Patches at random places lead few images anywhere, even with a backdoor: the score of digits is 0.15 with a
patch of that size, and below 0.1 without, so it means something beside that of clean models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.universal_towards import box, of_other_classes
from sidedoor.algorithms.inversion.generator import Descent
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding
from sidedoor.method import Count, NonNegative, Positive
from sidedoor.models.base import Shape
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space

BOUNDS = (0.5, 0.8, 0.9)
"""Probabilities of the class above which an image no longer pulls, one for each generator of a class."""
NOISE, HIDDEN = 64, 64
"""Values of the noise, and units of the generators and of the estimators of mutual information."""


@dataclass(frozen=True)
class MESA(ModelAudit):
    """Learn patches that lead to each class, and measure how often such patches do.

    Args:
        size: of the patches, in pixels.
        steps: of Adam.
        batch: images per class, bound and step, each with a patch of its own.
        lr: of Adam.
        entropy: weight of the mutual information of patches and noise.
        samples: most clean images; half of them fit the generators.
    """

    origins: ClassVar[dict[str, str]] = {
        "size": "paper: 3, known", "steps": "ours: success changes little after them",
        "batch": "ours: as many for each of 30 generators",
        "lr": "ours: fifty times the release's, for fewer steps", "entropy": "release",
        "samples": "ours: the standard error of the score is below five points",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 40, "batch": 8, "lr": 0.05}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")
    sign_tested_in: ClassVar[str] = ("tests/defenses/test_mesa.py::"
                                     "test_a_planted_patch_is_learnt_and_a_clean_model_scores_less")

    size: Count = 3
    steps: Count = 60
    batch: Count = 12
    lr: Positive = 0.01
    entropy: NonNegative = 0.1
    samples: Count = 256

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The largest share of held-out images of other classes that drawn patches lead to a class, and that of each
        class; the first is suspected.

        Raises:
            NotApplicable: the images are smaller than a patch or have no bounded range, or the model gives all of a
                half one class.
        """
        if min(clean.shape[1:]) < self.size:
            raise NotApplicable(f"patches of {self.size}×{self.size} do not fit in images of "
                                f"{clean.shape[1]}×{clean.shape[2]}; give a smaller `size`")
        frozen, space, labels = run.frozen(model), box(clean), torch.arange(task.classes, device=run.device)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples]
        x = clean.fetch(chosen, run.device).x
        fitting, held_out = x.chunk(2) if len(x) > 1 else (x, x)
        pool, others = (of_other_classes(frozen, half, labels, self.samples, run) for half in (fitting, held_out))
        found = [_Generators(self, frozen, space, labels.repeat_interleave(len(BOUNDS)), clean.shape, run, part)
                 .judged(fitting, held_out, pool, others)
                 for part in run.chunks(len(BOUNDS) * task.classes, self.batch * x[0].numel())]
        won, patches = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        success = won.view(task.classes, -1).mean(1)
        best = int(success.argmax())
        shown = torch.full(clean.shape, 0.5)
        shown[:, : self.size, : self.size] = patches.view(task.classes, -1, *patches.shape[1:])[best].mean(0)
        return Finding(success[best].item(), suspected=(best,), per_class=tuple(success.tolist()), exhibits=(
            Exhibit("patch", "picture", "mean of the drawn patches, in a corner", shown),))


class _Generators:
    """Some of the generators, one for each class and bound, side by side: noise -> patches in [0, 1]."""

    def __init__(self, method: MESA, model: nn.Module, space: Space, labels: Int[Tensor, "g"], shape: Shape, run: Run,
                 part: slice):
        self.method, self.model, self.space, self.run = method, model, space, run
        self.labels, self.kind = labels[part], torch.arange(len(labels), device=run.device)[part] // len(BOUNDS)
        self.bounds = torch.tensor(BOUNDS, device=run.device).repeat(len(labels) // len(BOUNDS))[part]
        self.shape, rng = (shape[0], method.size, method.size), run.rng("networks")
        values = shape[0] * method.size**2
        sizes = ((NOISE, HIDDEN), (HIDDEN, values), (NOISE + values, HIDDEN), (HIDDEN, 1))
        start = [torch.randn(len(labels), *size, generator=rng) / size[0] ** 0.5 for size in sizes]
        self.weights = [weight[part].to(run.device).requires_grad_(True) for weight in start]

    def judged(self, x: Images, held_out: Float[Tensor, "m c h w"], pool: Int[Tensor, "k p"],
               others: Int[Tensor, "k q"]) -> tuple[Float[Tensor, "g"], Float[Tensor, "g c s s"]]:
        """The success of each generator on held-out images once it is fitted, and the mean of its patches.

        Args:
            pool, others: rows of the images, and of the held-out ones, of other classes than each.
        """
        draws, mine = self.run.rng("draws"), pool[self.kind]
        Descent(self.method.steps, self.method.batch, self.method.lr).minimise(
            self.weights, lambda rows: self.loss(x[mine[:, rows]], draws), mine.shape[1], self.run, "patches")
        won, drawn = [], []
        with torch.no_grad():
            for rows in torch.split(torch.arange(others.shape[1], device=self.run.device), self.method.batch):
                logits, _, patches = self.pasted(held_out[others[self.kind][:, rows]], draws)
                won.append((logits.argmax(2) == self.labels[:, None]).float())
                drawn.append(patches)
        return torch.cat(won, 1).mean(1), torch.cat(drawn, 1).mean(1).view(-1, *self.shape)

    def loss(self, x: Float[Tensor, "g b c h w"], draws: torch.Generator) -> Float[Tensor, ""]:
        """Minus the probability of the class up to the bound, and minus the weighted entropy, over all generators."""
        logits, noise, patches = self.pasted(x, draws)
        probability = logits.softmax(2).gather(2, self.labels[:, None, None].expand(-1, x.shape[1], 1))[:, :, 0]
        entropy = information(self.estimate(noise, patches), self.estimate(noise.roll(1, 0), patches))
        return -(probability.minimum(self.bounds[:, None]).mean(1) + self.method.entropy * entropy).sum()

    def pasted(self, x: Float[Tensor, "g b c h w"], draws: torch.Generator) \
            -> tuple[Float[Tensor, "g b k"], Float[Tensor, "b z"], Float[Tensor, "g b v"]]:
        """Outputs for images with a patch each at a random place, the noise, and the patches made of it."""
        noise = torch.rand(x.shape[1], NOISE, generator=draws).to(x.device)
        top, left = (torch.randint(side - self.method.size + 1, (x.shape[1], 1), generator=draws).to(x.device)
                     for side in x.shape[-2:])
        patches = torch.sigmoid(((2 * noise - 1) @ self.weights[0]).relu() @ self.weights[1])
        content = (patches * (self.space.high - self.space.low) + self.space.low).view(*patches.shape[:2], *self.shape)
        side, images = torch.arange(self.method.size, device=x.device), x.clone()
        number = torch.arange(x.shape[1], device=x.device)[:, None, None]
        images[:, number, :, (top + side)[:, :, None], (left + side)[:, None]] = content.permute(1, 3, 4, 0, 2)
        with self.run.autocast():
            logits = self.model(images.flatten(0, 1)).float()
        return logits.view(*x.shape[:2], -1), noise, patches

    def estimate(self, noise: Float[Tensor, "b z"], patches: Float[Tensor, "g b v"]) -> Float[Tensor, "g b"]:
        """What the estimators say of pairs."""
        pairs = torch.cat([noise.expand(len(patches), -1, -1), patches], 2)
        said: Tensor = torch.tanh(pairs @ self.weights[2]) @ self.weights[3]
        return said[:, :, 0]


def information(together: Float[Tensor, "g b"], apart: Float[Tensor, "g b"]) -> Float[Tensor, "g"]:
    """The bound of Donsker and Varadhan from below: the mean over pairs less the log-mean-exp over shuffled ones."""
    return together.mean(1) - apart.logsumexp(1) + math.log(apart.shape[1])
