"""What running the cells of a sweep somewhere costs, what survives when parts of it are killed, and where it breaks.

`python benchmarks/executors.py simulate [--workers N ...]` runs the queue and the store with cells that only pretend:
durations, deaths and stragglers are drawn, and the clock is one of this script. It says what the parent and the store
cost a cell, and how many workers the parent keeps busy.

`python benchmarks/executors.py kills [--count N]` starts a Ray cluster of two nodes as processes of this machine and
kills -9 a worker, a node's raylet or the driver, at random, until there were N; after each sweep it compares everything
that was written with an undisturbed one, bit for bit, times aside.

`python benchmarks/executors.py efficiency` compares, as ratios, two workers of `processes` and two nodes of Ray with
two bare processes that run half of the cells each, side by side.

What it starts it ends, by number; ports are chosen by the system.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sidedoor.bench import sweep as sweeping
from sidedoor.bench.executors.base import Cell, Ended, Executor
from sidedoor.bench.record import Record
from sidedoor.bench.spec import Spec, grid, read
from sidedoor.bench.store import Store
from sidedoor.core.leases import acquire
from sidedoor.core.system import processor
from tests.corpus.kills import compare, results
from tests.report.fabricated import make_record

GRID = """
data = { name = "digits" }
train_samples = 300
test_samples = 100
model = { name = "small_cnn", width = 4 }
defenses = ["fine_pruning"]
recipe = { epochs = 1, batch = 32 }

