"""Leases: one holder at a time among machines, whoever dies, sleeps or has a clock that jumps. Nothing waits here."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidedoor.core import leases, system
from sidedoor.core.leases import POLL, RENEWED, STALE, Clock, Lease, acquire, held, leased, pause
from sidedoor.errors import CannotComplete

ELSEWHERE = {"owner": "a" * 16, "host": "elsewhere", "pid": 7, "machine": "another boot", "renewed": 3, "time": "then"}


class Time:
    """A clock that moves when somebody sleeps, and does something at moments."""

    def __init__(self) -> None:
        self.seconds, self.slept = 1000.0, 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept += seconds
        while self.events and self.events[0][0] <= self.slept:
            self.events.pop(0)[1]()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.seconds, self.sleep)


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "k.lease"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What is said about leases that are taken over is asserted where it matters."""
    with caplog.at_level("ERROR", logger="sidedoor"):
        yield


def put(path: Path, **changes: Any) -> None:
    """A lease of another machine."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(ELSEWHERE | changes))


def others(path: Path) -> list[str]:
    """Files beside the lease."""
    return sorted(file.name for file in path.parent.iterdir() if file != path)


def test_a_lease_says_who_holds_it_and_goes_with_its_holder(path: Path) -> None:
    with leased(path.with_suffix(".lock")):
        said = json.loads(path.read_text())
        assert (said["pid"], said["renewed"]) == (os.getpid(), 1)
        assert str(held(path)).startswith(f"process {os.getpid()} on ")
    assert not path.exists()
    assert held(path) is None
    assert others(path) == []


def test_of_two_contenders_one_waits_until_the_other_is_done(path: Path, now: Time) -> None:
    first = acquire(path)
    now.events = [(3 * POLL, first.release)]
    second = acquire(path, clock=now.clock)
    assert now.slept == 3 * POLL
    assert not second.lost
    second.release()


def test_whoever_does_not_want_to_wait_is_told_who_holds_it(path: Path, now: Time) -> None:
    put(path)
    with pytest.raises(CannotComplete, match=r"process 7 on elsewhere holds the lease .*k\.lease"):
        acquire(path, 5 * POLL, now.clock)
    assert now.slept == 5 * POLL
    assert json.loads(path.read_text()) == ELSEWHERE


def test_a_lease_that_is_not_renewed_is_taken_over_after_five_minutes_and_not_before(path: Path, now: Time) -> None:
    put(path)
    lease = acquire(path, clock=now.clock)
    assert now.slept == STALE == 300
    assert json.loads(path.read_text())["pid"] == os.getpid()
    assert others(path) == []
    lease.release()
    assert not path.exists()


def test_a_holder_that_renews_keeps_its_lease_for_ever(path: Path, now: Time) -> None:
    put(path)
    now.events = [(n * RENEWED, lambda n=n: put(path, renewed=n)) for n in range(1, 31)]
    lease = acquire(path, clock=now.clock)
    assert now.slept == pytest.approx(30 * RENEWED + STALE, abs=POLL)
    lease.release()


def test_the_clock_of_a_holder_may_jump(path: Path, now: Time) -> None:
    """What a lease says of the time is for people: a year back or ahead, and its file's times, change nothing."""
    put(path, time="1999-01-01")
    os.utime(path, (1, 1))
    now.events = [(STALE - POLL, lambda: put(path, time="2222-01-01")),
                  (STALE - POLL, lambda: os.utime(path, (2**33, 2**33)))]
    lease = acquire(path, clock=now.clock)
    assert now.slept == pytest.approx(2 * STALE, abs=2 * POLL)
    lease.release()


def test_the_clock_of_who_waits_is_monotonic(monkeypatch: pytest.MonkeyPatch, path: Path, now: Time) -> None:
    assert Clock().now is time.monotonic
    put(path)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    with pytest.raises(CannotComplete):
        acquire(path, 0, now.clock)


def test_renewals_are_seen_as_such(path: Path) -> None:
    lease = acquire(path)
    before = path.read_bytes()
    lease.renew()
    after = path.read_bytes()
    assert before != after
    assert json.loads(after)["renewed"] == 2
    assert len(before) == len(after)  # a reader never sees the end of an older one
    lease.release()


