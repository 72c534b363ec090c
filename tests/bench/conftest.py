"""A run small enough to train in a second whose attack takes all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from sidedoor.bench.spec import Spec
from sidedoor.engine import Recipe


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Networks this small train fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Spec]:
    """A specification, with changes."""

    def make(**changes: Any) -> Spec:
        given: dict[str, Any] = {
            "data": {"name": "toy", "train": 600, "test": 80}, "model": {"name": "small_cnn", "width": 8},
            "attack": {"name": "badnets", "rate": 0.2}, "recipe": Recipe(epochs=3, batch=32),
        }
        return Spec(**given | changes)

    return make