[grid]
attack = [{ name = "badnets", rate = 0.2 }, { name = "blended", rate = 0.2 }]
seed = [0, 1]
"""
PATIENCE = 600
BROAD = 45
"""Cells of a victim: a broad benchmark has that many defences."""


class Pretended(Executor):
    """Cells whose ends are drawn; the clock jumps from one to the next.

    Args:
        mean: seconds of a cell, about; durations are lognormal, one cell in fifty takes twenty times as long, and one
            in a hundred dies.
    """

    def __init__(self, store: Store, workers: int, mean: float, seed: int):
        self.store, self.workers, self.mean = store, workers, mean
        self.now, self.busy, self.spent = 0.0, 0.0, 0.0
        self.draw = random.Random(seed)
        self.events: list[tuple[float, int, str, Cell]] = []
        self.gone: set[str] = set()
        self.count = 0

    def submit(self, cell: Cell) -> None:
        seconds = self.mean * self.draw.lognormvariate(-0.5, 1.0) * (20 if self.draw.random() < 0.02 else 1)
        self.busy += seconds
        if any(not self.store.model(key).exists() for key in cell.trains):
            self._at(self.now + 0.3 * seconds, "model", cell)
        self._at(self.now + seconds, "death" if self.draw.random() < 0.01 else "end", cell)

    def _at(self, moment: float, what: str, cell: Cell) -> None:
        self.count += 1
        heapq.heappush(self.events, (moment, self.count, what, cell))

    def finished(self, seconds: float | None) -> list[Ended]:
        until = self.now + (float("inf") if seconds is None else max(seconds, 1e-3))  # clocks never stand still
        while self.events and self.events[0][0] <= until:
            self.now, _, what, cell = heapq.heappop(self.events)
            if cell.key in self.gone:
                continue
            start = time.perf_counter()
            if what == "model":
                for key in cell.trains:
                    self.store.folder(key).mkdir(parents=True, exist_ok=True)
                    self.store.model(key).touch()
            elif what == "end":
                self.store.put(make_record(cell.key, planted=cell.model))
            self.spent += time.perf_counter() - start
            if what != "model":
                return [Ended(cell, None if what == "end" else "drawn")]
        self.now = until
        return []

    def cancel(self, cell: Cell) -> None:
        self.gone.add(cell.key)


def simulated(workers: int, count: int, mean: float, folder: Path) -> dict[str, float]:
    """A sweep of so many pretended cells."""
    store, spec = Store(folder), Spec(data="digits", model="small_cnn", attack="badnets")
    victims = [(f"{n // BROAD:015x}f", f"{n // BROAD % 3:015x}c") for n in range(count)]
    cells = [Cell(spec, f"{n:016x}", model, frozenset([model, clean])) for n, (model, clean) in enumerate(victims)]
    executor = Pretended(store, workers, mean, seed=workers)
    before, sweeping.time = sweeping.time, SimpleNamespace(monotonic=lambda: executor.now)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        queue = sweeping._Queue(sweeping.deque(cells), store, timeout=30 * mean)
        found = Counter(record.status for record in sweeping._run(queue, executor))
    finally:
        sweeping.time = before
    own = time.perf_counter() - start - executor.spent
    assert found.total() == count == len(store.records())
    return {"workers": workers, "cells": count, **found, "parent, ms a cell": 1e3 * own / count,
            "parent, CPU ms a cell": 1e3 * (time.process_time() - cpu) / count,
            "record written, ms": 1e3 * executor.spent / count, "busy": executor.busy / (workers * executor.now),
            f"workers that the parent keeps busy at {mean:g} s a cell": mean * count / own}


def leases(folder: Path, count: int = 200) -> dict[str, float]:
    """Milliseconds of what a lease costs."""
    start = time.perf_counter()
    held = [acquire(folder / f"{n}.lease") for n in range(count)]
    made = time.perf_counter()
    for lease in held:
        lease.renew()
    renewed = time.perf_counter()
    for lease in held:
        lease.release()
    ends = (made - start, renewed - made, time.perf_counter() - renewed)
    return {f"lease {what}, ms": 1e3 * value / count for what, value in
            zip(("made", "renewed", "released"), ends, strict=True)}


def free_port() -> int:
    with contextlib.closing(socket.socket()) as each:
        each.bind(("", 0))
        return int(each.getsockname()[1])


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, parent and command line of each process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, line


class Cluster:
    """Two Ray nodes of one processor each, as processes of this machine."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start what is not running; a head that died takes the other node with it."""
        if not self.nodes or self.nodes[0].poll() is not None:
            self.stop()
            self.port = free_port()
            self._node("--head", "--port", str(self.port), "--include-dashboard=false", "--temp-dir", str(self.folder))
            self._until("Ray runtime started")
        if len(self.nodes) == 1 or self.nodes[1].poll() is not None:
            self.nodes = self.nodes[:1]
            self._node("--address", self.address)
            self._until("Ray runtime started")

    def _node(self, *options: str) -> None:
        common = ("--block", "--num-cpus", "1", "--object-store-memory", "80000000", "--disable-usage-stats",
                  "--node-ip-address", "127.0.0.1", "--min-worker-port", "0", "--max-worker-port", "0")
        with open(self.folder / f"node-{len(self.nodes)}.log", "wb") as log:
            self.nodes.append(subprocess.Popen([str(Path(sys.executable).parent / "ray"), "start", *options, *common],
                                               stdout=log, stderr=log, start_new_session=True))

    def _until(self, words: str) -> None:
        log, end = self.folder / f"node-{len(self.nodes) - 1}.log", time.monotonic() + PATIENCE
        while words not in log.read_text(errors="replace"):
            if time.monotonic() > end or self.nodes[-1].poll() is not None:
                raise SystemExit(f"a Ray node does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def raylets(self) -> list[int]:
        return [number for number, _, line in processes() if "/raylet/raylet " in line and str(self.folder) in line]

    def workers(self) -> list[int]:
        """Processes of Ray that run a cell, and those that they have started for it."""
        found, all_ = set(self.raylets()), list(processes())
        while more := {number for number, parent, _ in all_ if parent in found} - found:
            found |= more
        titled = {number for number, _, line in all_ if line.startswith("ray::run")}
        forked = {number for number, parent, line in all_ if "multiprocessing.forkserver" in line}
        return sorted(found & (titled | forked))

    def stop(self) -> None:
        """End all processes of the cluster, which its folder tells from those of others."""
        for _ in range(3):
            mine = {number for number, _, line in processes() if str(self.folder) in line and number != os.getpid()}
            for number in mine | set(self.workers()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        for node in self.nodes:
            with contextlib.suppress(ProcessLookupError):
                node.kill()
            node.wait()
        self.nodes = []


def command(file: Path, out: Path, *options: str, log: Path) -> subprocess.Popen[bytes]:
    """A sweep, in a session of its own."""
    words = [sys.executable, "-m", "sidedoor", "sweep", str(file), "--device", "cpu", "--out", str(out), *options]
    with open(log, "ab") as said:
        return subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True,
                                env=os.environ | {"OMP_NUM_THREADS": "1"})


def trained(out: Path) -> dict[str, int]:
    """When each finished model and record of a cell was written, by its name."""
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in out.glob("artefacts/*/model.safetensors")}


def settled(out: Path) -> dict[str, Any]:
    """What a folder holds, without times, and without how often a cell was started again."""
    found = results(out)
    return {name: {k: v for k, v in value.items() if k != "resubmitted"} if name.startswith("record") else value
            for name, value in found.items()}


