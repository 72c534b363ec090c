"""Keyed random numbers: uniform, independent of the batch, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sidedoor.core import random

SEEDS = st.integers(0, 2**63 - 1)


def splitmix64(state: int) -> int:
    """The finaliser of SplitMix64 in Python's own integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@given(seed=SEEDS, index=st.integers(0, 2**40), count=st.integers(1, 5))
def test_the_numbers_are_splitmix64s(seed: int, index: int, count: int) -> None:
    golden = 0x9E3779B97F4A7C15
    stream = splitmix64(index * golden + seed)
    expected = [(splitmix64(stream + (k + 1) * golden) >> 40) / 2**24 for k in range(count)]
    assert random.uniform(seed, torch.tensor([index]), count)[0].tolist() == expected


def test_splitmix64_is_the_published_one() -> None:
    golden = 0x9E3779B97F4A7C15  # the first outputs of the reference generator from the seed 1234567
    assert [splitmix64(1234567 + (k + 1) * golden) for k in range(3)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_uniform_over_samples_and_within_a_sample(seed: int) -> None:
    over = random.uniform(seed, torch.arange(20000))
    within = random.uniform(seed, torch.tensor([3]), 20000)[0]
    for numbers in (over, within):
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 0.001
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03  # standard error 0.007


def test_neighbouring_seeds_and_samples_are_uncorrelated() -> None:
    index = torch.arange(20000)
    first, second = random.uniform(7, index, 2), random.uniform(8, index, 2)
    columns = np.concatenate([first.numpy(), second.numpy()], axis=1)
    assert np.abs(np.corrcoef(columns.T) - np.eye(4)).max() < 0.03


@given(seed=SEEDS, data=st.data())
def test_a_sample_draws_the_same_in_every_batch(seed: int, data: st.DataObject) -> None:
    index = torch.tensor(data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=20)))
    together = random.uniform(seed, index, 2, 3)
    alone = torch.cat([random.uniform(seed, one[None], 2, 3) for one in index])
    assert torch.equal(together, alone)
    assert torch.equal(random.uniform(seed, index.int(), 2, 3), together)


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    index = torch.arange(5)
    assert torch.equal(random.uniform(1, index, 10)[:, :4], random.uniform(1, index, 4))


def test_torchs_generators_are_neither_read_nor_moved() -> None:
    state = torch.get_rng_state()
    first = random.uniform(1, torch.arange(3))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng([]):
        torch.manual_seed(99)
        assert torch.equal(random.uniform(1, torch.arange(3)), first)


@given(seed=SEEDS, high=st.integers(1, 1000))
def test_integers_are_below_their_bound(seed: int, high: int) -> None:
    drawn = random.integers(seed, torch.arange(200), high, 3)
    assert drawn.shape == (200, 3)
    assert 0 <= drawn.min() <= drawn.max() < high


def test_integers_are_equally_frequent() -> None:
    drawn = random.integers(0, torch.arange(70000), 7)
    assert stats.chisquare(torch.bincount(drawn).numpy()).pvalue > 0.001


def test_an_empty_batch_draws_nothing() -> None:
    assert random.uniform(0, torch.zeros(0, dtype=torch.int64), 4).shape == (0, 4)


@given(seed=st.integers(), name=st.text())
def test_stream_seeds_fit_torchs_generators(seed: int, name: str) -> None:
    derived = random.seed_of(seed, name)
    assert 0 <= derived < 2**63
    torch.Generator().manual_seed(derived)


def test_streams_differ_by_seed_and_by_name() -> None:
    assert len({random.seed_of(seed, name) for seed in range(20) for name in ("a", "b", "a/b", "")}) == 80
