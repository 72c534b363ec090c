"""Poison Ink's page: the worst case over transformations, and messages read before and after rounding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from experiments.poison_ink.figures import Networks
from experiments.poison_ink.page import ASR, TRANSFORMS, over_transforms, transformed
from sidedoor.bench.case import Case
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.triggers.ink import Pen

INK = (80, 160, 80)


def records(attack: str, rates: dict[int, list[float]]) -> list[Record]:
    """A cell for each seed and transformation, with these attack successes."""
    found = []
    for seed, values in rates.items():
        for name, value in zip(TRANSFORMS, values, strict=False):
            spec = Spec(data="digits", model="small_cnn", seed=seed, attack={"name": attack},
                        defense=None if name == "none" else name)
            found.append(Record(spec.key("d"), f"{attack} {seed}", spec.to_json(), "done", data="d", clean=0.9,
                                attack=value))
    return found


def test_the_worst_case_is_that_of_each_seed_and_of_whole_rows_only() -> None:
    found = records("badnets", {0: [0.9, 0.8, 0.1, 0.7, 0.5], 1: [0.9, 0.8, 0.6, 0.7, 0.3], 2: [0.9, 0.0]})
    assert over_transforms(found, ASR, min) == {0: 10.0, 1: 30.0}
    assert {seed: round(value, 9) for seed, value in over_transforms(found, ASR).items()} == {0: 60.0, 1: 66.0}


def test_the_table_has_the_worst_case_beside_the_papers() -> None:
    found = records("lsb", {0: [0.9, 0.8, 0.2, 0.7, 0.4], 1: [0.9, 0.8, 0.6, 0.7, 0.4], 2: [0.9, 0.8, 0.6, 0.3, 0.4]})
    head, _, row = (line.strip("| ").split(" | ") for line in transformed(found, {"lsb": (14.93, 15.36, 17.03, 15.76)})
                    if line.startswith("|"))
    cells = dict(zip(head, row, strict=True))
    assert cells["Worst"].startswith("30.0")
    assert cells["Paper: worst"] == "14.93"


class Faint(nn.Module):
    """Adds a quarter of a level of the pattern, which rounding loses."""

    def forward(self, cover: Tensor, pattern: Tensor) -> Tensor:
        return cover + 0.001 * pattern


class Fractions(nn.Module):
    """Finds what `Faint` added to images of whole levels."""

    def forward(self, x: Tensor) -> Tensor:
        return (255 * x - (255 * x).round()) / 0.255


def test_a_message_is_read_at_its_own_strength_and_lost_in_a_file_that_rounds_it_away() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(20, 230, (6, 3, 16, 16), dtype=torch.uint8, generator=generator)
    data = ArrayDataset(images, torch.arange(6) % 2, 2)
    pair = SimpleNamespace(injection=Faint(), extractor=Fractions())
    attack: Any = SimpleNamespace(ink=INK, strength=1.0, pen=Pen, networks=lambda train, run: pair)
    case = cast(Case, SimpleNamespace(train=data, test=data, run=Run.local(device="cpu")))
    networks = Networks(case, attack)
    assert networks.read_back(rounded=False) == 1.0
    assert networks.read_back(0.5, rounded=False) == 0.0
    assert networks.read_back() == 0.0
    assert networks.read_back(1.0, rounded=True) == 0.0
