"""A raised version of a shared algorithm voids the results of the methods that are made of it, and of no other."""

from __future__ import annotations

import pytest

from sidedoor import registry
from sidedoor.algorithms.adversarial import deepfool, pgd
from sidedoor.bench.versions import versions


def of(name: str) -> list[int]:
    return versions(registry.make("attack", name))


def test_algorithms_of_version_1_are_not_mentioned() -> None:
    for name in ("badnets", "label_consistent", "lf"):
        assert of(name)[0] == registry.load("attack", name).version
        assert max(of(name)[1:], default=1) == 1


def test_a_raised_algorithm_enters_the_keys_of_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: of(name) for name in ("badnets", "label_consistent", "lf", "sleeper_agent")}
    monkeypatch.setattr(pgd, "VERSION", 2, raising=False)
    after = {name: of(name) for name in before}
    assert after["badnets"] == before["badnets"]
    # Sleeper Agent comes to it by way of its helper for matching gradients, LF by way of universal perturbations.
    for name in ("label_consistent", "lf", "sleeper_agent"):
        assert sorted(after[name]) == sorted([*before[name], 2]), name


def test_each_algorithm_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepfool, "VERSION", 3, raising=False)
    assert of("lf").count(3) == 1
    assert of("label_consistent").count(3) == 0
