"""What only some systems offer: with it hidden, everything can be imported, and a cell is run and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidedoor.core import system

ELSEWHERE = """
import importlib, json, os, pkgutil, signal, sys, warnings
from pathlib import Path

for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("posix_fallocate", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "sched_getaffinity", "killpg"):
    delattr(os, name)
for name in ("SIGKILL", "SIGXCPU", "SIGHUP"):
    delattr(signal, name)
warnings.filterwarnings("ignore", "only soft file lock is available")  # what filelock says of such a Unix

import sidedoor
for found in pkgutil.walk_packages(sidedoor.__path__, "sidedoor."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)

from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core import system
from sidedoor.core.files import locked
from sidedoor.core.foreign_weights import read_weights
from sidedoor.engine import Recipe

store = Store(Path("out"))
spec = Spec(data={"name": "toy", "train": 60, "test": 20}, model={"name": "small_cnn", "width": 4},
            recipe=Recipe(epochs=6, batch=8), attack=None)
record = run(spec, store, Machine(device="cpu"))
assert record.peak_mb == system.peak_memory() == 0.0
assert store.records() == [record]
assert read_weights(store.model(record.planted))
assert store.remove_unused() == ([], 0)
with open("room", "w+b") as file:
    system.allocate(file.fileno(), 2**24 + 3)
assert os.path.getsize("room") == 2**24 + 3
print(system.start_method())
"""


def test_a_system_without_posix_modules_runs_a_cell(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "forkserver\n"


def test_memory_is_counted_in_mebibytes() -> None:
    held = bytearray(300 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert 300 < system.peak_memory() < 64 * 2**10


def test_processes_are_spawned_where_there_is_no_server_of_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.start_method() == "forkserver"
    monkeypatch.setattr(system.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert system.start_method() == "spawn"


def test_names_in_a_folder_are_synced_where_that_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(system.os, "fsync", synced.append)
    system.sync_folder(tmp_path)
    assert len(synced) == 1
    monkeypatch.setattr(system.sys, "platform", "win32")
    system.sync_folder(tmp_path / "missing")
    assert len(synced) == 1
