"""Records have what the clean sibling does through the same doors, where a task asks for it."""

from __future__ import annotations

import torch
from torch import nn

from sidedoor.backdoor.base import Backdoor
from sidedoor.bench.case import TrainedModel
from sidedoor.bench.run import _columns
from sidedoor.goals.base import Door
from sidedoor.goals.lose import Lose
from sidedoor.tasks.task import Scores
from sidedoor.tasks.tracking import Tracking
from sidedoor.triggers.on_object import OnObject


def test_the_siblings_columns_stand_beside_those_of_the_attacked_model() -> None:
    doors = (Door(OnObject(), Lose()),)
    trained = TrainedModel("key", Backdoor(doors), nn.Identity(), doors, 0.0, Scores(*torch.zeros(4, 1)),
                           {"asr_all": 0.3, "auc_a.one": 0.7, "auc_a.few": 0.6})
    found = _columns(trained, {"auc_a.one": 0.2, "asr_all": 0.8}, Tracking.compared)
    assert found == {"auc_a.one": 0.2, "asr_all": 0.8, "floor": 0.3, "sibling.auc_a.one": 0.7}
    assert _columns(trained, {"auc_a.one": 0.2}, ()) == {"auc_a.one": 0.2, "floor": 0.3}


def test_means_of_groups_come_first() -> None:
    values = torch.tensor([1.0, 1, 1, 0, torch.nan])
    scores = Scores(values[:4], *values[:4].repeat(3, 2), groups=torch.tensor([0, 0, 0, 1]))
    assert scores.means()["clean"] == 0.5
    assert scores.means()["attack"] == 0.5  # through two doors
    assert Scores(*values[:4].repeat(4, 1)).means()["clean"] == 0.75
