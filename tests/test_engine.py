"""The training loop: repeatable to the bit through kills, alone and on two processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from sidedoor import engine
from sidedoor.core.checkpoint import Checkpoints
from sidedoor.data.augment import Crop
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.engine import Objective, Player, Recipe, Run, _steps, memory_format_of
from sidedoor.errors import CannotComplete, ConfigError, Diverged
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch
from sidedoor.zoo import network

TASK = Classification(3)
RECIPE = Recipe(epochs=5, batch=8, lr=0.05)


def data(n: int = 43, seed: int = 0) -> ArrayDataset:
    rng = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (n,), generator=rng)
    images = torch.randint(0, 120, (n, 1, 4, 4), generator=rng) + 40 * targets[:, None, None, None]
    return ArrayDataset(images.to(torch.uint8), targets, 3)


def build() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
                         nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 3))


def run_of(recipe: Recipe = RECIPE, **more: Any) -> Run:
    return replace(Run.local(recipe, device="cpu"), **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks are equal bit by bit, buffers included."""
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Noisy(Supervised):
    """Draws noise from torch's default generator."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model, batch._replace(x=batch.x + 0.1 * torch.randn_like(batch.x)))


class Played(Supervised):
    """An adversary that learns an offset to the images by Adam, with its own loss or in the model's backward pass."""

    def __init__(self, own: bool = True):
        super().__init__(TASK)
        self.offset = nn.Parameter(torch.zeros(1, 1, 4, 4))
        self.register_buffer("seen", torch.zeros(()))
        self.own = own

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        self.seen += len(batch.y)
        return super().losses(model, batch._replace(x=batch.x + self.offset))

    def attack(self, model: nn.Module, batch: Batch) -> Tensor:
        return -super().losses(model, batch._replace(x=batch.x + self.offset))

    def players(self, model: nn.Module) -> list[Player]:
        recipe = Recipe(optimizer="adam", lr=0.01, weight_decay=0.0)
        return [Player([self.offset], recipe, self.attack if self.own else None)]


class Killed(Exception):
    pass


def killed_after(objective: Objective, epochs: int) -> Objective:
    """The objective, killed in the last moment of an epoch, before that epoch is checkpointed."""
    def die(model: nn.Module, epoch: int) -> bool:
        if epoch == epochs:
            raise Killed
        return False

    objective.end_epoch = die  # type: ignore[method-assign]
    return objective


VARIANTS: dict[str, tuple[Callable[[], Objective], dict[str, Any], dict[str, Any]]] = {
    "plain": (lambda: Supervised(TASK), {}, {}),
    "random draws": (lambda: Noisy(TASK), {}, {}),
    "player": (Played, {}, {}),
    "player in the backward pass": (lambda: Played(own=False), {}, {}),
    "augmentation": (lambda: Supervised(TASK), {}, {"augment": Crop(1)}),
    "adam": (lambda: Supervised(TASK), {"optimizer": "adam", "lr": 0.01}, {}),
    "patience": (lambda: Supervised(TASK), {"patience": 3, "lr": 0.2, "epochs": 12}, {}),
}


# kills and resumes


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_phase_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, after: int
) -> None:
    monkeypatch.setattr(engine, "CHECKPOINT_SECONDS", 0.0)
    objective, recipe, more = VARIANTS[variant]
    valid = data(30, seed=1) if variant == "patience" else None
    run = run_of(replace(RECIPE, **recipe), **more)

    def fit(folder: Path | None, goal: Objective) -> nn.Module:
        own = replace(run, checkpoints=Checkpoints(folder) if folder else None, history={})
        model = own.fit(own.build(build), data(), goal, name="victim", valid=valid)
        losses.append([(e["epoch"], e["loss"], e["lr"], e.get("valid")) for e in own.history["victim"]])
        return model

    losses: list[Any] = []
    whole, resumed = objective(), objective()
    expected = fit(None, whole)
    with pytest.raises(Killed):
        fit(tmp_path, killed_after(objective(), after))
    assert any(tmp_path.iterdir()) == (after > 0)  # the premise: something was done, and not all
    assert same(fit(tmp_path, resumed), expected)
    assert losses[0] == losses[1]
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(resumed.state_dict()[key], value) for key, value in whole.state_dict().items())


