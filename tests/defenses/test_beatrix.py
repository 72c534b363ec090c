from __future__ import annotations

import pytest
from backdoored_digits import Scene
from detection import auroc
from torch import nn

from sidedoor.defenses.detectors.beatrix import Beatrix
from sidedoor.errors import ConfigError, NotApplicable


def test_stamped_digits_leave_the_bounds_of_their_class(scene: Scene) -> None:
    assert auroc(scene, scene.model, Beatrix()) > 0.9
    assert auroc(scene, scene.model, Beatrix(channels=8, orders=(1, 4))) > 0.75


def test_what_it_cannot_look_at(scene: Scene) -> None:
    with pytest.raises(NotApplicable):
        Beatrix().fit(nn.Sequential(nn.Flatten(), nn.Linear(256, 10)), scene.clean, scene.task, scene.run)
    with pytest.raises(ConfigError, match="at least one power"):
        Beatrix(orders=())
