"""Shadow pools: models like the suspect that know nothing of it, every second one with a backdoor of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.shadow_pool import Jumbos, Overlay, jumbo, shadow_pool, untrained
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised, Task
from sidedoor.triggers.base import stamp
from sidedoor.types import MEASUREMENT, Batch

RUN = Run.local(Recipe(epochs=1, lr=0.05), device="cpu")
TASK = Classification(4)


def grey(count: int = 48, size: int = 8) -> ArrayDataset:
    """Images whose brightness is their class."""
    y = torch.arange(count) % 4
    noise = torch.randint(0, 30, (count, 1, size, size), generator=torch.Generator().manual_seed(0))
    return ArrayDataset((noise + 40 * y[:, None, None, None]).to(torch.uint8), y, 4)


def suspect() -> nn.Module:
    model = small_cnn(4, (1, 8, 8), 2)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.mul_(3).add_(1000)
    model.normalize.mean.fill_(0.25)
    return model.requires_grad_(False)


def test_an_untrained_model_has_the_architecture_and_nothing_that_was_learned() -> None:
    fresh, other = RUN.build(untrained(suspect())), RUN.within("b").build(untrained(suspect()))
    assert fresh.normalize.mean.item() == 0.25  # type: ignore[union-attr,operator]
    learned = {name: value for name, value in fresh.state_dict().items() if not name.startswith("normalize")}
    assert all(value.abs().max() < 10 for value in learned.values())
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    assert not torch.equal(fresh.body[0].weight, other.body[0].weight)  # type: ignore[index,union-attr]
    assert torch.equal(fresh.body[0].weight, RUN.build(untrained(suspect())).body[0].weight)  # type: ignore[index,union-attr]


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_weights_that_no_layer_draws_are_named() -> None:
    with pytest.raises(NotApplicable, match="`1` of Sequential holds weights and has no `reset_parameters`"):
        untrained(nn.Sequential(nn.Linear(2, 2), _Scaled()))


def test_backdoors_are_drawn_from_all_sizes_places_opacities_and_targets() -> None:
    drawn = [jumbo(grey(size=12), torch.Generator().manual_seed(seed)) for seed in range(200)]
    opacities = [found.trigger.get_buffer("opacity") for found in drawn]
    sizes = [int((opacity > 0).sum()) for opacity in opacities]
    assert set(sizes) == {4, 9, 16, 25, 144}
    whole = [opacity.max().item() for opacity, size in zip(opacities, sizes, strict=True) if size == 144]
    parts = [opacity.max().item() for opacity, size in zip(opacities, sizes, strict=True) if size < 144]
    assert 0.05 <= min(whole) <= max(whole) <= 0.2
    assert min(parts) >= 0.2
    assert {value for value in parts if value > 0.5} == {1.0}
    assert torch.stack(opacities).amax((0, 1)).min() > 0.2  # every pixel is in some patch
    assert {found.target for found in drawn} == {0, 1, 2, 3}
    rates = [found.rate for found in drawn]
    assert 0.05 <= min(rates) < 0.1
    assert 0.45 < max(rates) <= 0.5


class _Remembers(Classification):
    """Keeps what it is asked about."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        return functional.cross_entropy(model(batch.x), batch.y, reduction="none")


seen: list[Batch] = []


def test_copies_of_the_same_rows_always_carry_the_trigger_and_its_class() -> None:
    data = grey(400)
    objective = Jumbos(_Remembers(4), data, RUN)
    backdoor = objective.backdoor
    batch = data.fetch(torch.arange(400))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    seen.clear()
    objective.losses(model, batch)
    objective.losses(model, data.fetch(torch.arange(399, -1, -1)))
    given, again = seen
    assert torch.equal(given.x[:400], batch.x)
    assert torch.equal(given.y[:400], batch.y)
    copied = given.index[400:]
    assert len(copied) / 400 == pytest.approx(backdoor.rate, abs=0.08)
    assert torch.equal(again.index[400:].flip(0), copied)
    assert (given.y[400:] == backdoor.target).all()
    assert torch.equal(given.x[400:], stamp(backdoor.trigger, batch.x[copied], copied, data.space))
    assert (given.x[400:] != batch.x[copied]).flatten(1).any(1).all()


def test_an_overlay_mixes_by_the_opacity_of_each_pixel() -> None:
    opacity = torch.zeros(1, 4, 4)
    opacity[0, 1, 2] = 0.25
    made = Overlay(torch.ones(1, 4, 4), opacity)(torch.zeros(2, 1, 4, 4), torch.arange(2))
    assert torch.equal(made, opacity.expand(2, 1, 4, 4))


def test_clean_and_backdoored_models_take_turns_and_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelved = replace(RUN, shelf=Shelf(tmp_path))
    pool = shadow_pool(suspect(), grey(), TASK, shelved, 2, 4)
    assert pool.backdoored.tolist() == [False, True, False, True]
    first = [model.body[0].weight for model in pool.models]  # type: ignore[index,union-attr]
    assert all(not torch.equal(first[0], other) for other in first[1:])
    assert not any(model.training for model in pool.models)
    assert not any(parameter.requires_grad for model in pool.models for parameter in model.parameters())
    monkeypatch.delattr(Run, "fit")
    again = shadow_pool(suspect(), grey(), TASK, shelved, 2, 4)
    assert torch.equal(again.models[3].body[0].weight, first[3])  # type: ignore[index,union-attr]
    with pytest.raises(AttributeError):
        shadow_pool(suspect(), grey(44), TASK, shelved, 2, 4)


def test_those_that_are_said_to_be_backdoored_learn_a_backdoor(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[bool] = []

    def jumbos(task: Task, data: Dataset, run: Run) -> Jumbos:
        learned.append(True)
        return Jumbos(task, data, run)

    def supervised(task: Task) -> Supervised:
        learned.append(False)
        return Supervised(task)

    monkeypatch.setattr("sidedoor.algorithms.shadow_pool.Jumbos", jumbos)
    monkeypatch.setattr("sidedoor.algorithms.shadow_pool.Supervised", supervised)
    assert shadow_pool(suspect(), grey(), TASK, RUN, 2, 1).backdoored.tolist() == learned


def test_a_backdoor_takes() -> None:
    data, run = grey(), replace(RUN, recipe=Recipe(epochs=40, batch=12, lr=0.05))
    objective = Jumbos(TASK, data, run)
    model = run.fit(run.build(lambda: small_cnn(4, (1, 8, 8), 8)), data, objective, name="shadow")
    batch = data.fetch(torch.arange(len(data)))
    stamped = stamp(objective.trigger, batch.x, batch.index, data.space)
    others = batch.y != objective.backdoor.target
    assert (model(batch.x).argmax(1) == batch.y)[others].float().mean() > 0.8
    assert (model(stamped).argmax(1) == objective.backdoor.target)[others].float().mean() > 0.8


def test_images_without_bounds_are_refused() -> None:
    data = grey()
    data.space = MEASUREMENT
    with pytest.raises(NotApplicable, match="bounded range"):
        jumbo(data, torch.Generator())
