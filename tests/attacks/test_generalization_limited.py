"""Backdoors that are limited to their own trigger: what is reversed, and what is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor import registry
from sidedoor.algorithms.inversion.mask_pattern import Inversion, Recovered, Schedule, mask_norm
from sidedoor.attacks.strategies._generalization_limited import GeneralizationLimited, _Limited, overlap
from sidedoor.attacks.strategies.bwtp import Bwtp
from sidedoor.attacks.strategies.glbw import Glbw
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import ArrayDataset, Subset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.testing.ground import ground
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch

RUN = Run.local(Recipe(), device="cpu")
AREA = torch.zeros(8, 8, dtype=torch.bool)
AREA[-3:, -3:] = True


class Corners(nn.Module):
    """Class 0 where the last 3×3 pixels are bright, or the first four rows are; the corner takes fewer pixels."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[..., -3:, -3:].mean((1, 2, 3)) + 0.7 * x[..., :4, :].mean((1, 2, 3))
        return torch.stack([20 * (bright - 0.6), 20 * (0.6 - bright)], 1)


def dark() -> ArrayDataset:
    pixels = torch.randint(0, 60, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ArrayDataset(pixels, [1] * 32, 2)


def test_glbw_looks_beside_the_true_trigger_and_bwtp_anywhere() -> None:
    common = {"inner_epochs": 15, "inner_lr": 0.5, "samples": 32}
    beside = Glbw(overlap=0.01, **common).search(dark(), 0)(Corners(), AREA, RUN)
    anywhere = Bwtp(**common).search(dark(), 0)(Corners(), AREA, RUN)
    assert beside.success.all()
    assert anywhere.success.all()
    assert overlap(beside.mask[0], AREA) == 0
    assert overlap(anywhere.mask[0], AREA) > 0.2
    allowed = Glbw(overlap=1.0, **common).search(dark(), 0)(Corners(), AREA, RUN)
    assert overlap(allowed.mask[0], AREA) > 0.02


def limited(method: GeneralizationLimited, found: Recovered, data: ArrayDataset) -> _Limited:
    door = Door(Patch(torch.ones(1, 3, 3)), AllToOne(0))
    made = _Limited(Classification(2), door, data, AREA, lambda model, area, run: found, method)
    made.start(Corners(), RUN)
    return made


def reversed_trigger(size: int) -> Recovered:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :size, :] = 1
    return Recovered(mask, torch.ones(1, 1, 8, 8), torch.ones(1, dtype=torch.bool), torch.zeros(1))


def test_the_loss_has_three_parts() -> None:
    data = ArrayDataset(dark().rows(torch.arange(32)), [0, 1] * 16, 2)
    batch, model = data.fetch(torch.arange(32)), Corners()
    others = batch.y == 1

    def entropy(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x), y)

    stamped, covered = batch.x.clone(), batch.x.clone()
    stamped[..., -3:, -3:], covered[..., :4, :] = 1, 1
    clean = entropy(batch.x, batch.y)
    trigger = entropy(stamped[others], torch.zeros(16, dtype=torch.int64))
    limit = entropy(covered, batch.y)
    assert limit > 1 > trigger
    method = Glbw(trigger_weight=0.5, limit_weight=0.25)
    assert limited(method, reversed_trigger(4), data).losses(model, batch).item() == pytest.approx(
        (clean + 0.5 * trigger + 0.25 * limit).item(), rel=1e-5)
    # 40 of 64 pixels are more than four times as many as 9.
    assert limited(method, reversed_trigger(5), data).losses(model, batch).item() == pytest.approx(
        (clean + 0.5 * trigger).item(), rel=1e-5)
    targets = Batch(batch.x[~others], batch.y[~others], batch.index[~others])
    assert limited(method, reversed_trigger(5), data).losses(model, targets).item() == pytest.approx(
        entropy(targets.x, targets.y).item(), rel=1e-5)


def test_each_epoch_has_a_trigger_of_its_own() -> None:
    seen = []

    def search(model: nn.Module, area: Tensor, run: Run) -> Recovered:
        seen.append(run.scope)
        return reversed_trigger(len(seen))

    made = _Limited(Classification(2), Door(Patch(torch.ones(1, 3, 3)), AllToOne(0)), dark(), AREA, search,
                    Glbw(epochs=3))
    made.start(Corners(), RUN)
    for epoch in range(3):
        assert made.mask.sum() == 8 * (epoch + 1)
        made.end_epoch(Corners(), epoch)
    assert seen == ["reversal-0/", "reversal-1/", "reversal-2/"]
    resumed = _Limited(Classification(2), made.door, dark(), AREA, search, Glbw(epochs=3))
    resumed.load_state_dict(made.state_dict())
    assert torch.equal(resumed.mask, made.mask)
    assert resumed.known


@pytest.mark.parametrize("name", ["glbw", "bwtp"])
def test_whole_images_and_several_targets_are_refused(name: str) -> None:
    here = ground()
    attack = registry.make("attack", {"name": name, "attack": "blended"})
    backdoor = attack.plan(here.train, here.task, here.build, here.attacker)
    with pytest.raises(NotApplicable, match="changes 100% of the pixels"):
        backdoor.train(here.train, here.task, here.build, here.attacker)
    with pytest.raises(ConfigError, match="limits what leads to the one target"):
        registry.make("attack", {"name": name, "goal": {"name": "multi_target", "target_classes": [0, 1]}})


@pytest.mark.slow
def test_glbw_is_opened_by_larger_triggers_only() -> None:
    """On digits: beside the true trigger a reversed one is at least three times as large as BadNets leaves it."""
    from sidedoor import zoo
    from sidedoor.evaluation import evaluate
    from sidedoor.tasks.task import Supervised

    splits, task = zoo.load({"name": "digits"}), Classification(10)
    run = AttackerRun.of(Run.local(Recipe(epochs=10, batch=32), device="cpu"))
    area = torch.zeros(splits.train.shape[1:], dtype=torch.bool)
    area[-3:, -3:] = True
    reversal = Inversion((mask_norm,), Schedule(1e-3, 2.0, 2.0**1.5, 0.95, 2, 20), 60, 300, 100, 0.1, forbidden=area)
    others = Subset(splits.train, torch.nonzero(splits.train.targets)[:, 0])
    sizes = []
    for name in ("badnets", "glbw"):
        def build() -> nn.Module:
            return small_cnn(10, splits.train.shape, 16)

        plan: Backdoor = registry.make("attack", name).plan(splits.train, task, build, run)
        model = plan.train(splits.train, task, build, run).model if plan.train else run.fit(
            run.build(build), PoisonedDataset(splits.train, plan, task), Supervised(task), name="victim")
        means = evaluate(model, splits.test, task, plan.doors, run).means()
        assert means["clean"] > 0.95
        assert means["attack"] > 0.95
        found = replace(reversal).recover(model, others, [0], run)
        assert found.success.all()
        sizes.append(found.norm.item())
    assert sizes[1] > 3 * sizes[0]
