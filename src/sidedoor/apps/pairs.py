"""Pairs of test images, original and stamped, as files to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sidedoor.bench.case import load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.data.base import stored
from sidedoor.data.pictures import save_png
from sidedoor.errors import ConfigError
from sidedoor.triggers.base import stamp


def write_pairs(specs: Sequence[Spec], store: Store, folder: Path, count: int, machine: Machine) -> list[Path]:
    """Write `original/INDEX.png` and `ATTACK/INDEX.png` for test images that are eligible for each attack.

    The folder of an attack is numbered if there is one of its name already. Attacks that do not suit the task are left
    out. Models that the store has are not trained again.

    Returns:
        The attacks' folders.

    Raises:
        ConfigError: no specification with an attack.
    """
    attacked = [spec for spec in specs if spec.attack is not None and not spec.refusal()]
    if not attacked:
        raise ConfigError("no specification with an attack that suits its task given")
    made = []
    for spec in attacked:
        case = load(spec.attack_half(), store, machine)
        door = next(door for door in train_or_load(case).doors if door.scored)
        eligible = torch.nonzero(door.goal.eligible(case.task, case.test.targets))[:, 0]
        order = torch.randperm(len(eligible), generator=torch.Generator().manual_seed(0))
        batch = case.test.fetch(eligible[order[:count]].sort().values, case.run.device)
        with torch.no_grad():
            stamped = stamp(door.trigger, batch.x, batch.index, case.test.space)
        made.append(_free(folder, spec.attack_name))
        for name, images in (("original", batch.x), (made[-1].name, stamped)):
            _write(folder / name, batch.index, stored(images, case.test.space).cpu())
    return made


def _free(folder: Path, name: str) -> Path:
    taken, k = folder / name, 1
    while taken.exists():
        k += 1
        taken = folder / f"{name}-{k}"
    return taken


def _write(folder: Path, index: Tensor, images: Tensor) -> None:
    for k, image in zip(index.tolist(), images, strict=True):
        save_png(image, folder / f"{k:06d}.png")
