"""Decoupling: which features a model needs for clean images, and a generator of images that change the others.

Paper: Xu, Huang, Li, Qin, Ren, "Towards Reliable and Efficient Backdoor Trigger Inversion via Decoupling Benign
Features" (BTI-DBF), ICLR 2024.

A mask m on the maps f of a stage is such that the rest of the network gives its own answers from m·f and others from
(1 - m)·f. A generator G then makes images close to x whose features differ where the mask does not look:

    maximise |(1 - m)·(f(x) - f(G(x)))|² - 0.01 |m·(f(x) - f(G(x)))|²   subject to   |x - G(x)|² ≤ distance

and a bound on the second term; a step that breaks one of the bounds makes the images alike instead. All classes at
once: the target is what most of the generated images are taken for.

The released code keeps the model in training mode, so that its normalisation statistics drift; here it is frozen. It
bounds features by a number, ours by their own mean square, for networks differ in scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.features.cut import Cut, Maps
from sidedoor.algorithms.inversion.generator import Descent, distance, generator
from sidedoor.engine import Run
from sidedoor.types import Images, Space

KEPT = 0.01
"""Weight of the change of the features that clean images need."""
TINY = 1e-12
"""The least mean square that features are measured by."""


@dataclass(frozen=True)
class Decoupling:
    """The two searches.

    Args:
        mask: how the mask is optimised; its learning rate is that of a tanh's argument.
        image: how the generator is.
        distance: most mean squared change of images, in units of the squared range.
        drift: most mean squared change of the features that the mask keeps, in units of their mean square.
        width: of the generator.
    """

    mask: Descent
    image: Descent
    distance: float
    drift: float
    width: int

    def masked(self, parts: Cut, x: Images, run: Run) -> Float[Tensor, "m i j"]:
        """How much the model needs each value of the maps for clean images, in [0, 1]."""
        maps, label = recorded(parts, x, run)
        raw = torch.randn(maps.shape[1:], generator=run.rng("mask")).to(x.device).requires_grad_(True)

        def loss(rows: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            mask = raw.tanh() / 2 + 0.5
            with run.autocast():
                kept, left = (parts.tail(part * maps[rows]).float() for part in (mask, 1 - mask))
            return functional.cross_entropy(kept, label[rows]) - functional.cross_entropy(left, label[rows])

        self.mask.minimise([raw], loss, len(x), run, "mask of features")
        return raw.detach().tanh() / 2 + 0.5

    def generated(self, parts: Cut, mask: Float[Tensor, "m i j"], x: Images, space: Space, run: Run) -> nn.Module:
        """A network that changes images so that their features change where the mask does not look."""
        maps, _ = recorded(parts, x, run)
        scale = maps.square().mean().clamp(min=TINY)
        network = generator(parts.shape, self.width, space, run)

        def loss(rows: Int[Tensor, "b"]) -> Float[Tensor, ""]:
            with run.autocast():
                changed = network(x[rows])
                moved = parts.maps(changed).float() - maps[rows]
            far = distance(x[rows], changed.float(), space)
            kept, left = ((part * moved).square().mean() / part.square().mean().clamp(min=TINY) / scale
                          for part in (mask, 1 - mask))
            return far if far > self.distance or kept > self.drift else KEPT * kept - left

        self.image.minimise(list(network.parameters()), loss, len(x), run, "generator of images")
        return network.eval().requires_grad_(False)


@torch.no_grad()
def recorded(parts: Cut, x: Images, run: Run) -> tuple[Maps, Int[Tensor, "n"]]:
    """The maps of images, and the classes that the model gives them."""
    with run.autocast():
        found = [parts.both(x[rows]) for rows in run.chunks(len(x), x[0].numel())]
    maps, output = (torch.cat(part).float() for part in zip(*found, strict=True))
    return maps, output.argmax(1)
