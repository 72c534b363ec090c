"""sidedoor: plant backdoors in vision models, defend against them, and measure both.

The public names are imported when they are first used, so `import sidedoor` costs nothing. Methods live in
`sidedoor.attacks`, `sidedoor.defenses`, ... one a file: `from sidedoor.attacks.badnets import BadNets`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidedoor.backdoor.dataset import PoisonedDataset as PoisonedDataset
    from sidedoor.backdoor.dataset import seal as seal
    from sidedoor.bench.machine import Machine as Machine
    from sidedoor.bench.record import Record as Record
    from sidedoor.bench.run import run as run
    from sidedoor.bench.spec import Spec as Spec
    from sidedoor.bench.store import Store as Store
    from sidedoor.bench.sweep import sweep as sweep
    from sidedoor.data.base import split as split
    from sidedoor.data.base import wrap as wrap
    from sidedoor.engine import Objective as Objective
    from sidedoor.engine import Player as Player
    from sidedoor.engine import Recipe as Recipe
    from sidedoor.engine import Run as Run
    from sidedoor.tasks.classification import Classification as Classification
    from sidedoor.tasks.task import Supervised as Supervised
    from sidedoor.zoo import load as load
    from sidedoor.zoo import network as network

_HOMES = {
    "bench.machine": ("Machine",), "bench.record": ("Record",), "bench.run": ("run",), "bench.spec": ("Spec",),
    "bench.store": ("Store",), "bench.sweep": ("sweep",), "data.base": ("split", "wrap"),
    "backdoor.dataset": ("PoisonedDataset", "seal"), "engine": ("Objective", "Player", "Recipe", "Run"),
    "zoo": ("load", "network"), "tasks.classification": ("Classification",), "tasks.task": ("Supervised",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sidedoor' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sidedoor.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
