"""Triggers on photographs, of every attack on classifiers whose trigger needs no training.

Left out are triggers that are optimised, as the attack's tags say, and those whose plan trains a network, which is
found by trying: what they would show before their training is not the trigger.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import sidedoor as sd
from sidedoor import registry

SHOWN = "A photograph, the same with the trigger, and their difference, enlarged in strength, of"
PHOTOGRAPHS = (116, 212)
"""A roof and an engine: structure and flat places."""


class Trains(Exception):
    """An attack asked for a network."""


class Untrained(sd.AttackerRun):
    """A run that trains nothing."""

    def fit(self, *given: Any, **named: Any) -> Any:
        raise Trains

    build = clean_model = artefact = fit


def pictures() -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each."""
    train, run = sd.load("photos").train, sd.Run.local(sd.Recipe(), seed=0)
    untrained = Untrained(**{name: getattr(run, name) for name in sd.Run.__dataclass_fields__})
    task, build = sd.Classification(classes=len(train.classes)), sd.network("small_cnn", train)
    for entry in registry.entries():
        if entry.kind == "attack" and "classification" in entry.tasks and "optimised" not in entry.tags:
            try:
                doors = sd.make("attack", entry.name).plan(train, task, build, untrained).doors
            except (Trains, sd.ConfigError):
                continue
            yield entry.name, strip(train, doors[0])


def strip(data: sd.Dataset, door: sd.Door) -> bytes:
    """Rows of image, stamped image and difference, as PNG."""
    index = torch.tensor(PHOTOGRAPHS)
    batch = data.fetch(index)
    stamped = sd.stamp(door.trigger, batch.x, batch.index, data.space)
    change = stamped - batch.x
    strength = 0.5 / max(float(change.abs().max()), 1 / 255)
    panels = torch.cat([batch.x, stamped, 0.5 + strength * change], 3)
    return png(torch.cat(list(panels), 2))


def png(image: Tensor) -> bytes:
    array = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", optimize=True)
    return file.getvalue()