def test_a_finished_phase_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    class Forbidden(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            raise AssertionError("trained again")

    run = run_of(checkpoints=Checkpoints(tmp_path))
    expected = run.fit(run.build(build), data(), Supervised(TASK), name="a")
    history = run.history["a"]
    run = run_of(checkpoints=Checkpoints(tmp_path))
    loaded = run.fit(build(), data(), Forbidden(TASK), name="a")
    assert same(loaded, expected)
    assert not loaded.training
    assert run.history["a"] == history
    with pytest.raises(AssertionError, match="trained again"):
        run.fit(build(), data(), Forbidden(TASK), name="b")


def test_a_phase_stopped_by_its_objective_is_finished(tmp_path: Path) -> None:
    class Stops(Supervised):
        def end_epoch(self, model: nn.Module, epoch: int) -> bool:
            return epoch == 1

    run = run_of(checkpoints=Checkpoints(tmp_path))
    expected = run.fit(run.build(build), data(), Stops(TASK), name="a")
    assert [e["epoch"] for e in run.history["a"]] == [1, 2]
    assert same(run.fit(build(), data(), Supervised(TASK), name="a"), expected)
    assert len(run.history["a"]) == 2


def test_scopes_keep_phases_of_one_name_apart(tmp_path: Path) -> None:
    run = run_of(checkpoints=Checkpoints(tmp_path))
    one = run.within("one").fit(run.build(build), data(), Supervised(TASK), name="a")
    two = run.within("two").fit(run.build(build), data(), Supervised(TASK), name="a")
    assert not same(one, two)
    assert set(run.history) == {"one/a", "two/a"}


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run = run_of(checkpoints=Checkpoints(tmp_path))
    run.fit(run.build(build), data(), Supervised(TASK), name="a")
    other: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(CannotComplete, match="the checkpoint of phase 'a' does not fit the network"):
        run.fit(other, data(), Supervised(TASK), name="a")


# randomness


def test_training_repeats_and_follows_seed_and_name_only() -> None:
    def fit(seed: int, name: str, before: bool = False) -> nn.Module:
        run = run_of(seed=seed, augment=Crop(1))
        if before:
            run.fit(run.build(build), data(), Noisy(TASK), name="another")
            run.rng("another").seed()
        return run.fit(Run.build(run_of(), build), data(), Noisy(TASK), name=name)

    expected = fit(0, "a")
    assert same(fit(0, "a"), expected)
    assert same(fit(0, "a", before=True), expected)
    assert not same(fit(1, "a"), expected)
    assert not same(fit(0, "b"), expected)


def test_the_callers_random_numbers_are_left_alone() -> None:
    run = run_of(augment=Crop(1))
    state = torch.get_rng_state()
    model = run.build(build)
    assert torch.equal(torch.get_rng_state(), state)
    run.fit(model, data(), Noisy(TASK), name="a")
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(Killed):
        run.fit(model, data(), killed_after(Noisy(TASK), 0), name="b")
    assert torch.equal(torch.get_rng_state(), state)


def test_named_streams_are_independent_and_repeat() -> None:
    run = run_of()
    draws = [torch.rand(4, generator=stream) for stream in
             (run.rng("a"), run.rng("b"), run.within("s").rng("a"), run_of(seed=1).rng("a"))]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    assert torch.equal(torch.rand(4, generator=run.rng("a")), draws[0])


def test_initial_weights_follow_the_seed() -> None:
    assert same(run_of().build(build), run_of().build(build))
    assert not same(run_of().build(build), run_of(seed=1).build(build))


# the recipe


SCHEDULES = {
    "constant": {0.0: 1.0, 0.5: 1.0, 1.0: 1.0},
    "cosine": {0.0: 1.0, 0.5: 0.5, 1.0: 0.0},
    "step": {0.0: 1.0, 0.49: 1.0, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1.0: 0.01},
    "one_cycle": {0.0: 0.04, 0.15: 0.52, 0.3: 1.0, 0.65: 0.5, 1.0: 0.0},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_at_named_points(name: str) -> None:
    recipe = Recipe(schedule=name)  # type: ignore[arg-type]
    for progress, scale in SCHEDULES[name].items():
        assert recipe.scale(progress) == pytest.approx(scale, abs=1e-9), progress
    assert max(recipe.scale(i / 1000) for i in range(1001)) == pytest.approx(1)


def test_the_schedule_spans_the_phase_for_model_and_players() -> None:
    rates: list[tuple[float, float]] = []

    class Watched(Played):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            rates.append(tuple(o.param_groups[0]["lr"] for o in optimisers))  # type: ignore[arg-type]
            return super().losses(model, batch)

        def players(self, model: nn.Module) -> list[Player]:
            return [Player([self.offset], Recipe(lr=0.01, schedule="step"), self.attack)]

    optimisers: list[torch.optim.Optimizer] = []
    original = Recipe.optimiser
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recipe, "optimiser", lambda self, p: optimisers.append(original(self, p)) or optimisers[-1])
        run = run_of(Recipe(epochs=4, batch=16, lr=0.1, schedule="cosine"))
        run.fit(run.build(build), data(32), Watched(), name="a")
    assert [model for model, _ in rates] == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    assert [player for _, player in rates] == pytest.approx([0.01] * 4 + [0.001] * 2 + [0.0001] * 2)


@pytest.mark.parametrize(("clip", "norm"), [(0.0, None), (0.3, 0.3)])
def test_clipping_bounds_the_gradient_over_all_parameters(clip: float, norm: float | None) -> None:
    class Steep(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            return 1000 * super().losses(model, batch)

    run = run_of(Recipe(epochs=1, batch=64, lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip=clip))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = [p.detach().clone() for p in model.parameters()]
    run.fit(model, data(32), Steep(TASK), name="a")
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)]).norm()
    assert moved.item() > 10 if norm is None else moved.item() == pytest.approx(norm, rel=1e-4)


