"""Objectives of several losses, and networks that runs share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor import registry
from sidedoor.backdoor.base import AttackerRun
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Objective, Recipe, Run
from sidedoor.multitask.base import Aggregator
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import PHOTO, Batch, Images, Index

TASK = Classification(3)
RECIPE = Recipe(epochs=3, batch=8, lr=0.05, momentum=0.0, schedule="constant", weight_decay=0.0)


def data() -> ArrayDataset:
    rng = torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 3
    images = torch.randint(0, 120, (40, 1, 4, 4), generator=rng) + 40 * targets[:, None, None, None]
    return ArrayDataset(images.to(torch.uint8), targets, 3)


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Learned(Aggregator):
    """Weighs by parameters of its own and remembers what it was told."""

    told: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("told", torch.zeros(0, 2))

    def backward(self, losses: Tensor, parameters: list[nn.Parameter]) -> None:
        (losses * self.weight).sum().backward()  # type: ignore[no-untyped-call]

    def end_epoch(self, means: Tensor) -> None:
        self.told = torch.cat([self.told, means[None]])


class Two(Objective):
    """Cross-entropy on images as they are and inverted."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return torch.stack([functional.cross_entropy(model(x), batch.y) for x in (batch.x, 1 - batch.x)])


class Halved(Aggregator):
    def backward(self, losses: Tensor, parameters: list[nn.Parameter]) -> None:
        (losses.sum() / 2).backward()  # type: ignore[no-untyped-call]


def run(**more: object) -> Run:
    return Run.local(RECIPE, device="cpu")


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_aggregator_decides_the_gradient() -> None:
    """Half the loss at twice the rate is the plain sum."""
    plain, halved = run(), Run.local(Recipe(**vars(RECIPE) | {"lr": 0.1}), device="cpu")
    one = plain.fit(plain.build(build), data(), Two(), name="a")
    other = halved.fit(halved.build(build), data(), Two(Halved()), name="a")
    assert torch.allclose(weights(one), weights(other), atol=1e-6)


def test_an_aggregator_is_told_each_epoch_and_its_parameters_are_stepped() -> None:
    here, aggregator = run(), Learned()
    here.fit(here.build(build), data(), Two(aggregator), name="a")
    assert aggregator.told.shape == (3, 2)
    assert bool((aggregator.weight < 1).all())  # descending on w·L lowers w
    history = here.history["a"]
    told = [[epoch["loss_0"], epoch["loss_1"]] for epoch in history]
    assert told == [pytest.approx(row.tolist()) for row in aggregator.told]
    assert history[0]["loss"] == pytest.approx(history[0]["loss_0"] + history[0]["loss_1"])
    assert "loss_0" not in _history_of_one_loss()[0]


def _history_of_one_loss() -> list[dict[str, float]]:
    here = run()
    here.fit(here.build(build), data(), Supervised(TASK), name="a")
    return here.history["a"]


class Fresh(ArrayDataset):
    """Says in the index which epoch it was fetched for."""

    epoch = -1

    def at(self, epoch: int) -> Fresh:
        twin = Fresh(self.images, self.targets, self.classes)
        twin.epoch = epoch
        return twin

    def fetch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        return super().fetch(index, device)._replace(index=torch.full_like(index, self.epoch))


def test_each_epoch_sees_the_data_as_of_that_epoch() -> None:
    seen: list[int] = []

    class Looking(Supervised):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.extend(batch.index.tolist())
            return super().losses(model, batch)

    base = data()
    here = run()
    here.fit(here.build(build), Fresh(base.images, base.targets, 3), Looking(TASK), name="a")
    assert seen == [0] * 40 + [1] * 40 + [2] * 40


def test_honest_training_is_done_once_and_is_the_same_from_every_scope() -> None:
    here = AttackerRun.of(run())
    one = here.within("plan").clean_model(build, data(), TASK)
    assert here.clean_model(build, data(), TASK) is one
    assert here.history == {}
    again = AttackerRun.of(run()).clean_model(build, data(), TASK)
    assert torch.equal(weights(one), weights(again))


def test_who_keeps_an_honest_network_is_asked_for_it() -> None:
    kept = build()
    assert AttackerRun.of(run(), known=lambda: kept).within("plan").clean_model(build, data(), TASK) is kept


def test_an_artefact_is_made_once_and_kept_by_its_key(tmp_path: Path) -> None:
    made: list[int] = []

    def make(there: Run) -> nn.Module:
        made.append(1)
        return there.fit(there.build(build), data(), Supervised(TASK), name="classifier")

    def ask(seed: int) -> nn.Module:
        here = Run(run().fabric, RECIPE, shelf=Shelf(tmp_path))
        return here.artefact({"name": "classifier", "seed": seed}, build, make)

    one, two = ask(0), ask(0)
    assert len(made) == 1
    assert torch.equal(weights(one), weights(two))
    ask(1)
    assert len(made) == 2
    kept = sorted(file.name for file in tmp_path.rglob("*") if file.is_file())
    assert kept == ["key.json", "key.json", "lock", "lock", "model.safetensors", "model.safetensors"]


def test_networks_of_another_precision_are_others_and_plain_keys_stay_as_they_were(tmp_path: Path) -> None:
    keys = []
    for precision in ("32", "bf16"):
        run = replace(Run.local(replace(RECIPE, precision=precision), device="cpu"), shelf=Shelf(tmp_path))
        run.artefact({"name": "classifier"}, build, lambda here: here.build(build))
        keys.append({folder.name for folder in tmp_path.iterdir()})
    plain = hashlib.sha256(json.dumps({"name": "classifier"}).encode()).hexdigest()[:16]
    assert keys[0] == {plain}
    assert len(keys[1]) == 2


def test_bfloat16_learns_on_a_processor_too() -> None:
    run = Run.local(replace(RECIPE, precision="bf16", epochs=20), device="cpu")
    seen: list[torch.dtype] = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    model = run.fit(run.build(lambda: nn.Sequential(nn.Flatten(), Watched(16, 3))), data(), Supervised(TASK), name="v")
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    plain = replace(run, recipe=replace(run.recipe, precision="32"), history={})
    plain.fit(plain.build(build), data(), Supervised(TASK), name="v")
    mixed, full = ([epoch["loss"] for epoch in found.history["v"]] for found in (run, plain))
    assert mixed == pytest.approx(full, rel=0.02)
    assert mixed[-1] < mixed[0]


def test_mixed_precision_shows_the_first_layer_differences_of_one_level() -> None:
    model = registry.make("model", {"name": "small_cnn", "width": 4})(3, (1, 16, 16)).eval()
    bright = torch.full((1, 1, 16, 16), 249 / 255)
    with torch.no_grad():
        exact = [model.body[0](model.normalize(x)) for x in (bright, bright + 1 / 255)]
        seen: list[Tensor] = []
        model.body[0].register_forward_hook(lambda layer, given, made: seen.append(made))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = [model(x) for x in (bright, bright + 1 / 255)]
    assert all(torch.equal(one, two) for one, two in zip(exact, seen, strict=True))
    assert {output.dtype for output in outputs} == {torch.bfloat16}


def test_triggers_are_stamped_in_full_precision_where_networks_compute_in_less() -> None:
    class Product(Trigger):
        def forward(self, x: Images, index: Index) -> Images:
            return x @ (torch.eye(4) * 1.004)

    batch = data().fetch(torch.arange(40))
    plain = stamp(Product(), batch.x, batch.index, PHOTO)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Product()(batch.x, batch.index).dtype == torch.bfloat16
        assert torch.equal(stamp(Product(), batch.x, batch.index, PHOTO), plain)