def test_a_holder_whose_lease_was_taken_over_learns_it_and_leaves_the_new_one_alone(path: Path, now: Time) -> None:
    slow = acquire(path)
    path.rename(path.with_name("away"))
    new = acquire(path, clock=now.clock)
    content = path.read_bytes()
    slow.renew()
    assert (slow.lost, new.lost) == (True, False)
    assert path.read_bytes() == content
    slow.release()
    assert path.read_bytes() == content
    new.renew()
    assert not new.lost
    new.release()


def test_a_holder_that_has_not_renewed_since_leaves_the_new_lease_alone_too(path: Path) -> None:
    slow = acquire(path)
    path.unlink()
    new = acquire(path)
    slow.release()
    assert path.exists()
    new.release()


def test_a_lease_that_was_removed_by_hand_is_lost(path: Path) -> None:
    lease = acquire(path)
    path.unlink()
    lease.renew()
    assert lease.lost
    lease.release()


def test_of_two_who_find_it_dead_the_second_puts_back_what_the_first_has_made(
    path: Path, monkeypatch: pytest.MonkeyPatch, now: Time
) -> None:
    """The first takes over in the moment between the second's look and its rename."""
    put(path)
    made: list[Lease] = []
    rename = os.rename

    def late(source: Path, target: Path) -> None:
        if not made:
            monkeypatch.setattr(os, "rename", rename)
            path.unlink()
            made.append(acquire(path))
            now.events = [(now.slept + RENEWED, made[0].renew), (now.slept + 2 * RENEWED, made[0].release)]
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    second = acquire(path, clock=now.clock)
    assert not made[0].lost
    assert now.slept >= STALE + 2 * RENEWED
    assert others(path) == []
    second.release()


def test_a_holder_that_died_before_it_said_its_name_is_taken_over(path: Path, now: Time) -> None:
    path.parent.mkdir()
    path.touch()
    assert held(path) == "a process that has not said its name"
    acquire(path, clock=now.clock).release()
    assert now.slept == STALE


def dead_process() -> int:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    return int(process.pid or 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_on_one_machine_nobody_waits_for_a_process_that_has_ended(path: Path, now: Time) -> None:
    if not system.identity():
        pytest.skip("the system does not say which machine it is")
    pid = dead_process()
    put(path, machine=system.identity(), pid=pid)
    assert held(path) is None
    acquire(path, clock=now.clock).release()
    assert now.slept == 0
    put(path, machine=system.identity(), pid=os.getppid())
    with pytest.raises(CannotComplete):
        acquire(path, POLL, now.clock)
    put(path, machine="another container", pid=pid)
    with pytest.raises(CannotComplete):
        acquire(path, POLL, now.clock)


def test_a_thread_renews_while_the_lease_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED", 0.001)
    with leased(path):
        first = path.read_bytes()
        end = time.monotonic() + 30
        while path.read_bytes() == first:
            assert time.monotonic() < end
    assert not path.exists()


def test_whoever_only_passes_waits_for_the_holder_and_takes_nothing(path: Path, now: Time) -> None:
    pause(path, now.clock)
    assert now.slept == 0
    holder = acquire(path)
    now.events = [(2 * POLL, holder.release)]
    pause(path, now.clock)
    assert now.slept == 2 * POLL
    put(path)
    pause(path, now.clock)
    assert now.slept == 2 * POLL + STALE
    assert not path.exists()  # the next one does not wait for the dead


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "locks").touch()
    with pytest.raises(CannotComplete, match="cannot lock"):
        acquire(tmp_path / "locks" / "k.lease")


def count_alone(path: Path, count: Path, rounds: int) -> None:
    leases.POLL = 0.0005
    for _ in range(rounds):
        with leased(path):
            value = int(count.read_text())
            os.sched_yield()
            count.write_text(str(value + 1))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_are_never_in_a_lease_together(path: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count_alone, args=(path, count, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert count.read_text() == "60"
    assert [process.exitcode for process in processes] == [0, 0, 0]
