"""Each input of the corpus in a child process with limits of memory and time."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import tests.corpus
from sidedoor.errors import SidedoorError
from tests.corpus.base import MARKER, Item

EXPECTED = {"weights": 60, "image": 60, "folder": 40, "video": 25, "spec": 300, "record": 150, "state": 20,
            "answers": 10}
"""The least number of inputs of each kind."""
SECONDS = 60
"""Of the processor, that reading one input may take; converting weights imports torch, so this is no small number."""
ADDRESSES = 32 * 2**30
"""Bytes of address space of a child: a reader that is at fault ends rather than the machine."""


AGAIN = (0.5, 1, 2)
"""Seconds to wait before memory that seems too much is measured again. A reader at fault takes it each time."""


class Outcome(NamedTuple):
    """What came of one input.

    Args:
        what: "read", "refused", or a fault.
        said: the reader's message.
        memory: bytes at the peak, beyond those of a small input of its kind.
    """

    item: Item
    what: str
    said: str
    memory: int
    seconds: float


def all_items() -> list[Item]:
    """Of every module of the corpus that has some, by kind."""
    modules = [importlib.import_module(f"tests.corpus.{found.name}")
               for found in pkgutil.iter_modules(tests.corpus.__path__)
               if not found.name.startswith(("_", "test_")) and found.name not in ("run", "base")]
    return [item for module in modules if hasattr(module, "items") for item in module.items()]


def run(items: Sequence[Item]) -> Iterator[Outcome]:
    """Read each input. The first good one of a kind says how much memory a small input takes."""
    least: dict[str, int] = {}
    for item in sorted(items, key=lambda item: (item.kind, not item.good)):
        outcome, grown, size = _one(item)
        least.setdefault(item.kind, grown)
        for wait in AGAIN:
            if grown <= least[item.kind] + 3 * size + item.memory:
                break
            time.sleep(wait)
            grown = min(grown, _one(item)[1])
        more = max(0, grown - least[item.kind])
        if outcome.what in ("read", "refused") and more > 3 * size + item.memory:
            outcome = outcome._replace(what="memory")
        yield outcome._replace(memory=more)


def _one(item: Item) -> tuple[Outcome, int, int]:
    """(outcome, bytes at the peak of the child and its children beyond its first, bytes of the input)."""
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    try:
        (folder / "input").mkdir()
        path = _made(item, folder)
        size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
        start = time.monotonic()
        status, used = _child(item, path, folder / "said")
        seconds = time.monotonic() - start
        what, said = _read_back(status, folder / "said")
        if any(folder.rglob(MARKER)):
            what = "executed"
        if what == "refused" and item.good:
            what = "wrongly refused"
        grown = _number(folder / "said.use")
        return Outcome(item, what, said, 0, seconds), used.ru_maxrss * 1024 if grown is None else grown, size
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(item: Item, folder: Path) -> Path:
    """Make an input in a fork: on some systems a process hands the peak of its memory on to those it forks later."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            (folder / "path").write_bytes(os.fsencode(item.make(folder / "input")))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"the input {item.kind} {item.name!r} could not be made")
    return Path(os.fsdecode((folder / "path").read_bytes()))


def _child(item: Item, path: Path, said: Path) -> tuple[int, resource.struct_rusage]:
    """Read an input in a fork of this process: (status, use)."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _in_child(item, path, said)
    end = time.monotonic() + 10 * SECONDS  # of the clock: the limit of the processor's time does not see who waits
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            return status, used
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak(who: int) -> int:
    """Bytes in memory at most so far, of this process or of one that it started."""
    return resource.getrusage(who).ru_maxrss * 1024


def _watch(process: int, most: list[int]) -> None:
    """Keep the bytes that processes started by one had in memory at most. The system's own account of them begins with
    what the process that starts them has, and so hides what they take themselves.
    """
    while True:
        with contextlib.suppress(OSError, IndexError):  # they end in between
            for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                program = Path(f"/proc/{child}/cmdline").read_bytes()
                if program != Path(f"/proc/{process}/cmdline").read_bytes():  # it is itself by now
                    most[0] = max(most[0], int(status.partition("VmHWM:")[2].split()[0]) * 1024)
        time.sleep(0.002)


def _number(file: Path) -> int | None:
    return int(file.read_text()) if file.exists() else None


def _in_child(item: Item, path: Path, said: Path) -> None:
    """Never returns."""
    # What a fork has from its parent differs from one to the next: the system takes unused pages back. Where the peak
    # is inherited it counts from there.
    code, start, started = 3, max(_resident(), _peak(resource.RUSAGE_SELF)), [0]
    try:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(path.parent)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 2)
        threading.Thread(target=_watch, args=(os.getpid(), started), daemon=True).start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            item.read(path)
        said.write_text("")
        code = 0
    except SidedoorError as error:
        said.write_text(str(error), encoding="utf-8", errors="backslashreplace")
        code = 4
    except BaseException:
        said.write_text(traceback.format_exc()[-2000:], encoding="utf-8", errors="backslashreplace")
    finally:
        used = max(_peak(resource.RUSAGE_SELF) - start, started[0])
        said.with_suffix(".use").write_text(str(used))
        os._exit(code)


def _read_back(status: int, said: Path) -> tuple[str, str]:
    text = said.read_text(encoding="utf-8").strip() if said.exists() else ""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number in (signal.SIGXCPU, signal.SIGKILL)
        return ("hang" if hung else "traceback"), f"ended by {signal.Signals(number).name}"
    code = os.WEXITSTATUS(status)
    line = text.replace("\n", " | ")
    return {0: "read", 4: "refused"}.get(code, "traceback"), line if code != 3 else line[-300:]