def test_one_step_is_one_step_of_torchs_sgd() -> None:
    run = run_of(Recipe(epochs=1, batch=64, lr=0.1, momentum=0.9, weight_decay=0.01, schedule="constant"))
    model, twin = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    twin.load_state_dict(model.state_dict())
    run.fit(model, data(32), Supervised(TASK), name="a")
    batch = data(32).fetch(torch.arange(32))
    nn.functional.cross_entropy(twin(batch.x), batch.y).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.1 * (theirs.grad + 0.01 * theirs))


def test_frozen_parameters_stay() -> None:
    run = run_of()
    model = run.build(build)
    model[0].weight.requires_grad_(False)  # type: ignore[index,union-attr]
    before = model[0].weight.clone()  # type: ignore[index,operator,union-attr]
    after = run.fit(model, data(), Supervised(TASK), name="a")[0].weight  # type: ignore[index]
    assert torch.equal(before, after)


def test_patience_stops_and_gives_back_the_best_weights() -> None:
    class Recorded(Supervised):
        def end_epoch(self, model: nn.Module, epoch: int) -> bool:
            states.append({k: v.clone() for k, v in model.state_dict().items()})
            return False

    states: list[dict[str, Tensor]] = []
    noise = ArrayDataset(data(30).images, (data(30).targets + 1) % 3, 3)  # labels that training makes worse
    run = run_of(Recipe(epochs=20, batch=8, patience=3))
    model = run.fit(run.build(build), data(), Recorded(TASK), name="a", valid=noise)
    losses = [e["valid"] for e in run.history["a"]]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 20
    assert all(torch.equal(value, states[best][key]) for key, value in model.state_dict().items())
    assert not all(torch.equal(value, states[-1][key]) for key, value in model.state_dict().items())


def test_augmentation_and_what_a_loss_draws_differ_from_epoch_to_epoch() -> None:
    drawn: list[list[float]] = []

    class Drawing(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            drawn.append([torch.rand(()).item()])
            return super().losses(model, batch)

    def augment(batch: Batch) -> Batch:
        orders.append(batch.index.tolist())
        drawn.append([torch.rand(()).item()])
        return batch

    orders: list[list[int]] = []
    run = replace(run_of(Recipe(epochs=3, batch=30)), augment=augment)
    run.fit(run.build(build), data(30), Drawing(TASK), name="a")
    assert len({tuple(value) for value in drawn}) == len(drawn) == 6
    assert len({tuple(order) for order in orders}) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(30))}


def test_validation_without_patience_keeps_the_best_and_does_not_stop() -> None:
    noise = ArrayDataset(data(30).images, (data(30).targets + 1) % 3, 3)
    run = run_of(Recipe(epochs=6, batch=8))
    model = run.fit(run.build(build), data(), Supervised(TASK), name="a", valid=noise)
    assert len(run.history["a"]) == 6
    losses = [e["valid"] for e in run.history["a"]]
    loss = run.per_sample(model, noise, lambda b: {"l": TASK.loss(model, b)})["l"].mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("own", ["32", "bf16"])