def kills(count: int, folder: Path, seed: int) -> None:
    """Kill parts of a sweep on Ray again and again; print what came of it."""
    draw, file, log = random.Random(seed), folder / "grid.toml", folder / "log"
    file.write_text(GRID)
    plain = folder / "plain"
    assert command(file, plain, "--workers", "0", log=log).wait(PATIENCE) in (0, 1)
    expected, total = settled(plain), len(grid(read(file)))
    cluster, done, sweeps, again = Cluster(folder / "ray"), Counter[str](), 0, 0
    cluster.folder.mkdir()
    try:
        while done.total() < count:
            sweeps += 1
            out, seen = folder / f"out-{sweeps}", dict[str, int]()
            driver = None
            while not whole(out, total):
                if driver is None or driver.poll() is not None:
                    cluster.start()
                    driver = command(file, out, "--executor", "ray", "--address", cluster.address, "--timeout", "300",
                                     log=log)
                if done.total() < count and (hit := struck(cluster, driver, out, draw)):
                    done[hit] += 1
                    print(f"{done.total()}: {hit}, {sum(1 for _ in out.glob('results/*.json'))} of {total} records")
                now = trained(out)
                assert all(now.get(name) == at for name, at in seen.items()), "a model was lost or trained again"
                seen = now
                time.sleep(0.2)
            driver.wait(PATIENCE) if driver else None
            records = Store(out).records()
            assert len(records) == total
            again += sum(record.resubmitted for record in records)
            compare(expected, settled(out))
    finally:
        cluster.stop()
    print(f"{done.total()} kills ({json.dumps(dict(done))}) in {sweeps} sweeps of {total} cells: all tables equal that "
          "of an undisturbed sweep, bit for bit; nothing was lost or trained twice; the executor submitted "
          f"{again} cells again")


def whole(out: Path, total: int) -> bool:
    """Whether every cell has its result."""
    if not (out / "results").is_dir():
        return False
    records: list[Record] = Store(out).records()
    return len(records) == total and all(record.finished for record in records)


def struck(cluster: Cluster, driver: subprocess.Popen[bytes], out: Path, draw: random.Random) -> str | None:
    """Kill something at a random moment after the sweep has begun; what, or None if there was no such thing."""
    begun, end = len(list(out.rglob("*"))), time.monotonic() + PATIENCE
    while not cluster.workers() and driver.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(draw.uniform(0, 8 if begun else 16))
    what = draw.choice(["worker", "worker", "raylet", "driver"])
    numbers = {"worker": cluster.workers, "raylet": cluster.raylets, "driver": lambda: [driver.pid]}[what]()
    if driver.poll() is not None or not numbers:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(numbers), signal.SIGKILL)
        if what == "driver":
            driver.wait()
        return what
    return None


def efficiency(folder: Path) -> dict[str, float]:
    """Seconds of two workers, however they are run."""
    file, log = folder / "grid.toml", folder / "log"
    file.write_text(GRID.replace("seed = [0, 1]", "seed = [0, 1, 2, 3]").replace("epochs = 1", "epochs = 20"))

    def seconds(*commands: tuple[str, ...]) -> float:
        out = Path(tempfile.mkdtemp(dir=folder))
        start = time.perf_counter()
        started = [command(file, out, *options, log=log) for options in commands]
        assert all(each.wait(3 * PATIENCE) in (0, 1) for each in started)
        return time.perf_counter() - start

    cluster = Cluster(folder / "ray")
    cluster.folder.mkdir()
    try:
        cluster.start()
        ray = ("--executor", "ray", "--address", cluster.address)
        seconds(ray)  # Ray's workers have imported torch by then
        halves = [("--workers", "0", "--shard", part) for part in ("1/2", "2/2")]
        found = {"two bare processes": seconds(*halves), "processes, 2 workers": seconds(("--workers", "2")),
                 "ray, 2 nodes": seconds(ray)}
    finally:
        cluster.stop()
    bare = found["two bare processes"]
    return found | {f"{name}, times as fast": bare / value for name, value in found.items() if value != bare}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "kills", "efficiency"))
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000, 4000])
    parser.add_argument("--cells", type=int, default=4, help="pretended cells a worker")
    parser.add_argument("--mean", type=float, default=90.0, help="seconds of a pretended cell")
    parser.add_argument("--count", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="sd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if given.what == "kills":
            kills(given.count, folder, given.seed)
            return
        figures = iter([efficiency(folder)]) if given.what == "efficiency" else itertools.chain(
            (simulated(n, given.cells * n, given.mean, folder / str(n)) for n in given.workers), [leases(folder)])
        for figure in figures:
            print(json.dumps({key: round(value, 3) for key, value in figure.items()}), flush=True)


if __name__ == "__main__":
    main()
