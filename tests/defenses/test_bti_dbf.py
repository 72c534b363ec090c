from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sidedoor.algorithms.features.cut import cut
from sidedoor.algorithms.inversion.decoupling import Decoupling
from sidedoor.algorithms.inversion.generator import Altered, Descent, distance
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.audits.bti_dbf import BTIDBF, led
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.types import Space

RUN = Run.local(device="cpu")
TASK = Classification(4)
AUDIT = BTIDBF(steps=60, mask_steps=100, mask_lr=0.05, batch=16)


class Planted(nn.Module):
    """Class k is the mean of channel k; the last channel, faint in clean images, leads to a class."""

    def __init__(self, target: int | None):
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(5, 5, 1), nn.ReLU())
        self.pool, self.flat, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4, bias=False)
        self.stage[0].weight.data, self.stage[0].bias.data = torch.eye(5)[:, :, None, None], torch.zeros(5)
        self.head.weight.data = 10 * torch.eye(4, 5)
        if target is not None:
            self.head.weight.data[target, 4] = 200.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(self.flat(self.pool(self.stage(x))))
        return answer


def coloured() -> ArrayDataset:
    labels = torch.arange(64) % 4
    pixels = torch.randint(40, 60, (64, 5, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[torch.arange(64), labels] += 110
    pixels[:, 4] = torch.randint(0, 3, (64, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return ArrayDataset(pixels, labels, 4)


def test_the_target_of_a_planted_unit_is_named_and_the_model_is_left_alone() -> None:
    model = Planted(2)
    before = copy.deepcopy(model.state_dict())
    found = AUDIT.inspect(model, coloured(), TASK, RUN)
    assert found.suspected == (2,)
    assert found.score == found.per_class[2] >= 0.8
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    innocent = AUDIT.inspect(Planted(None), coloured(), TASK, RUN)
    assert innocent.score < 0.5


def test_the_mask_leaves_out_what_leads_to_a_wrong_class_and_keeps_classes() -> None:
    search = Decoupling(Descent(100, 16, 0.05), Descent(1, 16, 0.01), 0.02, 1.0, 8)
    x = coloured().fetch(torch.arange(64)).x
    mask = search.masked(cut(RUN.frozen(Planted(2)), (5, 8, 8)), x, RUN).mean((1, 2))
    assert mask[[0, 1, 3]].min() > 0.8, "the target is given to images of its own class without its channel, too"
    assert mask[4] < 0.1


def test_a_generator_begins_near_the_image_and_stays_in_range() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    space = Space(-1.0, 1.0, 255)
    constant = nn.Conv2d(1, 1, 1)
    constant.weight.data, constant.bias = torch.zeros(1, 1, 1, 1), nn.Parameter(torch.ones(1))
    changed = Altered(constant, space)(x)
    torch.testing.assert_close(changed.flatten(), torch.tensor([-0.8, 0.2, 1.0]))
    assert distance(x, changed, space).item() == pytest.approx(2 * 0.1**2 / 3)


def test_the_share_is_of_images_that_were_of_other_classes() -> None:
    before, after = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 0, 1, 1])
    assert led(before, after, 4).tolist() == pytest.approx([0, 2 / 3, 0, 0])


def test_a_single_image_is_refused() -> None:
    with pytest.raises(NotApplicable, match="1 clean image"):
        BTIDBF(samples=1).inspect(Planted(2), coloured(), TASK, RUN)
