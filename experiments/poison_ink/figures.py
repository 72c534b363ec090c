"""A figure of what Poison Ink's networks hide and recover, and how often the message is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.pages import Study, shown
from sidedoor.attacks.poisoning.poison_ink import PoisonInk
from sidedoor.bench.case import Case, load
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import grid, read
from sidedoor.triggers.base import stamp
from sidedoor.triggers.ink import Ink, draw, ink_of_target, message_in

IMAGES = 8


@dataclass(frozen=True)
class Networks:
    """Poison Ink's networks of a specification, with what they work on."""

    case: Case
    attack: PoisonInk

    @staticmethod
    def of(study: Study, name: str, root: Path) -> Networks:
        """Those of the first cell of NAME.toml with the attack; trained if the store has none."""
        spec = next(cell for cell in grid(read(study.specifications / f"{name}.toml"))
                    if cell.attack_name == "poison_ink")
        attack = spec.make_attack()
        assert isinstance(attack, PoisonInk)
        return Networks(load(spec, study.store, Machine(root, device="cpu")), attack)

    def rows(self, index: Tensor, strength: float | None = None, rounded: bool = True) -> dict[str, Tensor]:
        """Test images, the same with ink, ten times the difference, what was drawn, and what the extractor finds.

        Args:
            strength: of the change; None for the attack's own.
            rounded: whether what it finds is found in the 8 bits of a file, or in what the network gives, clipped.
        """
        pair, pen = self.attack.networks(self.case.train, self.case.run.within("plan")), self.attack.pen()
        ink, test = ink_of_target(self.attack.ink, 0, self.case.test.shape[0]), self.case.test
        batch = test.fetch(index, self.case.run.device)
        with torch.no_grad():
            trigger = Ink(pair.injection, ink, pen, self.attack.strength if strength is None else strength)
            space = test.space if rounded else test.space._replace(levels=None)
            stamped = stamp(trigger, batch.x, batch.index, space)
            return {"image": batch.x, "with ink": stamped, "10 × difference": 0.5 + 10 * (stamped - batch.x),
                    "pattern": draw(pen.lines(batch.x), ink[None]), "extracted": pair.extractor(stamped),
                    "from the image": pair.extractor(batch.x)}

    def read_back(self, strength: float | None = None, rounded: bool = True) -> float:
        """Share of the test images with edges from which the extractor reads the message that the ink stands for.

        The arguments are those of `rows`.
        """
        rows = self.rows(torch.arange(len(self.case.test)), strength, rounded)
        lines = self.attack.pen().lines(rows["image"])
        some = lines.flatten(1).any(1)
        right = message_in(rows["extracted"], lines) == message_in(rows["pattern"], lines)
        return right[some].float().mean().item()


def hidden(networks: Networks, file: Path) -> None:
    """Figure 6."""
    rows = networks.rows(torch.linspace(0, len(networks.case.test) - 1, IMAGES).long())
    shown({title: images.numpy() for title, images in rows.items()}, file)
