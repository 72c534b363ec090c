"""Classification: what counts as an attack that took."""

from __future__ import annotations

import pytest

from sidedoor.tasks.classification import Classification

TOOK = {"clean": 0.9, "attack": 0.8, "idle": 0.1}


@pytest.mark.parametrize(("change", "reason"), [
    ({}, None), ({"attack": None, "idle": None}, None),
    ({"attack": 0.49}, "attack success 49.0% is below 50%"),
    ({"idle": 0.41}, "attack success 80.0% is 41.0% without the trigger"),
    ({"clean": 0.79}, "clean accuracy fell by 12.0%, more than 10%"),
], ids=str)
def test_an_attack_took_where_the_trigger_does_most_of_it_at_little_cost(
        change: dict[str, float | None], reason: str | None) -> None:
    said = Classification(10).failed(TOOK | change, {"clean": 0.91})
    assert (said is None) if reason is None else (said is not None and said.startswith(reason))
