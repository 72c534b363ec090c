"""CBD: a black-box model audit with a certificate, by how models answer to clean images under heavy noise.

Paper: Xiang, Xiong, Li, "CBD: A Certified Backdoor Detector Based on Local Dominant Probability", NeurIPS 2023,
arXiv:2310.17498.

A backdoored model answers to noise with its target class more often than a clean one with any. The local dominant
probability (LDP) is the largest class's share of the answers, averaged over one correctly classified image per class.
It sees triggers that withstand noise: patches, hardly ever a blend.

What a clean model would score is known from shadow models that the audit trains on random halves of the defender's
images; they are small networks of its own, so that of the audited model nothing but labels is needed. Their LDP is of
images that they were not trained on, as it is for the audited model. The standard deviation of the noise is the largest
of some at which the median LDP of the shadow models is at most one half; in the paper it is set by hand for each data
set. The paper's rule is conformal: it bounds the false alarms for models that are exchangeable with the shadow models,
which models of another architecture or of more data are not. The certificate needs the trigger and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.algorithms.shadows import Shadow, shadows
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Finding, Rule
from sidedoor.method import Count, Positive, Share
from sidedoor.tasks.restored_classification import in_full
from sidedoor.tasks.task import Task
from sidedoor.types import Images

ROUGH = 16
"""The noise level is chosen with this many times fewer noises, since it is asked for all of them."""


@dataclass(frozen=True)
class CBD(ModelAudit):
    """Measure the local dominant probability under noise and compare it with that of shadow models.

    Args:
        noises: per image.
        sigmas: standard deviations of the noise to choose from, as shares of the range of the images.
        shadows: clean models to train.
        network: of the shadow models, such as "small_cnn:16".
        epochs: that each trains on half of the clean images.
        dropped: share of the shadow models that are left out as outliers, those of the largest LDP.
        theta: the rate of false alarms that the paper's rule is meant for.

    Raises:
        ConfigError: no noise level, or no shadow model would be left.
    """

    origins: ClassVar[dict[str, str]] = {
        "noises": "paper: 1024", "sigmas": "ours: half octaves about the levels of the paper",
        "shadows": "paper: 50 to 100", "network": "ours: trained in a second on a processor",
        "epochs": "ours: enough for a hundred images", "dropped": "paper: beta = 0.2", "theta": "paper: 0.05",
    }
    quick: ClassVar[dict[str, Any]] = {"noises": 32, "shadows": 3, "epochs": 2}
    needs: ClassVar[Needs] = Needs(model="labels", clean="labelled", shadows=True)

    noises: Count = 1024
    sigmas: tuple[Positive, ...] = (0.18, 0.25, 0.35, 0.5, 0.71, 1.0, 1.41)
    shadows: Count = 50
    network: zoo.Network = "small_cnn:16"
    epochs: Count = 20
    dropped: Share = 0.2
    theta: Share = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigmas or math.floor(self.dropped * self.shadows) >= self.shadows:
            raise ConfigError(f"sigmas = {self.sigmas}, shadows = {self.shadows} and dropped = {self.dropped} given; "
                              "expected a noise level, and a shadow model that is not dropped")

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The LDP of the model, and the share of answers of each class; suspected by the paper's rule.

        Raises:
            NotApplicable: the model classifies no clean image correctly.
        """
        build = zoo.network(in_full(self.network), clean)
        trained = [*shadows(build, clean, task, run, self.shadows, self.epochs)]
        own = Shadow(run.frozen(model), torch.randperm(len(clean), generator=run.rng("images")))
        sigma = self._sigma(trained, clean, run)
        references = [self.answers(shadow, clean, sigma, self.noises, run).max().item() for shadow in trained]
        share = self.answers(own, clean, sigma, self.noises, run)
        rule = Rule(share.max().item(), threshold(references, self.dropped, self.theta))
        suspected = (int(share.argmax()),) if rule.flagged else ()
        return Finding(rule.value, rule, suspected, tuple(share.tolist()))

    def answers(self, shadow: Shadow, clean: Dataset, sigma: float, noises: int, run: Run) -> Float[Tensor, "k"]:
        """The share of each class among the answers to noisy images, the mean over one image per class."""
        x = _one_per_class(shadow, clean, run)
        noise, scale = run.rng("noise"), sigma * (clean.space.high - clean.space.low)
        counts = torch.zeros(len(clean.classes))
        for part in run.chunks(noises, x.numel()):
            drawn = torch.randn(part.stop - part.start, *x.shape, generator=noise).to(x.device)
            labels = _predicted(shadow.model, (x + scale * drawn).flatten(0, 1), run)
            counts += torch.bincount(labels.cpu(), minlength=len(counts))
        return counts / counts.sum()

    def _sigma(self, trained: list[Shadow], clean: Dataset, run: Run) -> float:
        """The largest noise level at which the median LDP of the shadow models is at most one half."""
        rough = math.ceil(self.noises / ROUGH)
        for sigma in sorted(self.sigmas, reverse=True):
            found = [self.answers(shadow, clean, sigma, rough, run).max() for shadow in trained]
            if torch.stack(found).quantile(0.5) <= 0.5:
                return sigma
        return min(self.sigmas)


def threshold(references: list[float], dropped: float, theta: float) -> float:
    """The conformal threshold: of n scores in order, without the share of the largest that is dropped, the
    floor((n + 1) theta)-th from the end, counted from 0.
    """
    ordered = sorted(references)
    kept = len(ordered) - math.floor(dropped * len(ordered))
    return ordered[max(kept - 1 - math.floor((kept + 1) * theta), 0)]


def _one_per_class(shadow: Shadow, clean: Dataset, run: Run) -> Images:
    """One held-out image of each class that the model classifies correctly, where there is one."""
    x, y, _ = clean.fetch(shadow.held_out, run.device)
    right = torch.nonzero(_predicted(shadow.model, x, run) == y)[:, 0]
    if not len(right):
        raise NotApplicable(f"the model classifies none of {len(x)} clean images correctly")
    first = [right[y[right] == label][:1] for label in range(len(clean.classes))]
    return x[torch.cat(first)]


@torch.no_grad()
def _predicted(model: nn.Module, x: Images, run: Run) -> Int[Tensor, "b"]:
    with run.autocast():
        return torch.cat([model(x[part]).argmax(1) for part in run.chunks(len(x), x[0].numel())])
