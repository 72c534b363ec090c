"""Progress: an ETA on terminals and in logs, nothing on stdout, no thread beside the work."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe

import pytest
from rich.console import Console

from sidedoor.core import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes one second a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_lines_name_what_is_done_and_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.time, "monotonic", Clock())
    with progress.Lines(every=3).task("victim", 8) as advance:
        for _ in range(8):
            advance(1, "epoch 1/1")
    out, err = capsys.readouterr()
    assert out == ""
    begun, *lines = err.splitlines()
    assert begun == "victim: 0/8"
    # The clock ticks once a step: after 3 of 8 steps and 3 seconds, 5 seconds are left.
    assert lines[0] == "victim: 3/8, 5 s left, epoch 1/1"
    assert len(lines) == 3
    assert lines[-1].startswith("victim: done in")


def test_a_piece_of_work_is_shown_by_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Renamed(progress.Lines(), {"victim": "training"})
    with shown.task("artefact/victim", 2):
        pass
    with shown.task("victims", 3):
        pass
    assert capsys.readouterr().err == "training: 0/2\nvictims: 0/3\n"


def test_lines_say_at_once_that_the_outermost_task_begins(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress.Lines()
    with lines.task("cells", 2), lines.task("victim", 8):
        assert capsys.readouterr().err == "cells: 0/2\n"
    with pytest.raises(InterruptedError), lines.task("cells", 2):
        raise InterruptedError
    with lines.task("cells", 3):
        assert capsys.readouterr().err == "cells: 0/2\ncells: 0/3\n"


@pytest.mark.parametrize("width", [60, 200])
def test_bars_keep_their_numbers_beside_long_names(width: int) -> None:
    name = "badnets (trigger.size=3, rate=0.05), spectral_signatures [seed 0]: retrain"
    bars = progress.Bars()
    page = Console(file=io.StringIO(), width=width, color_system=None)
    with bars.task(name, 540) as advance:
        advance(30, "epoch 16/20")
        with page.capture() as drawn:
            page.print(bars.display.get_renderable())
    text = " ".join(drawn.get().split())
    assert "30/540 0:00:00 left" in text
    assert all(word in text for word in ("(trigger.size=3,", "[seed", "0]:", "retrain", "16/20"))


def test_bars_draw_nested_work_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress.time, "monotonic", Clock())
    threads = threading.active_count()
    bars = progress.reporter()
    assert isinstance(bars, progress.Bars)
    with bars.task("cells", 2) as outer, bars.task("victim", 3) as inner:
        inner(2, "epoch 1/2")
        assert threading.active_count() == threads
        outer()
    text = terminal.getvalue()
    assert all(part in text for part in ("cells", "victim", "2/3", "1/2", "left", "epoch 1/2"))


def test_the_reporter_suits_where_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress.reporter(), progress.Lines)


def test_silence_takes_steps_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Silent().task("quiet", 1) as advance:
        advance(1, "note")
    assert capsys.readouterr() == ("", "")


class Recorder:
    """Keeps what it is told, and which tasks are open or done."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []
        self.totals: dict[str, int] = {}
        self.open: list[str] = []
        self.done: list[str] = []

    @contextlib.contextmanager
    def task(self, name: str, total: int) -> Iterator[progress.Advance]:
        self.totals[name] = total
        self.open.append(name)
        try:
            yield lambda steps=1, note="": self.told.append((name, steps, note))
            self.done.append(name)
        finally:
            self.open.remove(name)


def test_work_elsewhere_shows_its_nested_tasks_here() -> None:
    here, there = Pipe(duplex=False)
    recorder = Recorder()
    echo = progress.Echo(here, recorder, "cell")
    remote = progress.Remote(there, every=0)
    with remote.task("plan", 2) as outer:
        outer(1, "first")
        with remote.task("network", 5) as inner:
            inner(3, "epoch 1")
            echo.hear()
            assert recorder.open == ["cell: plan", "cell: network"]
        outer()
    with remote.task("victim", 7):
        echo.hear()
        assert recorder.open == ["cell: victim"]
        echo.close()
    assert recorder.open == []
    assert recorder.done == ["cell: network", "cell: plan"]
    assert recorder.totals == {"cell: plan": 2, "cell: network": 5, "cell: victim": 7}
    told = [t for t in recorder.told if t[1]]
    assert told == [("cell: plan", 1, "first"), ("cell: network", 3, "epoch 1"), ("cell: plan", 1, "")]


def test_steps_are_told_together_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.time, "monotonic", Clock())
    here, there = Pipe(duplex=False)
    recorder = Recorder()
    echo = progress.Echo(here, recorder, "cell")
    with progress.Remote(there, every=4).task("victim", 10) as advance:
        for _ in range(10):
            advance()
    echo.hear()
    assert [steps for _, steps, _ in recorder.told] == [4, 4, 2]


def test_lines_get_rarer_the_longer_the_work_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.time, "monotonic", Clock())
    with progress.Lines(every=3).task("network", 1000) as advance:
        for _ in range(1000):
            advance()
    shown = [int(line.split()[1].split("/")[0]) for line in capsys.readouterr().err.splitlines()[:-1]]
    gaps = [after - before for before, after in itertools.pairwise(shown)]
    assert gaps == sorted(gaps)
    assert gaps[0] == 3
    assert 50 < max(gaps) <= 100