def test_training_and_validation_compute_in_the_precision_of_the_phase(own: Literal["32", "bf16"]) -> None:
    seen: set[tuple[bool, torch.dtype]] = set()

    class Watched(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.add((model.training, model(batch.x).dtype))
            return super().losses(model, batch)

    run = run_of(replace(RECIPE, precision="bf16" if own == "32" else "32"))
    run.fit(run.build(build), data(), Watched(TASK), name="a", valid=data(30),
            recipe=replace(RECIPE, epochs=1, precision=own))
    kind = torch.float32 if own == "32" else torch.bfloat16
    assert seen == {(True, kind), (False, kind)}


def test_patience_without_validation_data_holds_a_seventh_out() -> None:
    trained: set[int] = set()

    class Watched(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            if model.training:
                trained.update(batch.index.tolist())
            return super().losses(model, batch)

    whole = data(70)
    run = run_of(Recipe(epochs=2, batch=8, patience=1))
    run.fit(run.build(build), whole, Watched(TASK), name="a")
    assert 58 <= len(trained) <= 62
    assert all("valid" in epoch for epoch in run.history["a"])
    held = torch.tensor(sorted(set(range(70)) - trained))
    # Every class has its part of what is held out.
    assert set(whole.targets[held].tolist()) == set(whole.targets.tolist())


def test_training_needs_data() -> None:
    empty = Subset(data(), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ConfigError, match="phase 'a': an empty data set given"):
        run_of().fit(build(), empty, Supervised(TASK), name="a")
    with pytest.raises(ConfigError, match="an empty data set given"):
        run_of().per_sample(build(), empty, lambda b: {"y": b.y})


def test_a_loss_that_is_not_finite_names_epoch_rate_and_loss() -> None:
    class Breaks(Supervised):
        def start(self, model: nn.Module, run: Run) -> None:
            self.steps = 0

        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            self.steps += 1
            return super().losses(model, batch) * (float("inf") if self.steps == 12 else 1)

    run = run_of(Recipe(epochs=3, batch=8, lr=0.02, schedule="constant"))
    with pytest.raises(Diverged, match=r"phase 'a': the loss became inf in epoch 2 of 3 at learning rate 0.02; "
                                       r"the epoch before had \d[\d.]*; lower `lr`, set `clip`"):
        run.fit(run.build(build), data(48), Breaks(TASK), name="a")


# steps and batches


@pytest.mark.parametrize(("samples", "batch", "world", "steps"), [
    (1, 8, 1, 1), (8, 8, 1, 1), (9, 8, 1, 1), (10, 8, 1, 2), (16, 8, 1, 2), (17, 8, 1, 2), (7, 8, 1, 1),
    (11, 8, 2, 1), (12, 8, 2, 2), (3, 8, 2, 1), (3, 1, 1, 3)])
def test_steps_an_epoch(samples: int, batch: int, world: int, steps: int) -> None:
    assert _steps(samples, batch, world) == steps


@pytest.mark.parametrize("samples", [1, 2, 8, 9, 10, 17])
def test_every_sample_is_seen_once_an_epoch_but_a_lone_last_one(samples: int) -> None:
    class Seen(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            seen[-1].append(batch.index.tolist())
            return super().losses(model, batch)

        def end_epoch(self, model: nn.Module, epoch: int) -> bool:
            seen.append([])
            return False

    seen: list[list[list[int]]] = [[]]
    run = run_of(replace(RECIPE, epochs=3))
    run.fit(run.build(build), data(samples), Seen(TASK), name="a")
    lone = samples > 8 and samples % 8 == 1
    for epoch in seen[:3]:
        flat = [*itertools.chain(*epoch)]
        assert len(flat) == len(set(flat)) == samples - lone
        assert len(epoch) == _steps(samples, 8, 1)
    assert samples <= 2 or seen[0] != seen[1]  # shuffled anew


def test_rows_fetched_ahead_train_the_same() -> None:
    class Lazy(ArrayDataset):
        lazy = True

    run, source = run_of(), data()
    eager = run.fit(run.build(build), source, Supervised(TASK), name="a")
    ahead = run.fit(run.build(build), Lazy(source.images, source.targets, 3), Supervised(TASK), name="a")
    assert same(eager, ahead)


def test_a_fault_while_fetching_ahead_is_not_lost() -> None:
    class Broken(ArrayDataset):
        lazy = True

        def rows(self, index: Tensor) -> Tensor:
            if 7 in index:
                raise CannotComplete("row 7 is damaged")
            return super().rows(index)

    run, source = run_of(), data()
    with pytest.raises(CannotComplete, match="row 7 is damaged"):
        run.fit(run.build(build), Broken(source.images, source.targets, 3), Supervised(TASK), name="a")


def test_a_player_plays_its_own_game() -> None:
    run = run_of()
    objective = Played()
    model = run.fit(run.build(build), data(), objective, name="a")
    batch = data().fetch(torch.arange(43))
    with torch.no_grad():
        moved, still = (TASK.loss(model, batch._replace(x=batch.x + o)).mean() for o in (objective.offset, 0.0))
    assert moved > still  # the adversary raised the loss
    assert objective.seen == 5 * 43  # a last batch of 3 included

    shared = Played(own=False)
    model = run.fit(run.build(build), data(), shared, name="a")
    with torch.no_grad():
        moved, still = (TASK.loss(model, batch._replace(x=batch.x + o)).mean() for o in (shared.offset, 0.0))
    assert moved < still  # in the model's backward pass it lowers it


# where networks lie in memory


@pytest.mark.parametrize(("device", "precision", "expected"), [
    ("cpu", "32", "channels_last"), ("cpu", "bf16", "channels_last"), ("meta", "32", "contiguous"),
    ("meta", "bf16", "channels_last"),
])
def test_networks_are_placed_in_the_fastest_memory_format(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: Literal["32", "bf16"], expected: str
) -> None:
    assert memory_format_of(build()) == "contiguous"  # the premise
    monkeypatch.setattr(Run, "device", torch.device(device))
    placed = run_of(Recipe(precision=precision)).placed(build())
    assert memory_format_of(placed) == expected
    assert next(placed.parameters()).device.type == device


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "densenet"])
def test_only_the_first_convolution_sees_another_memory_format_than_its_own(name: str, channels: int) -> None:
    """Contiguous inputs are converted once, not in every layer."""
    quick = {"preact_resnet18": {"width": 4}, "densenet": {"depth": 22}}
    source = ArrayDataset(torch.zeros(2, channels, 16, 16, dtype=torch.uint8), torch.tensor([0, 1]), 2)
    model = run_of().build(network({"name": name, **quick.get(name, {})}, source))
    outputs: list[Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, x, output: outputs.append(output))
    model(source.fetch(torch.arange(2)).x)
    large = [output for output in outputs if output.shape[1] > 1 and output.shape[2] > 1]
    assert len(large) >= 3  # the premise: smaller ones lie the same in both formats
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in large)


