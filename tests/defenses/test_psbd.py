"""PSBD: predictions that dropout does not move."""

from __future__ import annotations

import pytest
import torch
from poisoned_digits import Suspect
from torch import Tensor, nn

from sidedoor import zoo
from sidedoor.algorithms.features.cut import stages
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.filters import agpd, psbd
from sidedoor.defenses.filters.agpd import AGPD
from sidedoor.defenses.filters.psbd import PSBD, chosen, dropout, shifts
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.tasks.classification import Classification

RUN = Run.local(device="cpu")


def toy() -> tuple[nn.Module, ArrayDataset, Tensor]:
    """Four classes by the mean of 16 channels each; in the first rows one channel is twenty times as bright."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 11, (200, 64, 2, 2), dtype=torch.uint8, generator=rng)
    triggered = torch.arange(200) < 40
    images[triggered, 0] = 200
    model = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(64)[:, :, None, None])
        model[0].bias.zero_()
        model[4].weight.copy_(500 * torch.eye(4).repeat_interleave(16, 1))
        model[4].bias.zero_()
    return model.eval(), ArrayDataset(images, torch.zeros(200, dtype=torch.long), 4), triggered


def test_a_prediction_that_rests_on_one_strong_unit_stays() -> None:
    model, data, triggered = toy()
    found = shifts(model, ["1"], data, (0.3, 0.5), 5, RUN)
    for place in (0, 1):
        score = -found.fall[:, place]
        assert (score[triggered] > score[~triggered].quantile(0.7)).float().mean() > 0.9
    assert found.changed[triggered].mean() < found.changed[~triggered].mean()


def test_falls_and_changes_are_those_of_the_predicted_class() -> None:
    """Dropping nearly everything leaves the bias of the last layer."""
    model, data, _ = toy()
    found = shifts(model, ["1"], data, (1e-9, 1 - 1e-9), 1, RUN)
    with torch.no_grad():
        before, label = torch.softmax(model(data.fetch(torch.arange(200)).x), 1).max(1)
    assert found.fall[:, 0].abs().max() < 1e-4
    assert not found.changed[:, 0].any()
    torch.testing.assert_close(found.fall[:, 1], before - 0.25)
    assert torch.equal(found.changed[:, 1], (label != 0).float())  # of equal probabilities the first counts


def test_the_rate_is_where_clean_samples_change_and_suspected_rows_do_not() -> None:
    clean, train = torch.tensor([0.1, 0.5, 0.85, 0.95]), torch.tensor([0.1, 0.0, 0.80, 0.85])
    assert chosen(clean, train, 0.8) == 3
    assert chosen(clean, train, 0.4) == 1
    assert chosen(clean, train, 1.0) == 1  # none reaches it: all count


def test_all_stages_with_maps_are_found_in_networks_of_the_house(suspect: Suspect) -> None:
    small = suspect.build().eval()
    found = stages(small, suspect.train.shape)
    assert len(found) == len(set(found)) == 3
    residual = zoo.network({"name": "cifar_resnet", "depth": 8}, suspect.train)().eval()
    assert any("layer3" in name for name in stages(residual, suspect.train.shape))


def test_a_network_without_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, _ = toy()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 4)).eval()
    for filter_, module in ((PSBD(), psbd), (AGPD(), agpd)):
        monkeypatch.setattr(module, "inspection_model", lambda *_: flat)
        one = ArrayDataset(data.images, torch.arange(200) % 4, 4)
        with pytest.raises(NotApplicable, match="no stage that gives maps"):
            filter_.score(one, one, Classification(4), lambda: flat, RUN)


def test_dropout_is_there_in_evaluation_mode_and_gone_afterwards() -> None:
    model, data, _ = toy()
    x = data.fetch(torch.arange(20)).x
    before = model(x)
    with torch.random.fork_rng(), dropout(model, ["1"], 0.5):
        assert not torch.equal(model(x), before)
    assert torch.equal(model(x), before)


def test_digits_score_in_range_and_the_attackers_class_above_others(suspect: Suspect) -> None:
    score = PSBD(rates=(0.5, 0.8), passes=1).score(suspect.train, suspect.clean, suspect.task, suspect.build,
                                                   suspect.run)
    assert score.abs().max() <= 1
    assert suspect.auroc(score) > 0.5


def test_rates_of_nothing_or_everything_are_refused() -> None:
    for rates in ((), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ConfigError, match="all between 0 and 1"):
            PSBD(rates=rates)
