"""DL-TND: a model audit that compares, for each class, what one perturbation of all images and one of each image do.

Paper: Wang, Zhang, Liu, Chen, Xiong, Wang, "Practical Detection of Trojan Neural Networks: Data-Limited and Data-Free
Cases", ECCV 2020, arXiv:2007.15802.

Towards the target of a backdoor both find the same shortcut, so they move the penultimate features of an image the same
way; towards other classes they do less so. Ours bounds the perturbations of both kinds alike and searches for all of
them at once by sign steps, which end once the class wins by a margin; the paper minimises their norm, and asks the
universal one to leave the images of its own class alone. It compares features; ours compares what becomes of them, for
behind a ReLU all features point the same way. A class is as similar as a low quantile of the cosines over images of
other classes; the score is by how much the most similar one comes closer to 1 than the median one. The paper flags
outliers among the classes; no rule stands beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor.algorithms.adversarial.universal_towards import Steps, box, of_other_classes, universal_towards
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.evidence import Finding
from sidedoor.method import Count, Positive, Share
from sidedoor.models.base import penultimate
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space


@dataclass(frozen=True)
class DLTND(ModelAudit):
    """Compare penultimate features under universal and under single perturbations towards each class.

    Args:
        eps: bound of every value of the perturbations, as a share of the range of the images.
        steps: sign steps of an eighth of the bound.
        batch: images per class and step of a universal perturbation.
        samples: images of other classes for each class.
        quantile: of the cosines that stands for a class.
    """

    origins: ClassVar[dict[str, str]] = {
        "eps": "ours: the paper minimises the norm instead; as in the shortcut audit",
        "steps": "ours: later ones change little", "batch": "ours: all of the images",
        "samples": "paper: five images a class, of ten classes", "quantile": "ours: the paper takes a low one",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 20, "samples": 12}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_tnd.py::test_the_target_stands_out_and_a_sibling_has_none"

    eps: Positive = 16 / 255
    steps: Count = 40
    batch: Count = 45
    samples: Count = 45
    quantile: Share = 0.1

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """How many times the distance to 1 of the most similar class goes into the median one, and the same of each
        class; the first is suspected.

        Raises:
            NotApplicable: the images have no bounded range, or the model gives all of them one class.
        """
        frozen, space, labels = run.frozen(model), box(clean), torch.arange(task.classes, device=run.device)
        order = torch.randperm(len(clean), generator=run.rng("images"))[: 4 * self.samples]
        x = clean.fetch(order, run.device).x
        pool = of_other_classes(frozen, x, labels, self.samples, run)
        similar = self.similarities(frozen, x, pool, labels, space, run)
        distance = (1 - similar.quantile(self.quantile, 1)).clamp(min=1e-6)
        ratio = distance.quantile(0.5) / distance
        best = int(ratio.argmax())
        return Finding(ratio[best].item(), suspected=(best,), per_class=tuple(ratio.tolist()))

    def similarities(self, model: nn.Module, x: Images, pool: Int[Tensor, "k m"], labels: Int[Tensor, "k"],
                     space: Space, run: Run) -> Float[Tensor, "k m"]:
        """The cosine of what both perturbations change in the features of each image of a class's pool, on the CPU."""
        size = pool.shape[1]
        universal = universal_towards(model, x, pool, labels, Steps(self.eps, self.steps, self.batch), space, run)
        single = universal_towards(model, x, pool.reshape(-1, 1), labels.repeat_interleave(size),
                                   Steps(self.eps, self.steps, 1), space, run)
        images = x[pool.flatten()]
        before, one, each = (_features(model, (images + delta).clamp(space.low, space.high), run)
                             for delta in (torch.zeros_like(single), universal.repeat_interleave(size, 0), single))
        return torch.cosine_similarity(one - before, each - before, dim=1).view(pool.shape)


@torch.no_grad()
def _features(model: nn.Module, x: Images, run: Run) -> Float[Tensor, "b d"]:
    with run.autocast():
        parts = [penultimate(model, x[part])[1].float().cpu() for part in run.chunks(len(x), x[0].numel())]
    return torch.cat(parts)
