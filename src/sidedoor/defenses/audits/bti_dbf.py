"""BTI-DBF: a model audit that changes the features which clean images do not need and looks at what class comes of it.

Paper: Xu, Huang, Li, Qin, Ren, "Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign
Features", ICLR 2024.

One generator for all classes makes images close to clean ones whose features differ where the model does not look for
these; in a backdoored model that is where the trigger is seen, so most of them are taken for its target. Half of the
clean images fit the mask and the generator, the other half is counted. Labels are the model's own.

The paper inverts triggers to unlearn them, and takes the most frequent label for the target without asking if there is
one; the score, the share of images of other classes that become it, is ours, so no rule stands beside it. In clean
models half of the images may become one class. The generator adds to the image rather than learning to copy it first,
and images may change by less: the release's bound of 0.3 is in normalised values, where it is most of an image. As
there, a bound is no projection, and images end near it, within about twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.adversarial.deepfool import predicted
from sidedoor.algorithms.adversarial.universal_towards import box
from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.inversion.decoupling import Decoupling
from sidedoor.algorithms.inversion.generator import Descent, alter
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Needs
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evidence import Exhibit, Finding
from sidedoor.method import Count, Place, Positive
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class BTIDBF(ModelAudit):
    """Generate images whose features differ where clean ones are not looked at, and count the class they are taken for.

    Args:
        samples: most clean images; half of them fit the mask and the generator.
        mask_steps: of Adam, for the mask.
        mask_lr: of Adam, for the mask.
        steps: of Adam, for the generator.
        lr: of Adam, for the generator.
        batch: images per step of both.
        distance: most mean squared change of images, in units of the squared range.
        drift: most mean squared change of the features that clean images need, in units of their mean square.
        width: channels of the generator, at least 4.
        layer: stage whose maps the mask lies on, among those with maps; -1 is the last.
    """

    origins: ClassVar[dict[str, str]] = {
        "samples": "ours: the standard error of the score is below five points",
        "mask_steps": "release: 20 epochs, of 20 batches", "mask_lr": "release",
        "steps": "ours: a quarter of the release's, at ten times its learning rate",
        "lr": "ours: with the release's 0.001 images of digits change little", "batch": "ours: a quarter of the images",
        "distance": "ours: 0.02, for values in [0, 1]", "drift": "ours: features may change by as much as they are",
        "width": "ours: a quarter of the release's", "layer": "paper: the last features before the head",
    }
    quick: ClassVar[dict[str, Any]] = {"mask_steps": 40, "steps": 30}
    needs: ClassVar[Needs] = Needs(model="weights", clean="images")
    sign_tested_in: ClassVar[str] = ("tests/defenses/test_bti_dbf.py::"
                                     "test_the_target_of_a_planted_unit_is_named_and_the_model_is_left_alone")

    samples: Count = 256
    mask_steps: Count = 400
    mask_lr: Positive = 0.01
    steps: Count = 150
    lr: Positive = 0.01
    batch: Count = 32
    distance: Positive = 0.02
    drift: Positive = 1.0
    width: Count = 8
    layer: Place = -1

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        """The share of held-out images of other classes that become the most frequent class, and that of each class;
        the first is suspected.

        Raises:
            NotApplicable: the network cannot be cut there, the images have no bounded range, or there is one alone.
        """
        frozen, space = run.frozen(model), box(clean)
        parts = cut(frozen, clean.shape, self.layer)
        chosen = torch.randperm(len(clean), generator=run.rng("images"))[: self.samples]
        if len(chosen) < 2:
            raise NotApplicable(f"{len(chosen)} clean image given; one half of them fits and the other is counted")
        fitting, held_out = clean.fetch(chosen, run.device).x.chunk(2)
        search = Decoupling(Descent(self.mask_steps, self.batch, self.mask_lr),
                            Descent(self.steps, self.batch, self.lr), self.distance, self.drift, self.width)
        mask = search.masked(parts, fitting, run)
        changed = alter(search.generated(parts, mask, fitting, space, run), held_out, run)
        flips = led(predicted(frozen, held_out), predicted(frozen, changed), task.classes)
        best = int(flips.argmax())
        change = ((changed - held_out) / (space.high - space.low)).mean(0).cpu() / 2 + 0.5
        return Finding(flips[best].item(), suspected=(best,), per_class=tuple(flips.tolist()), exhibits=(
            Exhibit("change", "picture", "mean change of images, grey is no change", change.clamp(0, 1)),
            Exhibit("features", "curve", "how much clean images need each channel", mask.mean((1, 2)).cpu())))


def led(before: Int[Tensor, "n"], after: Int[Tensor, "n"], classes: int) -> Float[Tensor, "k"]:
    """The share of the images of other classes that became each class, on the CPU."""
    was, became = (functional.one_hot(labels.cpu(), classes).float() for labels in (before, after))
    return ((1 - was) * became).sum(0) / (1 - was).sum(0).clamp(min=1)
