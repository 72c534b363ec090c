"""Commands that are killed at random moments: what they leave is gone on with, and the results are those of no kill.

    python -m tests.corpus.kills [--seed N] [--only COMMAND]

Commands run in forks of this process, so that torch is imported once. After each kill the same command is started
again, up to its end, and everything that it wrote is compared with an undisturbed run, bit for bit, times aside.
Exit code 1 if anything differs, is left over, or a command does not come to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch

import sidedoor.apps.export_poisoned
import sidedoor.bench.sweep
import sidedoor.report.html  # noqa: F401
from sidedoor import engine
from sidedoor.bench.spec import grid as all_cells
from sidedoor.bench.spec import read
from sidedoor.bench.store import Store
from sidedoor.cli.main import main as command
from sidedoor.core.checkpoint import load_state

COUNTS = {"run": 14, "sweep": 10, "poison": 8, "clean": 6, "report": 6}
"""How often each command is killed."""
PATIENCE = 300
SPEC = """
data = { name = "toy", train = 160, test = 40 }
model = { name = "small_cnn", width = 4 }
attack = { name = "badnets", rate = 0.2 }
defenses = ["fine_pruning", { name = "strip", overlays = 4 }]
recipe = { epochs = 3, batch = 32 }
"""
GRID = SPEC.replace("badnets", "blended") + "[grid]\nseed = [0, 1]\n"
Found = dict[str, Any]
Words = Sequence[str | Path]


def forked(words: Words, log: Path) -> int:
    """Start a command in a fork; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        sys.stdout = sys.stderr = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open to the end
        for number in (1, 2):
            os.dup2(sys.stdout.fileno(), number)
        engine.CHECKPOINT_SECONDS = 0.0  # at every end of an epoch: more that can be half done
        command([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it is still running after so long."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def whole(words: Words, log: Path) -> float:
    """Run a command to its end; seconds."""
    start = time.monotonic()
    if (code := ended(child := forked(words, log), PATIENCE)) != 0:
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        raise Broken(f"{' '.join(map(str, words))} ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - start


class Broken(Exception):
    """A command did not come to its end, or its results are not those of an undisturbed one."""


def killed(words: Words, log: Path, seconds: float) -> bool:
    """Start a command and kill it after so long; whether it was still running then."""
    child = forked(words, log)
    if ended(child, seconds) is not None:
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def results(root: Path) -> Found:
    """What a folder of results holds, without times."""
    store, found = Store(root), Found()
    for record in store.records():
        plain = record.to_json()
        found[f"record {record.key}"] = {name: value for name, value in plain.items()
                                         if name not in ("seconds", "timing", "peak_mb")}
        found |= {f"arrays {record.key} {name}": array for name, array in store.arrays(record.key).items()}
    for folder in (root / "artefacts").iterdir():
        for phase, epochs in store.history(folder.name).items():
            kept = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in epochs]
            found[f"history {folder.name} {phase}"] = kept
        for file in folder.glob("*.safetensors"):
            state = load_state(file)
            found[f"state {folder.name} {file.name}"] = {k: v for k, v in state.items() if k != "seconds"}
    return found


def files(root: Path) -> Found:
    """Every file below a folder."""
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def differing(one: Any, other: Any) -> bool:
    """Whether two values differ in a bit."""
    if isinstance(one, torch.Tensor | np.ndarray):
        first, second = np.asarray(one), np.asarray(other)
        return (first.dtype, first.shape, first.tobytes()) != (second.dtype, second.shape, second.tobytes())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(differing(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) != len(other) or any(map(differing, one, other))
    return type(one) is not type(other) or one != other


def compare(expected: Found, found: Found) -> None:
    names = [name for name in sorted(expected.keys() | found.keys())
             if name not in expected or name not in found or differing(expected[name], found[name])]
    if names:
        raise Broken(f"not as without a kill: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")


@dataclass(frozen=True)
class Trial:
    """A command on a folder of its own.

    Args:
        words: of the command that works in a folder.
        read: what it has written there.
        prepare: what the folder holds before.
        over: whether the command is not started again after a kill, because all is there: exports replace nothing.
    """

    words: Callable[[Path], Words]
    read: Callable[[Path], Found]
    prepare: Callable[[Path], object] = lambda folder: None
    over: Callable[[Path], bool] = lambda folder: False


def trials(folder: Path) -> dict[str, list[Trial]]:
    """By command; those of a command take turns."""
    spec, grid, finished = folder / "spec.toml", folder / "grid.toml", folder / "finished"
    spec.write_text(SPEC)
    grid.write_text(GRID)
    all_cells(read(grid))  # imports the methods once, before the forks
    whole(["-q", "run", spec, "--out", finished, "--device", "cpu"], folder / "log")

    def sweep(workers: int) -> Trial:
        options = ["--device", "cpu", "--workers", str(workers)]
        return Trial(lambda out: ["-q", "sweep", grid, "--out", out, *options], results)

    def poison(form: str) -> Trial:
        return Trial(lambda out: ["poison", spec, "-o", out, "--format", form], files, over=Path.exists)

    return {
        "run": [Trial(lambda out: ["-q", "run", spec, "--out", out, "--device", "cpu"], results)],
        "sweep": [sweep(0)] * 4 + [sweep(2)], "poison": [poison("folder"), poison("npz")],
        "clean": [Trial(lambda out: ["clean", out, "--remove"], _without_locks, lambda out: _littered(finished, out))],
        "report": [Trial(lambda out: ["report", out], files, lambda out: _copied(finished, out))],
    }


def _copied(source: Path, target: Path) -> None:
    """A copy with the times of the files, which reports show."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
            os.utime(copy, (file.stat().st_atime, file.stat().st_mtime))
    (target / "report.html").unlink(missing_ok=True)


def _littered(source: Path, target: Path, count: int = 300) -> None:
    """A copy with artefacts that nothing needs."""
    _copied(source, target)
    for n in range(count):
        (target / "artefacts" / f"{n:016x}").mkdir()
        for name in ("model", "phase-victim"):
            (target / "artefacts" / f"{n:016x}" / f"{name}.safetensors").write_bytes(b"x" * 2**12)


def _without_locks(root: Path) -> Found:
    return {name: content for name, content in files(root).items() if not name.startswith("locks")}


def kills(name: str, trial: Trial, folder: Path, draw: random.Random) -> Iterator[int]:
    """Kill a command again and again, in new folders; yields how many kills a folder saw before it was found whole."""
    log, number = folder / "log", 0
    trial.prepare(folder / f"{name}-undisturbed")
    seconds = whole(trial.words(folder / f"{name}-undisturbed"), log)
    expected = trial.read(folder / f"{name}-undisturbed")
    while True:
        number += 1
        out, hits = folder / f"{name}-{number}", 0
        trial.prepare(out)
        for _ in range(draw.choice((1, 1, 2, 3))):
            hits += not trial.over(out) and killed(trial.words(out), log, draw.uniform(0, seconds))
        if not trial.over(out):
            whole(trial.words(out), log)
        _tidy(out)
        compare(expected, trial.read(out))
        if any(out.rglob(".tmp-*")):
            raise Broken(f"{name} leaves temporary files that `clean` does not remove")
        yield hits


def _tidy(out: Path) -> None:
    """What a kill leaves half written goes with the next run, once it is old enough."""
    for file in out.rglob(".tmp-*"):
        os.utime(file, (1, 1))
    Store(out).tidy()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus.kills", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COUNTS, help="one command")
    given = parser.parse_args()
    draw, start, done = random.Random(given.seed), time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder, _said():
        for name, ways in trials(Path(folder)).items():
            for n, trial in enumerate(dict.fromkeys(ways) if given.only in (None, name) else ()):
                wanted = round(COUNTS[name] * ways.count(trial) / len(ways))
                rounds = kills(f"{name}{n}", trial, Path(folder), draw)
                hits = 0
                while hits < wanted:
                    hits += next(rounds)
                done[name] += hits
        print(f"{done.total()} kills in {time.monotonic() - start:.0f} s ({json.dumps(dict(done))[1:-1]}): all went on "
              "to the results of no kill, bit for bit")
        return 0
    return 1


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Print what is broken rather than raise it."""
    try:
        yield
    except Broken as broken:
        print(broken)


if __name__ == "__main__":
    sys.exit(main())
