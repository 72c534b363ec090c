"""Progress: an ETA on terminals and in logs, nothing on stdout, no thread beside the work."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from sidedoor import progress


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
    lines = err.splitlines()
    # The clock ticks once a step: after 3 of 8 steps and 3 seconds, 5 seconds are left.
    assert lines[0] == "victim: 3/8, 5 s left, epoch 1/1"
    assert len(lines) == 3
    assert lines[-1].startswith("victim: done in")


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
