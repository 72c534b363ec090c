"""Frequency detector: a small network that tells clean images from perturbed ones by their cosine transforms.

Paper: Zeng, Park, Mao, Jia, "Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective", ICCV 2021,
arXiv:2104.03413.

It never sees the model. The network is trained on clean images and the same with synthetic perturbations: blocks,
noise, shadows and blends. Many triggers leave high frequencies that photographs do not have; smooth ones do not, and
clean images of another texture may. Ours takes the logarithm of coefficients, standardised one by one, where the
release has them as they are, and rounds perturbed images to the levels of stored ones, so that fractions give nothing
away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.data.base import Dataset, stored, unit
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors._perturbations import PERTURBATIONS
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.errors import NotApplicable, unknown
from sidedoor.image.cosine import cosines
from sidedoor.method import Count
from sidedoor.models.base import Shape
from sidedoor.tasks.task import Task
from sidedoor.types import Batch, Images, Index, Space

BATCH = 32
WIDTHS = ((32, 0.2), (64, 0.3), (128, 0.4))
"""Channels and dropout of each pair of convolutions."""
FAINT = 1e-3  # added to coefficients before their logarithm


@dataclass(frozen=True)
class FrequencyDetector(InputDetector):
    """Score an input by the logit of "perturbed" less that of "clean", given its cosine transform.

    Args:
        steps: of training, each with 32 clean images and as many perturbed ones.
        perturbations: by name.

    Raises:
        ConfigError: an unknown perturbation, or none.
    """

    origins: ClassVar[dict[str, str]] = {"steps": "ours: a minute on a CPU", "perturbations": "release: the five kinds"}
    quick: ClassVar[dict[str, Any]] = {"steps": 10}
    needs: ClassVar[Needs] = Needs(clean="images")

    steps: Count = 600
    perturbations: tuple[str, ...] = tuple(PERTURBATIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.perturbations or ("",):
            if name not in PERTURBATIONS:
                raise unknown("perturbation", name, PERTURBATIONS)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        """A function from inputs to differences of logits.

        Raises:
            NotApplicable: images below 8×8.
        """
        if min(clean.shape[1:]) < 8:
            raise NotApplicable(f"images of {clean.shape[1]}×{clean.shape[2]} given; the network needs 8×8")
        key = {"frequency_detector": clean.fingerprint(), "seed": run.seed, "version": self.version} | asdict(self)
        network = run.artefact(key, lambda: FrequencyNetwork(clean.shape), lambda own: self.trained(clean, own))

        @torch.no_grad()
        def detect(x: Images, index: Index) -> Float[Tensor, "b"]:
            with run.autocast():
                difference: Tensor = network(x).float().diff(dim=1)[:, 0]
            return difference

        return detect

    @torch.enable_grad()
    def trained(self, clean: Dataset, run: Run) -> nn.Module:
        """A network that knows clean images from perturbed ones."""
        network = run.build(lambda: FrequencyNetwork(clean.shape))
        assert isinstance(network, FrequencyNetwork)
        table = run.per_sample(network, clean, lambda batch: {"coefficients": network.coefficients(batch.x)})
        network.mean.copy_(table["coefficients"].mean(0))
        network.std.copy_(table["coefficients"].std(0, correction=0).clamp(min=0.1))
        epochs = math.ceil(self.steps / math.ceil(len(clean) / BATCH))
        own = replace(run, augment=None, recipe=Recipe("adam", lr=2e-3, weight_decay=0.0, epochs=epochs, batch=BATCH))
        return own.fit(network, clean, CleanOrPerturbed(self.perturbations, clean.space), name="frequency detector")


class FrequencyNetwork(nn.Module):
    """Six convolutions on standardised log-magnitudes of the cosine transform of each channel."""

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape):
        super().__init__()
        for name, value in (("mean", torch.zeros(shape)), ("std", torch.ones(shape)),
                            ("rows", cosines(shape[1])), ("columns", cosines(shape[2]))):
            self.register_buffer(name, value)
        layers: list[nn.Module] = []
        inputs, places = shape[0], (shape[1] // 8) * (shape[2] // 8)
        for width, dropout in WIDTHS:
            for given in (inputs, width):
                layers += [nn.Conv2d(given, width, 3, padding=1), nn.ELU(), nn.BatchNorm2d(width)]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
            inputs = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * places, 2))

    def coefficients(self, x: Images) -> Float[Tensor, "b c h w"]:
        """Logarithms of the magnitudes of the orthonormal cosine transform."""
        return torch.log((self.rows @ x.float() @ self.columns.T).abs() + FAINT)

    def forward(self, x: Images) -> Float[Tensor, "b 2"]:
        logits: Tensor = self.body((self.coefficients(x) - self.mean) / self.std)
        return logits


class CleanOrPerturbed(Objective):
    """Cross-entropy between clean images and the same perturbed, each kind in its share of the batch."""

    def __init__(self, names: Sequence[str], space: Space):
        super().__init__()
        self.kinds, self.space = [PERTURBATIONS[name] for name in names], space

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        parts = torch.tensor_split(batch.x, len(self.kinds))
        perturbed = torch.cat([kind(part) for kind, part in zip(self.kinds, parts, strict=True) if len(part)])
        perturbed = stored(perturbed.clamp(self.space.low, self.space.high), self.space)
        logits = model(torch.cat([batch.x, unit(perturbed, self.space)]))
        labels = torch.arange(2, device=logits.device).repeat_interleave(len(batch.x))
        return functional.cross_entropy(logits, labels)[None]
