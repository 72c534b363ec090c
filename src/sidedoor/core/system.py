"""What only some operating systems offer, with what is done elsewhere.

No other module of the package asks which system it runs on, the converter of pickles aside, which is a program of its
own. `filelock` does the same for locks.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import platform
import sys
from pathlib import Path
from typing import Any

resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

_CHUNK = 2**24
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
"""Flags to open a file of unknown origin: a pipe is not waited for, and no terminal is taken over."""


def allocate(handle: int, size: int) -> None:
    """Give an open file so many bytes on the disk: a sparse file would end the process when the disk is full.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    for start in range(0, size, _CHUNK):
        os.write(handle, bytes(min(_CHUNK, size - start)))


def peak_memory() -> float:
    """The largest resident memory of this process so far in MiB; 0 where the system does not say."""
    if resource is None:
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def processor() -> str:
    """The model of the CPU as Linux names it, else what the system says of it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


@functools.cache
def identity() -> str:
    """What is the same for two processes just if they mean the same process by a number: the boot of a machine and the
    room of process numbers that a container has; empty where the system does not say.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def running(process: int) -> bool:
    """Whether a process of this machine has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def start_method() -> str:
    """How processes are started that must not inherit the threads of this one."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power; Windows has no way to."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
