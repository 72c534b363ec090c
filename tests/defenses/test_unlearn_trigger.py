from __future__ import annotations

import pytest
import torch
from backdoored_digits import TARGET, Scene

from sidedoor.algorithms.inversion.mask_pattern import Recovered
from sidedoor.defenses.repair.unlearn_trigger import UnlearnTrigger, _Stamped, flagged
from sidedoor.errors import NotApplicable, NothingFound
from sidedoor.triggers.base import stamp

SIZES = [40.0, 44, 39, 3, 47, 41, 45, 38, 43, 46]
"""Of masks in pixels; class 3 is the outlier."""


def recovered(sizes: list[float], success: int = 10) -> Recovered:
    mask = torch.stack([torch.full((1, 16, 16), size / 256) for size in sizes])
    return Recovered(mask, torch.zeros(len(sizes), 1, 16, 16), torch.arange(len(sizes)) < success,
                     torch.zeros(len(sizes)))


def test_outliers_that_are_small_are_flagged() -> None:
    assert flagged(recovered(SIZES), 2.0) == [3]
    assert flagged(recovered([90.0 if size == 3 else size for size in SIZES[:-1]] + [2.0]), 2.0) == [9]
    assert flagged(recovered([2.5 if size == 40 else size for size in SIZES]), 2.0) == [0, 3]


@pytest.mark.parametrize(("given", "words"), [
    (recovered([90.0 if size == 3 else size for size in SIZES]), "nothing flagged"),
    (recovered(SIZES, success=5), "triggers of 5 of 10 classes")])
def test_a_model_without_an_outlier_is_not_repaired(given: Recovered, words: str) -> None:
    with pytest.raises(NothingFound, match=words):
        flagged(given, 2.0)


def test_two_classes_have_no_outlier() -> None:
    with pytest.raises(NotApplicable, match="at least three") as refused:
        flagged(recovered(SIZES[2:4], success=2), 2.0)
    assert not isinstance(refused.value, NothingFound)


def test_a_fifth_of_a_batch_carries_the_triggers_in_turn(scene: Scene) -> None:
    x = scene.clean.fetch(torch.arange(20)).x
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 0, 0], mask[1, :, 5, 5] = 1.0, 0.25
    objective = _Stamped(scene.task, mask, torch.ones(2, 1, 16, 16), scene.clean.space, 0.2)
    stamped = objective.stamped(x)
    assert torch.equal(stamped[4:], x[4:])
    assert (stamped[[0, 2], 0, 0, 0] == 1).all()
    torch.testing.assert_close(stamped[[1, 3], 0, 5, 5], 0.75 * x[[1, 3], 0, 5, 5] + 0.25)
    assert torch.equal(stamped[[1, 3], 0, 0, 0], x[[1, 3], 0, 0, 0])
    assert (_Stamped(scene.task, mask, mask, scene.clean.space, 0.0).stamped(x) != x).flatten(1).any(1).sum() <= 1


def test_unlearning_the_trigger_removes_the_backdoor(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    black = stamp(scene.door.trigger, torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64), scene.clean.space)
    white = stamp(scene.door.trigger, torch.ones(1, 1, 16, 16), torch.zeros(1, dtype=torch.int64), scene.clean.space)
    found = recovered([256.0] * 10)
    found.mask[TARGET], found.pattern[TARGET] = (black == white)[0].float(), black[0]
    monkeypatch.setattr(UnlearnTrigger, "_recovered", lambda *_: found)
    accuracy, attack = scene.numbers(scene.model)
    assert attack > 0.9  # the premise
    repaired = UnlearnTrigger(steps=40).repair(scene.model, scene.clean, scene.task, scene.run)
    repaired_accuracy, repaired_attack = scene.numbers(repaired)
    assert repaired_attack < 0.1
    assert repaired_accuracy > accuracy - 0.03
