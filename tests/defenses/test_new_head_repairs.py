"""FST, FT-init, FE-tuning, the linear probe and D3, which draw the head anew."""

from __future__ import annotations

import torch
from backdoored_digits import Scene
from torch import nn
from torch.nn import functional

from sidedoor.algorithms.new_head import FixedNormHead, with_new_head
from sidedoor.algorithms.short_training import for_steps
from sidedoor.defenses.repair.d3 import D3, _Distant
from sidedoor.defenses.repair.fe_tuning import FETuning
from sidedoor.defenses.repair.fst import FST
from sidedoor.defenses.repair.ft_init import FTInit
from sidedoor.defenses.repair.linear_probe import LinearProbe
from sidedoor.models.base import head
from sidedoor.types import Batch


def weight(model: nn.Module) -> torch.Tensor:
    return head(model).weight.detach()


def cosine(one: nn.Module, other: nn.Module) -> float:
    return functional.cosine_similarity(weight(one).flatten(), weight(other).flatten(), dim=0).item()


def test_a_new_head_is_uniform_and_everything_else_stays(scene: Scene) -> None:
    tuned = with_new_head(scene.model, scene.run)
    names = {"body.13.weight", "body.13.bias"}
    for name, tensor in scene.model.state_dict().items():
        assert torch.equal(tensor, tuned.state_dict()[name]) is (name not in names), name
    bound = 64**-0.5  # small_cnn of width 16 has 64 features
    drawn = weight(tuned)
    assert drawn.abs().max() <= bound
    assert drawn.max() > 0.95 * bound
    assert drawn.min() < -0.95 * bound
    assert torch.equal(drawn, weight(with_new_head(scene.model, scene.run)))


def test_fst_keeps_the_norm_and_turns_the_head_further_away_than_ft_init(scene: Scene) -> None:
    shifted = FST(steps=60).repair(scene.model, scene.clean, scene.task, scene.run)
    plain = FTInit(steps=60).repair(scene.model, scene.clean, scene.task, scene.run)
    before = weight(scene.model).norm()
    assert torch.isclose(weight(shifted).norm(), before, rtol=1e-5)
    assert not torch.isclose(weight(plain).norm(), before, rtol=0.05)
    assert cosine(shifted, scene.model) < cosine(plain, scene.model) - 0.1
    assert cosine(shifted, scene.model) < 0
    clean, attack = scene.numbers(shifted)
    assert clean > scene.numbers(scene.model)[0] - 0.06
    assert attack < 0.2
    assert scene.numbers(plain)[1] > attack


def test_the_projection_is_part_of_every_step() -> None:
    given, tuned = nn.Linear(4, 3), nn.Linear(4, 3)
    seen = []

    class Watching(FixedNormHead):
        def loss(self, model: nn.Module, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
            seen.append(weight.norm().item())
            return weight.sum() * 0.0

    objective = Watching(given)
    for _ in range(2):
        nn.init.normal_(tuned.weight, std=9.0)
        objective.losses(tuned, Batch(torch.zeros(1, 1, 2, 2), torch.zeros(1), torch.zeros(1, dtype=torch.int64)))
    nn.init.normal_(tuned.weight, std=9.0)
    assert objective.end_epoch(tuned, 0) is False
    torch.testing.assert_close([*seen, weight(tuned).norm().item()], 3 * [weight(given).norm().item()])


def test_d3_goes_as_far_as_the_norm_allows(scene: Scene) -> None:
    repaired = D3(steps=60, lr=0.05).repair(scene.model, scene.clean, scene.task, scene.run)
    norm = weight(scene.model).norm()
    assert torch.isclose(weight(repaired).norm(), norm, rtol=1e-5)
    start = (weight(with_new_head(scene.model, scene.run)) * norm / weight(with_new_head(scene.model, scene.run)).norm()
             - weight(scene.model)).norm()
    distance = (weight(repaired) - weight(scene.model)).norm()
    assert 1.1 * start < distance <= 2 * norm
    clean, attack = scene.numbers(repaired)
    assert clean > 0.8
    assert attack < 0.2


def test_samples_learned_well_enough_have_no_gradient_in_d3(scene: Scene) -> None:
    model = with_new_head(scene.model, scene.run).requires_grad_(False).eval()
    model.load_state_dict(scene.model.state_dict())
    head(model).weight.data.neg_()  # apart from the head that was given, where the distance has no gradient
    x, y, index = scene.clean.fetch(torch.arange(40))
    losses = functional.cross_entropy(model(x), y, reduction="none")
    floor = losses.median().item()
    objective = _Distant(scene.task, scene.model, weight=0.5, floor=floor)
    x.requires_grad_(True)
    value = objective.losses(model, Batch(x, y, index))[0]
    (gradient,) = torch.autograd.grad(value, x)
    moved = gradient.flatten(1).abs().sum(1) > 0
    assert torch.equal(moved, losses > floor)
    assert 0 < moved.sum() < 40
    norm = weight(scene.model).norm()
    expected = 0.5 * (losses - floor).clamp(min=0).mean() - 2 * norm  # W = -W0, the farthest
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-4)
    heavier = _Distant(scene.task, scene.model, weight=3.0, floor=floor).losses(model, Batch(x, y, index))[0]
    torch.testing.assert_close(heavier, (3 * (losses - floor).clamp(min=0).mean() - 2 * norm) / 4, rtol=1e-4, atol=1e-4)


def test_fe_tuning_and_the_probe_train_what_the_other_leaves(scene: Scene) -> None:
    start = with_new_head(scene.model, scene.run).state_dict()
    last = {"body.13.weight", "body.13.bias"}
    features = FETuning(steps=4).repair(scene.model, scene.clean, scene.task, scene.run)
    probe = LinearProbe(steps=4).repair(scene.model, scene.clean, scene.task, scene.run)
    assert {name for name, t in features.state_dict().items() if torch.equal(t, start[name])} >= last
    assert {name for name, t in probe.state_dict().items() if not torch.equal(t, start[name])} == last
    learned = {name for name, p in features.named_parameters() if not torch.equal(p, start[name])}
    assert learned == {name for name, _ in features.named_parameters()} - last
    assert all(p.requires_grad for model in (features, probe) for p in model.parameters())


def test_a_probe_is_read_from_the_features_as_they_are(scene: Scene) -> None:
    probe = LinearProbe(steps=150, lr=0.1).repair(scene.model, scene.clean, scene.task, scene.run)
    assert scene.numbers(probe)[0] > 0.9


def test_steps_are_turned_into_epochs_on_small_batches(scene: Scene) -> None:
    few = for_steps(scene.run, scene.clean, 100, 128, lr=0.25)
    assert len(scene.clean) == 201
    assert (few.batch, few.epochs, few.lr, few.patience) == (50, 25, 0.25, 0)  # one sample is left over
    assert for_steps(scene.run, scene.clean, 7, 32).epochs == 1
    assert for_steps(scene.run, scene.clean, 8, 32).epochs == 2
