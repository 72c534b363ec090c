"""What tells killed commands from undisturbed ones sees a bit, and a command that does not come to its end."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sidedoor.bench.store import Store
from tests.corpus import kills
from tests.corpus.records import results

# The forks run nothing of torch, and threads of the parent do not matter.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_one_bit_makes_results_differ(tmp_path: Path) -> None:
    one, other = results(tmp_path / "one"), results(tmp_path / "other")
    kills.compare(kills.results(one), kills.results(other))
    store = Store(other)
    store.put_arrays("r2", store.arrays("r2") | {"clean": -store.arrays("r2")["clean"]})  # 0 and -0
    with pytest.raises(kills.Broken, match=r"not as without a kill: arrays r2 clean$"):
        kills.compare(kills.results(one), kills.results(other))
    (other / "results" / "r1.json").unlink()
    with pytest.raises(kills.Broken, match=r"arrays r2 clean, record r1$"):
        kills.compare(kills.results(one), kills.results(other))


@pytest.mark.parametrize(("one", "other"), [
    (torch.tensor([0.0]), torch.tensor([-0.0])), (np.zeros(2), np.zeros((1, 2))), (np.zeros(1), np.zeros(1, np.int64)),
    ({"a": [1]}, {"a": [1, 2]}), ({"a": 1}, {}), (1, True), ([[1.0]], [[1.5]]), ("a", b"a"),
])
def test_values_differ_in_a_bit_a_shape_or_a_type(one: object, other: object) -> None:
    assert kills.differing(one, other)
    assert not kills.differing(one, one)


@forks
def test_a_command_that_does_not_come_to_its_end_is_named(tmp_path: Path) -> None:
    with pytest.raises(kills.Broken, match=r"report .*nowhere ended with 2: .*no results"):
        kills.whole(["report", tmp_path / "nowhere"], tmp_path / "log")


@forks
def test_a_command_that_is_killed_and_started_again_is_compared(tmp_path: Path) -> None:
    finished = results(tmp_path)

    def prepare(out: Path) -> None:
        kills._littered(finished, out, 5)

    trial = kills.Trial(lambda out: ["clean", out, "--remove"], kills._without_locks, prepare)
    rounds = kills.kills("clean", trial, tmp_path, random.Random(0))
    assert [next(rounds) for _ in range(2)]
    assert not (tmp_path / "clean-1" / "artefacts" / f"{1:016x}").exists()
    other = kills.Trial(trial.words, lambda out: kills.files(out) | {"where": str(out)}, prepare)
    with pytest.raises(kills.Broken, match=r"not as without a kill: .*where"):
        next(kills.kills("other", other, tmp_path, random.Random(0)))
