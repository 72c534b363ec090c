"""UMD: a model audit that looks for pairs of source and target class whose perturbations carry each other's images.

Paper: Xiang, Xiong, Li, "UMD: Unsupervised Model Detection for X2X Backdoor Attacks", ICML 2023, arXiv:2305.18651.

A backdoor may lead several classes to targets of their own, such as each class to the next. For every pair a
perturbation is fitted to images of its source; where two pairs share a trigger, that of the one leads images of the
other's source to the other's target. The set of pairs, one target for each source, whose perturbations carry each other
most is chosen by agglomeration. Sources are the model's own answers, so no labels are needed.

Ours bounds all perturbations alike and searches for those of all pairs at once, where the paper minimises their size:
its second step, an outlier test on sizes, has nothing to look at, and no rule stands beside the score. A set counts by
how many images its pairs carry beyond what any two pairs do, so that a large one wins over two that happen to agree.
Natural features carry images too, towards one class from several others: the score means something beside that of
clean models. On digits it found an all-to-all backdoor, a blended one and a warp, and missed a patch of 3×3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.algorithms.adversarial.universal_towards import Steps, box, pools, universal_towards
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Finding
from sidedoor.method import Count, Positive
from sidedoor.tasks.task import Task
from sidedoor.types import Images, Space


class Pairs(NamedTuple):
    """Pairs of two classes each."""

    source: Int[Tensor, "p"]
    target: Int[Tensor, "p"]


@dataclass(frozen=True)
class UMD(ModelAudit):
    """Choose the pairs of classes whose perturbations carry each other's images most, and measure how many.

    Args:
        eps: bound of every value of the perturbations, as a share of the range of the images.
        steps: sign steps of an eighth of the bound.
        batch: images per pair and step.
        samples: most clean images; half of each class's fit the perturbations.
        most: classes above which it is refused; time and memory grow with the square of their number or faster.
    """

    origins: ClassVar[dict[str, str]] = {
        "eps": "ours: as in the shortcut audit; digits of 16×16 need 0.15", "steps": "ours: later ones change little",
        "batch": "ours: all that fit a pair, of ten classes", "samples": "ours: about 25 a class of ten",
        "most": "ours: 2,450 perturbations",
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 12, "batch": 8}
    needs: ClassVar[Needs] = Needs(model="gradients", clean="images")
    sign_tested_in: ClassVar[str] = "tests/defenses/test_umd.py::test_more_pairs_score_higher_and_a_clean_model_0"

    eps: Positive = 16 / 255
    steps: Count = 30
    batch: Count = 16
    samples: Count = 256
    most: Count = 50

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """How many of the images of all other classes, as a share, a pair of the chosen set carries on average beyond
        any two pairs; for each class the mean share that goes both ways between the set and the best pair that leads
        to it. The targets of the set are suspected, the most frequent first.

        Raises:
            NotApplicable: too many classes, images without a bounded range, or fewer than two classes that the model
                gives two images each.
        """
        if task.classes > self.most:
            raise NotApplicable(f"{task.classes} classes given, of which all pairs are searched; expected at most "
                                f"{self.most}: see `most`")
        frozen, space = run.frozen(model), box(clean)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples]
        x = clean.fetch(chosen, run.device).x
        source = predicted(frozen, x).cpu()
        pairs, halves = _pairs(source, task.classes), _halves(source)
        fitting, held_out = (x[half.to(run.device)] for half in halves)
        pool = pools((source[halves[0]] == pairs.source[:, None]).float(), self.batch, run.rng("pools"))
        delta = universal_towards(frozen, fitting, pool.to(run.device), pairs.target.to(run.device),
                                  Steps(self.eps, self.steps, self.batch), space, run)
        answers = _answers(frozen, held_out, delta, space, run)
        transfer = mutual(answers, source[halves[1]], pairs, task.classes)
        members, score = agglomerated(transfer, pairs.source)
        others = members & (pairs.source[:, None] != pairs.source)
        support = (transfer * others).sum(1) / others.sum(1).clamp(min=1)
        per_class = torch.zeros(task.classes).scatter_reduce(0, pairs.target, support, "amax")
        targets = torch.bincount(pairs.target[members], minlength=task.classes)
        order = targets.argsort(descending=True, stable=True)[: int((targets > 0).sum())]
        return Finding(score, suspected=tuple(order.tolist()) if score > 0 else (), per_class=tuple(per_class.tolist()))


def mutual(answers: Int[Tensor, "p n"], source: Int[Tensor, "n"], pairs: Pairs, classes: int) -> Float[Tensor, "p p"]:
    """The share of images of each pair's source that the other's perturbation leads to the pair's target, mean of both.

    Args:
        answers: to all images with the perturbation of each pair.
        source: the class of each image.
    """
    own = functional.one_hot(source, classes).float()
    led = functional.one_hot(answers, classes).float().transpose(1, 2) @ (own / own.sum(0).clamp(min=1))
    carried = led[:, pairs.target, pairs.source]
    return (carried + carried.T) / 2


def agglomerated(transfer: Float[Tensor, "p p"], source: Int[Tensor, "p"]) -> tuple[Bool[Tensor, "p"], float]:
    """The set of pairs, one for each source, that carries most, and its score; grown from every pair, one at a time.

    The score of n pairs is n - 1 times what two of them carry on average beyond any two pairs, over the number of
    sources less one; 0, and a single pair, where no set carries more.
    """
    apart = source[:, None] != source
    count, beyond = len(set(source.tolist())), transfer - transfer[apart].mean()
    beyond = beyond.fill_diagonal_(0)
    members = torch.eye(len(source), dtype=torch.bool)
    taken, best, score = ~apart, members, torch.zeros(len(source))
    for _ in range(count - 1):
        added = (members.float() @ beyond).masked_fill(taken, -torch.inf).argmax(1)
        members = members | functional.one_hot(added, len(source)).bool()
        taken = taken | ~apart[added]
        grown = members.float()
        reached = ((grown @ beyond) * grown).sum(1) / grown.sum(1) / (count - 1)
        best = torch.where((reached > score)[:, None], members, best)
        score = score.maximum(reached)
    first = int(score.argmax())
    return best[first], score[first].item()


def _pairs(source: Int[Tensor, "n"], classes: int) -> Pairs:
    """Every class with two images, and every other class."""
    able = torch.bincount(source, minlength=classes) >= 2
    if int(able.sum()) < 2:
        raise NotApplicable(f"the model gives two of {len(source)} images each to {int(able.sum())} of {classes} "
                            "classes; expected at least two such classes")
    return Pairs(*torch.nonzero(able[:, None] & ~torch.eye(classes, dtype=torch.bool)).T)


def _halves(source: Int[Tensor, "n"]) -> tuple[Int[Tensor, "m"], Int[Tensor, "k"]]:
    """Of every class with two images some in each half."""
    order = source.argsort(stable=True)
    return order[::2], order[1::2]


@torch.no_grad()
def _answers(model: nn.Module, x: Images, delta: Float[Tensor, "p c h w"], space: Space, run: Run) \
        -> Int[Tensor, "p n"]:
    """The class of every image with every perturbation, on the CPU."""
    parts = [predicted(model, (x + delta[part, None]).clamp(space.low, space.high).flatten(0, 1)).view(-1, len(x))
             for part in run.chunks(len(delta), x.numel())]
    return torch.cat(parts).cpu()
