from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sidedoor import engine
from sidedoor.algorithms.inversion import mask_pattern
from sidedoor.algorithms.inversion.mask_pattern import Candidate, Inversion, Recovered, Schedule, mask_norm
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.models.small_cnn import small_cnn
from sidedoor.types import MEASUREMENT, Batch, Space

RUN = Run.local(Recipe(), device="cpu")
SCHEDULE = Schedule(cost=1e-3, raising=2.0, lowering=2.0**1.5, success=0.9, patience=2, stopping=3)
INVERSION = Inversion((mask_norm,), SCHEDULE, epochs=12, samples=40, batch=20, lr=0.1)


class _Double(ArrayDataset):
    """In double precision the order of sums in a larger batch does not show."""

    def fetch(self, index: torch.Tensor, device: torch.device | str = "cpu") -> Batch:
        batch = super().fetch(index, device)
        return batch._replace(x=batch.x.double())


def noise(cls: type[ArrayDataset] = ArrayDataset, size: int = 8) -> Dataset:
    pixels = torch.randint(0, 256, (40, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return cls(pixels, [0, 1, 2, 3] * 10, 4)


class Quarters(nn.Module):
    """Sees the class of the brightest quarter of an image, of the first three times as bright; counts what it sees."""

    def __init__(self, seen: list[int] | None = None):
        super().__init__()
        self.seen = seen or [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[0] += len(x)
        quarters = x.mean(1).unflatten(2, (2, -1)).unflatten(1, (2, -1)).mean((2, 4)).flatten(1)
        return 40 * (quarters * quarters.new_tensor([3, 1, 1, 1]) - quarters.new_tensor([0.2, 0, 0, 0]))

    def __deepcopy__(self, memo: dict[int, Any]) -> Quarters:
        return Quarters(self.seen)


def bright_quarters() -> Dataset:
    pixels = noise().rows(torch.arange(40)).float() / 8 + 40
    for n in range(40):
        top, left = divmod(n % 4, 2)
        pixels[n, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 140
    return ArrayDataset(pixels.to(torch.uint8), [0, 1, 2, 3] * 10, 4)


def test_all_classes_at_once_equal_one_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, clean = small_cnn(4, (1, 8, 8), width=8).double(), noise(_Double)
    together = INVERSION.recover(model, clean, range(4), RUN)
    assert together.success.any()
    monkeypatch.setattr(engine, "AT_ONCE", {"cpu": 3 * 20 * 64})
    chunked = INVERSION.recover(model, clean, range(4), RUN)
    torch.testing.assert_close(chunked.mask, together.mask, rtol=0, atol=1e-4)
    for label in range(4):
        alone = INVERSION.recover(model, clean, [label], RUN)
        assert alone.success[0] == together.success[label]
        torch.testing.assert_close(alone.mask[0], together.mask[label], rtol=0, atol=1e-4)
        torch.testing.assert_close(alone.pattern[0], together.pattern[label], rtol=0, atol=1e-4)


def test_the_model_is_left_alone() -> None:
    model = small_cnn(4, (1, 8, 8), width=8).train()
    model.body[1].eval()  # type: ignore[operator, index, union-attr]
    next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    INVERSION.recover(model, noise(), range(4), RUN)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert flags == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert all(p.grad is None for p in model.parameters())


def test_the_gradient_is_of_cross_entropy_plus_cost_times_all_penalties() -> None:
    def brightness(candidate: Candidate) -> torch.Tensor:
        return 3 * candidate.pattern.square().sum((1, 2, 3, 4))

    inversion = dataclasses.replace(INVERSION, penalties=(mask_norm, brightness))
    model, clean = Quarters(), noise()
    search = mask_pattern._Search(inversion, model, clean, range(4), RUN)
    search.costs.cost[:] = torch.tensor([0.0, 0.5, 1.0, 2.0])
    x = clean.fetch(torch.arange(6)).x
    search.set_gradients([1, 3], x)
    assert search.raw[0].grad is None
    for label, cost in ((1, 0.5), (3, 2.0)):
        raw = search.raw[label].detach().requires_grad_()
        mask, pattern = (raw.tanh() / 2 + 0.5).split([1, 1])
        loss = functional.cross_entropy(model((1 - mask) * x + mask * pattern), torch.full((6,), label))
        (expected,) = torch.autograd.grad(loss + cost * (mask.sum() + 3 * pattern.square().sum()), raw)
        torch.testing.assert_close(search.raw[label].grad, expected)


def test_patterns_are_drawn_in_the_space_of_the_images() -> None:
    candidate = Candidate(torch.rand(1, 1, 1, 2, 2), torch.rand(1, 1, 1, 2, 2), torch.zeros(1, dtype=torch.int64),
                          nn.Identity(), Space(-1.0, 3.0, 255))
    assert candidate.values(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 1, 3]


def test_the_cost_follows_success() -> None:
    costs = mask_pattern._Costs(dataclasses.replace(SCHEDULE, cost=1.0), 1, 0)
    seen = []
    for won in (1, 1, 1, 1, 0, 0, 0, 0):
        costs.update([0], torch.tensor([bool(won)]), torch.tensor([5.0]))
        seen.append(costs.cost.item())
    assert seen == pytest.approx([0, 1, 1, 2, 2, 2 / 2**1.5, 2 / 2**1.5, 2 / 8])
    assert costs.done.item()
    assert costs.best.item() == 5.0


def test_a_margin_leaves_classes_that_are_so_much_larger_after_as_many_epochs_with_a_cost() -> None:
    costs = mask_pattern._Costs(dataclasses.replace(SCHEDULE, margin=1.5), 4, 2)
    costs.best[:], costs.cost[:] = torch.tensor([10.0, 14.0, 16.0, 60.0]), 1e-3
    costs.raised[:] = torch.tensor([True, True, True, False])
    costs.trail = [[70.0, 50.0, 10.0], [60.0, 14.0, 14.0], [60.0, 16.0, 16.0], [60.0]]
    costs.leave([1, 2, 3])
    assert costs.done.tolist() == [False, False, True, False]
    assert costs.behind.tolist() == pytest.approx([0, 0, 1.6, 0])
    costs.raised[3] = True
    costs.follow([3])
    costs.leave([1, 3])
    assert not costs.done[3], "it was successful later, and after two epochs it is 1.2 times as large"
    costs.trail[3], costs.raised[3] = [60.0, 60.0, 60.0], False
    costs.leave([1, 3])
    assert not costs.done[3], "its cost has not risen yet"
    costs.raised[3] = True
    costs.leave([1, 3])
    assert costs.done.tolist() == [False, False, True, True]
    assert costs.behind.tolist() == pytest.approx([0, 0, 1.6, 6.0])


def test_masks_are_compared_once_their_parameters_could_move_far_enough() -> None:
    for lr, batch, epochs in ((0.1, 20, 30), (0.1, 8, 12), (1.0, 20, 3)):
        inversion = dataclasses.replace(INVERSION, lr=lr, batch=batch)
        assert mask_pattern._Search(inversion, Quarters(), noise(), range(4), RUN).costs.settling == epochs
    costs = mask_pattern._Costs(dataclasses.replace(SCHEDULE, margin=1.5), 2, 3)
    costs.best[:], costs.raised[:], costs.cost[:] = torch.tensor([10.0, 60.0]), True, 1e-3
    left = []
    for _ in range(3):
        costs.follow([0, 1])
        costs.leave([0, 1])
        left.append(costs.done.tolist())
    assert left == [[False, False], [False, False], [False, True]]


def test_a_class_that_was_left_counts_as_many_times_the_smallest_as_it_was_then() -> None:
    mask = torch.zeros(3, 1, 2, 2)
    mask[0, 0, 0, 0], mask[1], mask[2, 0, 0] = 0.5, 1.0, 1.0
    found = Recovered(mask, torch.zeros(3, 1, 2, 2), torch.ones(3, dtype=torch.bool), torch.tensor([0.0, 3.0, 0.0]))
    assert found.norm.tolist() == [0.5, 1.5, 2.0]


def test_with_a_margin_the_smallest_mask_stays_and_takes_a_fraction_of_the_steps() -> None:
    """What is found for the smallest does not depend on the others, so it is the same to the bit but for sums."""
    model = Quarters()
    patient = dataclasses.replace(SCHEDULE, patience=3, stopping=15)
    whole = dataclasses.replace(INVERSION, epochs=100, batch=8, lr=0.2, schedule=patient)
    brief = dataclasses.replace(whole, schedule=dataclasses.replace(whole.schedule, margin=1.25))
    expected = whole.recover(model, bright_quarters(), range(4), RUN)
    steps, model.seen[0] = model.seen[0], 0
    found = brief.recover(model, bright_quarters(), range(4), RUN)
    assert expected.norm.argmin() == found.norm.argmin() == 0
    assert found.norm[0].item() == pytest.approx(expected.norm[0].item(), rel=0.05)
    assert found.behind[0] == 0
    assert (found.behind[1:] > 1.25).all()
    assert not expected.behind.any()
    assert 2.2 * model.seen[0] < steps


@pytest.mark.parametrize("wrong", [{"raising": 1.0}, {"lowering": 0.5}, {"margin": 1.0}, {"margin": 0.5}])
def test_schedules_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"expected .*above 1"):
        dataclasses.replace(SCHEDULE, **wrong)  # type: ignore[arg-type]


def test_images_without_a_bounded_range_are_refused() -> None:
    unbounded = noise()
    unbounded.space = MEASUREMENT
    with pytest.raises(NotApplicable, match="bounded"):
        INVERSION.recover(Quarters(), unbounded, range(4), RUN)
