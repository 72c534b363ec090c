"""How long work shows itself: bars with an ETA on a terminal, plain lines elsewhere, nothing when silent.

All of it goes to stderr, so that stdout carries results only.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Advance = Callable[..., None]
"""`advance(steps=1, note="")`"""


class Progress(Protocol):
    """Something that can show the advance of a named piece of work."""

    def task(self, name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """Show `total` steps of work while the block runs."""
        ...


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda steps=1, note="": None


class Renamed:
    """Shows pieces of work under other names than those that decide their random streams.

    Args:
        names: the last part of a name, after a slash, and what is shown.
    """

    def __init__(self, shown: Progress, names: Mapping[str, str]):
        self.shown, self.names = shown, names

    def task(self, name: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """Show it by its other name."""
        return self.shown.task(self.names.get(name.rpartition("/")[2], name), total)


class Lines:
    """A plain line every few seconds, for logs, and fewer the longer the work takes: gaps grow to a tenth of it.

    The outermost task also says that it begins.
    """

    def __init__(self, every: float = 10.0):
        self.every = every
        self.depth = 0

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        start = shown = time.monotonic()
        done = 0
        if self.depth == 0:
            _say(f"{name}: 0/{total}")

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal done, shown
            done += steps
            now = time.monotonic()
            if now - shown >= max(self.every, 0.1 * (now - start)):
                shown = now
                left = (now - start) / max(done, 1) * max(total - done, 0)
                _say(f"{name}: {done}/{total}, {_clock(left)} left{', ' + note if note else ''}")

        self.depth += 1
        try:
            yield advance
        finally:
            self.depth -= 1
        if time.monotonic() - start >= 1:
            _say(f"{name}: done in {_clock(time.monotonic() - start)}")


class Bars:
    """Live bars on a terminal, one under the other for nested work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Display
        from rich.table import Column

        # Names may be long, so they wrap and leave the numbers their room, and may hold brackets that are no markup.
        named = TextColumn("{task.description}  {task.fields[note]}", markup=False,
                           table_column=Column(ratio=1, overflow="fold"))
        self.display = Display(
            BarColumn(12), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), named,
            console=Console(stderr=True), transient=True, auto_refresh=False, expand=True,
        )
        self.shown = 0.0

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        outermost = not self.display.live.is_started
        if outermost:
            self.display.start()
        bar = self.display.add_task(name, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            if note:
                self.display.update(bar, note=note)
            self.display.update(bar, advance=steps)
            # Drawn by hand: a drawing thread beside torch's own on few cores makes every step wait for it.
            if time.monotonic() - self.shown > 0.5:
                self.shown = time.monotonic()
                self.display.refresh()

        try:
            yield advance
        finally:
            self.display.remove_task(bar)
            if outermost:
                self.display.stop()


class Remote:
    """Shows itself in another process, where an `Echo` listens to the pipe.

    Args:
        every: least seconds between two messages about the same task, which tell all that was done since.
    """

    def __init__(self, pipe: Connection, every: float = 0.5):
        self.pipe, self.every = pipe, every
        self.depth = 0

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        depth, said, untold = self.depth, time.monotonic(), 0

        def advance(steps: int = 1, note: str = "") -> None:
            nonlocal said, untold
            untold += steps
            now = time.monotonic()
            if now - said >= self.every:
                self._tell(depth, untold, note)
                said, untold = now, 0

        self._tell(depth, total, name)
        self.depth += 1
        try:
            yield advance
        finally:
            self.depth = depth
            self._tell(depth, untold, "")
            self._tell(depth, None, "")

    def _tell(self, depth: int, number: int | None, words: str) -> None:
        # Nobody listening is no reason to stop working.
        with contextlib.suppress(OSError):
            self.pipe.send((depth, number, words))


class Echo:
    """What a `Remote` in another process tells, shown here.

    Args:
        label: precedes the names of its tasks.
    """

    def __init__(self, pipe: Connection, progress: Progress, label: str):
        self.pipe, self.progress, self.label = pipe, progress, label
        self.open: list[tuple[contextlib.AbstractContextManager[Advance], Advance]] = []

    def hear(self) -> None:
        """Show all that was told since."""
        with contextlib.suppress(EOFError, OSError):
            while self.pipe.poll():
                depth, number, words = self.pipe.recv()
                if depth == len(self.open):
                    task = self.progress.task(f"{self.label}: {words}", number)
                    self.open.append((task, task.__enter__()))
                elif number is None:
                    self.open.pop()[0].__exit__(None, None, None)
                else:
                    self.open[depth][1](number, words)

    def close(self) -> None:
        """The other process has ended, maybe in the middle of its tasks, which then are not shown as done."""
        self.hear()
        cut = InterruptedError()
        while self.open:
            self.open.pop()[0].__exit__(type(cut), cut, None)
        self.pipe.close()


def reporter() -> Progress:
    """Bars if stderr is a terminal, lines if it is not."""
    return Bars() if sys.stderr.isatty() else Lines()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
