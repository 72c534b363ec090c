from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor.defenses.repair import rnp
from sidedoor.defenses.repair.rnp import RNP
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification


def test_unlearning_leaves_the_backdoor_and_masks_are_of_the_model_as_given(
        scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    usual = rnp.unlearned

    def unlearned(*given: Any) -> nn.Module:
        model = usual(*given)
        seen.update(until=given[4], numbers=scene.numbers(model), state=copy.deepcopy(model.state_dict()))
        return model

    monkeypatch.setattr(rnp, "unlearned", unlearned)
    before = copy.deepcopy(scene.model.state_dict())
    accuracy, attack = scene.numbers(scene.model)
    assert accuracy > 0.9
    assert attack > 0.9  # the premise
    method = RNP(mask_steps=20, thresholds=(0.3, 0.9))
    steps = [(t, copy.deepcopy(m)) for t, m in method.path(scene.model, scene.clean, scene.task, scene.run)]
    assert seen["until"] == 0.2
    assert seen["numbers"][0] < 0.4
    assert seen["numbers"][1] > seen["numbers"][0] + 0.3
    assert [strength for strength, _ in steps] == [0.0, 0.3, 0.9]
    assert all(torch.equal(before[k], v) for k, v in steps[0][1].state_dict().items())
    weak, strong = (model.state_dict() for _, model in steps[1:])
    for name, value in before.items():
        pruned = (strong[name] == 0) & (value != 0)
        assert torch.equal(strong[name][~pruned], value[~pruned])  # those of the model as given, not the unlearned one
        assert ((weak[name] == value) | (strong[name] == 0)).all()
        assert not pruned.any() or name in ("body.1.weight", "body.5.weight", "body.9.weight")
    assert not torch.equal(seen["state"]["body.0.weight"], before["body.0.weight"])


def test_masks_bring_the_task_back(scene: Scene) -> None:
    """The loss falls by masks alone."""
    run = replace(scene.run, history={})
    RNP(mask_steps=40).masks(scene.model, scene.clean, scene.task, run)
    losses = [entry["loss"] for entry in run.history["masks that recover"]]
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("classes", "until"), [(10, 0.2), (100, 0.06), (4, 0.5)])
def test_unlearning_ends_near_guessing(scene: Scene, monkeypatch: pytest.MonkeyPatch, classes: int,
                                       until: float) -> None:
    class Ends(Exception):
        pass

    def unlearned(*given: Any) -> nn.Module:
        assert given[4] == pytest.approx(until)
        raise Ends

    monkeypatch.setattr(rnp, "unlearned", unlearned)
    with pytest.raises(Ends):
        RNP().masks(scene.model, scene.clean, Classification(classes), scene.run)


def test_a_head_alone_is_refused(scene: Scene) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(NotApplicable, match="no normalisation"):
        next(RNP().path(model, scene.clean, scene.task, scene.run))