class Viewing(nn.Module):
    """A network as many people write theirs: it flattens by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).view(len(x), -1))


def test_a_network_of_somebody_else_may_flatten_by_view() -> None:
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="view"):  # the premise
        Viewing().to(memory_format=torch.channels_last)(x)
    assert Run.local(device="cpu").placed(Viewing())(x).shape == (2, 2)


def test_the_memory_format_changes_results_by_rounding_only() -> None:
    run = run_of(replace(RECIPE, epochs=1))
    model, twin = run.build(build), run.build(build).to(memory_format=torch.contiguous_format)
    assert memory_format_of(model) != memory_format_of(twin)
    before = model.state_dict()["3.weight"].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "placed", lambda self, model: model)
        other = run.fit(twin, data(), Supervised(TASK), name="a")
    trained = run.fit(model, data(), Supervised(TASK), name="a")
    assert memory_format_of(trained) != memory_format_of(other)
    assert (trained.state_dict()["3.weight"] - before).abs().max() > 1e-3  # the premise: it was trained
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-4, atol=1e-5)


# per-sample values


@pytest.mark.parametrize("batch", [1, 4, 43, 512])
def test_per_sample_values_come_in_the_order_of_the_data(batch: int) -> None:
    run, source = run_of(), data()
    chosen = torch.randperm(43, generator=torch.Generator().manual_seed(0))[:20]
    subset = Subset(source, chosen)
    model = run.build(build)

    def rows(b: Batch) -> dict[str, Tensor]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"index": b.index, "pair": b.x.flatten(1)[:, :2]}

    columns = run.per_sample(model, subset, rows, batch)
    assert columns["index"].tolist() == chosen.tolist()
    assert torch.equal(columns["pair"], source.fetch(chosen).x.flatten(1)[:, :2])
    assert columns["index"].dtype == torch.float32
    assert model.training
    assert torch.is_grad_enabled()


def test_large_images_are_measured_a_few_at_a_time() -> None:
    size = 1024
    large = ArrayDataset(torch.zeros(7, 3, size, size, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64), 3)
    seen: list[int] = []

    def rows(batch: Batch) -> dict[str, Tensor]:
        seen.append(len(batch.x))
        return {"y": batch.y}

    columns = run_of().per_sample(build(), large, rows)
    assert len(columns["y"]) == 7
    assert seen == [2, 2, 2, 1]



def test_a_device_that_is_not_there_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CannotComplete, match=r"cannot compute on 1 × cuda: .*sidedoor doctor"):
        Run.local(device="cuda")


# two processes


CHILD = '''
import json, os, sys, warnings
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from test_engine import Played, build, data, TASK
from sidedoor.core.checkpoint import Checkpoints
from sidedoor.engine import Recipe, Run, fabric

torch.set_num_threads(1)
compute = fabric("cpu", devices=2)
compute.launch()
run = Run(compute, Recipe(epochs=3, batch=8, lr=0.05, patience=3), checkpoints=Checkpoints(Path(sys.argv[2])))
objective = Played()
model = run.fit(run.build(build), data(), objective, name="a", valid=data(31, seed=1))
table = run.per_sample(model, data(), lambda b: {"index": b.index, "loss": TASK.loss(model, b)}, batch=5)
told = {"state": {k: v.double().flatten().tolist() for k, v in model.state_dict().items()},
        "offset": objective.offset.flatten().tolist(), "index": table["index"].tolist(),
        "loss": table["loss"].tolist(), "history": [[e["loss"], e["valid"]] for e in run.history["a"]]}
again = Run(compute, run.recipe, checkpoints=run.checkpoints)
loaded = again.fit(again.build(build), data(), Played(), name="a", valid=data(31, seed=1))
told["loaded"] = all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
Path(sys.argv[2], f"rank{compute.global_rank}.json").write_text(json.dumps(told))
'''


def test_two_processes_agree_bit_for_bit_and_score_every_sample_once(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(CHILD)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               str(tmp_path / "child.py"), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["index"] == list(range(43))
    assert all(math.isfinite(loss) for loss in itertools.chain(first["loss"], *first["history"]))
    for key in ("state", "offset", "index", "loss"):
        assert first[key] == second[key], key
    assert [valid for _, valid in first["history"]] == [valid for _, valid in second["history"]]
    assert first["loaded"]
    assert second["loaded"]
    start = run_of().build(build).state_dict()
    assert any(start[k].double().flatten().tolist() != first["state"][k] for k in start)  # it was trained


def test_a_frozen_model_is_a_copy_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    frozen = Run.local(device="cpu").frozen(model)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not {p.data_ptr() for p in frozen.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_chunks_cover_the_rows_and_hold_no_more_values_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "AT_ONCE", {"cpu": 10})
    run = Run.local(device="cpu")
    assert [list(range(7))[part] for part in run.chunks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [part.stop - part.start for part in run.chunks(2, 11)] == [1, 1]  # a row is never cut
    assert list(run.chunks(0, 3)) == []


def test_of_a_resumed_phase_only_what_is_left_is_shown(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Shown:
        @contextlib.contextmanager
        def task(self, name: str, total: int) -> Iterator[Any]:
            done = [0]
            yield lambda steps=1, note="": done.append(done.pop() + steps)
            seen.append((total, done[0]))

    class Stops(Supervised):
        def end_epoch(self, model: nn.Module, epoch: int) -> bool:
            if epoch == 3 and not seen:
                raise KeyboardInterrupt
            return False

    def trained() -> None:
        run = replace(run_of(), progress=Shown(), checkpoints=Checkpoints(tmp_path))
        run.fit(run.build(build), data(), Stops(TASK), name="phase", recipe=RECIPE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CHECKPOINT_SECONDS", -1.0)
        with pytest.raises(KeyboardInterrupt):
            trained()
    seen.append((0, 0))
    trained()
    assert seen[1:] == [(2 * 6, 2 * 6)]  # of five epochs three were kept
    trained()
    assert seen[2:] == [(0, 0)]
