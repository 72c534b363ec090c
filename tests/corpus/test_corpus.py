"""The corpus is large enough, and what it looks for is found where it happens."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from sidedoor.errors import ConfigError
from tests.corpus import run
from tests.corpus.base import MARKER, Item


def small(folder: Path) -> Path:
    (folder / "a").write_bytes(b"abc")
    return folder / "a"


def refuses(path: Path) -> None:
    raise ConfigError("as it should")


def fails(path: Path) -> None:
    raise ValueError("as it should not")


def executes(path: Path) -> None:
    (path.parent / MARKER).touch()
    raise ConfigError("too late")


def takes(path: Path) -> None:
    # Far more than the bound: what a fork has from its parent shrinks when the system takes unused pages back.
    held = bytearray(2**31)
    held[:: 2**12] = b"x" * 2**19


def spins(path: Path) -> None:
    while True:
        pass


def waits(path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    (path.parent / "pipe").read_bytes()


@pytest.mark.parametrize(("read", "good", "what"), [
    (Path.read_bytes, True, "read"), (refuses, False, "refused"), (refuses, True, "wrongly refused"),
    (fails, False, "traceback"), (executes, False, "executed"), (takes, False, "memory"), (spins, False, "hang"),
    (waits, False, "hang"),
])
def test_each_fault_is_told_from_the_others(read: object, good: bool, what: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SECONDS", 1 if what == "hang" else 30)
    start = time.monotonic()
    items = [Item("any", "first", small, Path.read_bytes, good=True),
             Item("any", "second", small, read, good, memory=2**25)]
    assert [outcome.what for outcome in run.run(items)] == ["read", what]
    assert time.monotonic() - start < 60


def test_a_reader_that_takes_nothing_more_is_not_charged_with_its_parents_memory(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_peak", lambda who: 2**40)  # a fork inherits its parent's peak and never beats it
    items = [Item("any", name, small, Path.read_bytes, good=True) for name in ("first", "second")]
    assert [run._one(item)[1] for item in items] == [0, 0]


def test_there_are_enough_inputs_and_each_has_a_name_of_its_own() -> None:
    items = run.all_items()
    counts = Counter(item.kind for item in items)
    assert {kind: counts[kind] >= least for kind, least in run.EXPECTED.items()} == dict.fromkeys(run.EXPECTED, True)
    assert len({(item.kind, item.name) for item in items}) == len(items)
