"""Locks on a shared folder: a file that its holder renews, and that others take over once it has stopped.

For folders on which locks of the operating system hold within one machine only, as on many network file systems. A
lease is a file made with O_EXCL. Its holder writes to it every 30 s, through the handle that it was made with, so that
nobody can renew a lease that is another's by now. Whoever waits takes a lease for dead when it has not changed for 5
minutes of the waiting process's own monotonic clock: clocks of two machines are never compared, so that none that is
wrong or jumps costs a holder its lease. On one machine, a holder whose process has ended is dead at once.

A lease is taken over by renaming it away and looking at what was renamed: if it is not what was seen, it is put back.
Of two who find the same lease dead, one renames it; the other puts back what the first has made since. Within the
moment before it is back a third could make one, and the first learns of it at its next renewal. What is made under a
lease has to bear that: written atomically, and equal whoever makes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidedoor.core import system
from sidedoor.core.files import parsed
from sidedoor.errors import CannotComplete

log = logging.getLogger("sidedoor")
RENEWED, STALE = 30.0, 300.0
"""Seconds between two renewals, and without one after which a lease is dead."""
POLL = 2.0
"""Seconds between two looks of a process that waits."""
_ROOM = 4096
"""Bytes of the largest lease: what names a host is short."""
SUFFIX = ".lease"


@dataclass(frozen=True)
class Clock:
    """What waiting needs of time.

    Args:
        now: seconds that never go backwards.
        sleep: waits for so many.
    """

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class _Seen:
    """A lease as it lay there: which file it was, and what was written in it."""

    file: tuple[int, int]
    content: bytes

    @functools.cached_property
    def holder(self) -> tuple[str, str, int] | None:
        """Machine, host and number of the process; None while it is being written."""
        try:
            said = parsed(self.content.decode())
            return str(said["machine"]), str(said["host"]), int(said["pid"])
        except (ValueError, KeyError, TypeError):
            return None

    def dead(self) -> bool:
        """Whether its holder was a process of this machine that has ended."""
        if self.holder is None:
            return False
        machine, _, process = self.holder
        return machine != "" and machine == system.identity() and not system.running(process)

    def __str__(self) -> str:
        return f"process {self.holder[2]} on {self.holder[1]}" if self.holder else \
            "a process that has not said its name"


class Lease:
    """A lease that is held.

    Attributes:
        lost: whether another has taken it over, because this process did not renew it for too long.
    """

    def __init__(self, path: Path, handle: int):
        self.path, self.handle, self.lost = path, handle, False
        self._owner, self._count = secrets.token_hex(8), 0
        stat = os.fstat(handle)
        self._file = stat.st_dev, stat.st_ino
        self.renew()

    def renew(self) -> None:
        """Say that the holder is alive; to nobody if the file is not its own any more."""
        if self.lost:
            return
        self._count += 1
        said = {"owner": self._owner, "host": socket.gethostname(), "pid": os.getpid(), "machine": system.identity(),
                "renewed": self._count, "time": time.strftime("%Y-%m-%d %H:%M:%S%z")}
        try:
            os.lseek(self.handle, 0, os.SEEK_SET)
            os.write(self.handle, json.dumps(said).ljust(_ROOM // 4).encode())  # over the last one, as long as it
            os.fsync(self.handle)
            stat = os.stat(self.path)
            self.lost = (stat.st_dev, stat.st_ino) != self._file
        except FileNotFoundError:
            self.lost = True
        except OSError as error:
            self.lost = error.errno == errno.ESTALE  # removed by another machine; else the next renewal may succeed
            if not self.lost:
                log.warning("cannot renew the lease %s: %s", self.path, error)
        if self.lost:
            log.warning("the lease %s was taken over, since it was not renewed for %g s; what is being made may be "
                        "made twice", self.path, STALE)

    def release(self) -> None:
        """Remove the file, unless it is another's by now."""
        os.close(self.handle)
        if not self.lost:
            _remove(self.path, lambda seen: seen.file == self._file)


@contextlib.contextmanager
def leased(path: Path, seconds: float = -1, clock: Clock = Clock()) -> Iterator[Lease]:
    """Hold the lease of a path among all processes of all machines that share its folder.

    Args:
        path: of the lock; the lease lies beside it, with another suffix.
        seconds: to wait for another holder; below 0 for ever.

    Raises:
        CannotComplete: the file cannot be made, or another process holds the lease for too long.
    """
    lease = acquire(path.with_suffix(SUFFIX), seconds, clock)
    over = threading.Event()
    renewing = threading.Thread(target=_keep, args=(lease, over), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        over.set()
        renewing.join()
        lease.release()


def _keep(lease: Lease, over: threading.Event) -> None:
    while not over.wait(RENEWED):
        lease.renew()


def acquire(path: Path, seconds: float = -1, clock: Clock = Clock()) -> Lease:
    """The lease of a file, once no other is there or the one that is there is dead.

    Raises:
        CannotComplete: as `leased`.
    """
    start, watch = clock.now(), _Watch(path, clock)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (lease := _made(path)) is None:
            if watch.dead():
                watch.remove()
            elif 0 <= seconds <= clock.now() - start:
                raise CannotComplete(f"{watch.seen or 'another process'} holds the lease {path}; wait until it has "
                                     "ended")
            else:
                clock.sleep(POLL)
    except OSError as error:
        raise CannotComplete(f"cannot lock {path}: {error}") from error
    return lease


def pause(path: Path, clock: Clock = Clock()) -> None:
    """Wait until nobody holds the lease of a lock, without taking it: many may pass at a time."""
    watch = _Watch(path.with_suffix(SUFFIX), clock)
    while not watch.dead() and watch.seen is not None:
        clock.sleep(POLL)
    if watch.seen is not None:
        watch.remove()


def held(path: Path) -> str | None:
    """Who holds the lease of a lock, as far as one look tells; None if nobody does."""
    seen = _look(path.with_suffix(SUFFIX))
    return None if seen is None or seen.dead() else str(seen)


class _Watch:
    """What a waiting process has seen of a lease, and since when it has not changed."""

    def __init__(self, path: Path, clock: Clock):
        self.path, self.clock = path, clock
        self.seen: _Seen | None = None
        self.since = 0.0

    def dead(self) -> bool:
        """Whether the lease that lies there has not changed for too long, or is that of a process that has ended."""
        seen = _look(self.path)
        if seen != self.seen:
            self.seen, self.since = seen, self.clock.now()
        return seen is not None and (seen.dead() or self.clock.now() - self.since >= STALE)

    def remove(self) -> None:
        """Take away the lease that was seen, and no other."""
        log.warning("the lease %s of %s is not renewed any more; it is taken over", self.path, self.seen)
        _remove(self.path, lambda seen: seen == self.seen)


def _made(path: Path) -> Lease | None:
    """A new lease, or None if there is one."""
    try:
        return Lease(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return None


def _look(path: Path) -> _Seen | None:
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            return _Seen((stat.st_dev, stat.st_ino), file.read(_ROOM))
    except FileNotFoundError:
        return None


def _remove(path: Path, mine: Callable[[_Seen], bool]) -> None:
    """Remove a lease if it is the expected one; what was renamed by mistake is put back."""
    seen = _look(path)
    if seen is None or not mine(seen):
        return
    away = path.with_name(f"{path.stem}-{secrets.token_hex(4)}.gone")
    with contextlib.suppress(FileNotFoundError):  # another was faster
        os.rename(path, away)
        renamed = _look(away)
        if renamed is not None and not mine(renamed):
            with contextlib.suppress(OSError):  # its holder learns of it at its next renewal
                os.link(away, path)
        away.unlink()
