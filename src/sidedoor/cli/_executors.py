"""Where the cells of a sweep are run, by the options of the command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sidedoor.cli._options import note
from sidedoor.errors import ConfigError

if TYPE_CHECKING:
    from sidedoor.bench.executors.base import Executor, Jobs
    from sidedoor.bench.machine import Machine
    from sidedoor.bench.store import Store

NAMES = ("processes", "ray", "slurm")


def executor(name: str, store: Store, here: Machine, *, workers: int | None, timeout: float | None,
             address: str | None, gpus: float, slurm: list[str]) -> Executor | Jobs | None:
    """An executor by its name; None for this machine's processes.

    Raises:
        ConfigError: an unknown name, or an option that belongs to another executor.
        CannotComplete: what it needs is not there.
    """
    _check(name, workers, address, gpus, slurm)
    if name == "processes":
        return None
    if store.locks == "flock":
        note("the locks of the folder hold within one machine each; --store-locks lease makes some that hold among all")
    if name == "slurm":
        from sidedoor.bench.executors.slurm import Slurm, submitter
        from sidedoor.bench.spec import settings_of

        given = settings_of(slurm, "--slurm", "partition=gpu")
        return Slurm(store, here, submitter(store.root / "slurm", given, workers), timeout)
    from sidedoor.bench.executors.peaks import Peaks
    from sidedoor.bench.executors.ray import Ray, connect

    ray = connect(address)
    if not _protected():
        note("Ray runs what anybody sends who reaches its ports: switch token authentication on (RAY_AUTH_MODE=token, "
             "see `ray get-auth-token`), or keep them within a network that you trust")
    store.root.mkdir(parents=True, exist_ok=True)
    known = store.lenient().records() if (store.root / "results").is_dir() else []
    return Ray(store, here, ray, Peaks(known), gpus, workers)


def _check(name: str, workers: int | None, address: str | None, gpus: float, slurm: list[str]) -> None:
    if name not in NAMES:
        raise ConfigError(f"--executor {name} given; expected {', '.join(NAMES[:-1])} or {NAMES[-1]}")
    if workers == 0 and name != "processes":
        raise ConfigError(f"--workers 0 with --executor {name} given; 0 is for this process alone")
    for option, given, owner in (("--address", address, "ray"), ("--gpus", gpus, "ray"), ("--slurm", slurm, "slurm")):
        if given and name != owner:
            raise ConfigError(f"{option} with --executor {name} given; it belongs to --executor {owner}")


def _protected() -> bool:
    """Whether this process talks to Ray with a token, as Ray itself decides it."""
    if mode := os.environ.get("RAY_AUTH_MODE"):
        return mode.lower() == "token"
    return any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or \
        (Path.home() / ".ray" / "auth_token").exists()
