"""Poison immunity: what plays poison, how each craft makes it, and that labels stay true."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training._poison_immunity import Crafted, Immunity
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.defenses.training.poison_immunity import PoisonImmunity
from sidedoor.defenses.training.poison_immunity_matching import PoisonImmunityMatching, mismatch
from sidedoor.defenses.training.poison_immunity_patch import PoisonImmunityPatch
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch, Images

TASK = Classification(4)
BATCH = Batch(torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4,
              torch.arange(12))
POISON, TARGETS = (Batch(*(column[part] for column in BATCH)) for part in (slice(9), slice(9, None)))


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


class Watching(Classification):
    """Remembers what it is asked about."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        SEEN.append(batch)
        return super().loss(model, batch)


SEEN: list[Batch] = []


@pytest.mark.parametrize(("share", "count"), [(0.75, 9), (0.0, 1), (1.0, 11)])
def test_so_many_rows_play_poison_and_all_keep_their_labels(share: float, count: int) -> None:
    SEEN.clear()

    def craft(model: nn.Module, poison: Batch, targets: Batch) -> Crafted:
        assert not model.training
        assert (len(poison.x), len(targets.x)) == (count, 12 - count)
        return poison.x + 10, targets.x + 20

    model = build().train()
    Immunity(Watching(4), share, craft).losses(model, BATCH).sum().backward()
    (seen,) = SEEN
    assert model.training
    torch.testing.assert_close(seen.x - BATCH.x, torch.tensor([10.0] * count + [20.0] * (12 - count))
                               [:, None, None, None].expand(12, 1, 8, 8))
    assert torch.equal(seen.y, BATCH.y)
    assert torch.equal(seen.index, BATCH.index)


def test_a_watermark_is_so_much_of_a_target() -> None:
    poison, targets = PoisonImmunity(epsilon=51).watermarked(build(), POISON, TARGETS)
    partner = TARGETS.x[[0, 1, 2] * 3]
    torch.testing.assert_close(poison, 0.8 * POISON.x + 0.2 * partner)
    assert torch.equal(targets, TARGETS.x)


def test_matched_poison_has_more_of_the_wanted_gradient_and_stays_within_the_bound() -> None:
    torch.manual_seed(0)
    model = build().eval()
    parameters = list(model.parameters())

    def gradient(x: Images, y: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(TASK.loss(model, Batch(x, y, y)).mean(), parameters))

    poison = POISON._replace(y=torch.tensor([2, 2, 2, 2, 0, 1, 3, 0, 1]))
    wanted = gradient(TARGETS.x, torch.full((3,), 2))  # the poison's most frequent class
    moved = PoisonImmunityMatching(epsilon=32.0, iterations=20).matched(TASK, model, poison, TARGETS)
    noise = poison.x + (32 / 255 * torch.randn_like(poison.x)).clamp(-32 / 255, 32 / 255)
    before, after, other = (mismatch(wanted, gradient(x, poison.y)) for x in (poison.x, moved, noise))
    assert after < before
    assert after < other
    assert (moved - poison.x).abs().max().item() <= 32 / 255 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1


def test_mismatch_is_half_the_squared_distance_over_the_norm() -> None:
    wanted, own = [torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([0.0]), torch.tensor([4.0])]
    assert mismatch(wanted, own).item() == pytest.approx(9 / 2 / 5)
    assert mismatch(wanted, wanted).item() == 0


def test_targets_carry_the_patch_of_another_class() -> None:
    torch.manual_seed(0)
    grey = Batch(torch.full((40, 1, 16, 16), 0.5), torch.arange(40) % 4, torch.arange(40))
    poison, targets = PoisonImmunityPatch().stamped(grey, grey, 4)

    def patch_of(x: Images, label: int) -> Tensor:
        rows = x[grey.y == label]
        assert (rows == rows[:1]).all()  # one patch for a class
        return rows[0]

    patches = [patch_of(poison, k) for k in range(4)]
    assert len({tuple(patch.flatten().tolist()) for patch in patches}) == 4
    assert all(((patch == 0) | (patch == 1)).sum() == ((patch != 0.5).sum()) > 0 for patch in patches)
    carried = [next(k for k in range(4) if torch.equal(patch_of(targets, label), patches[k])) for label in range(4)]
    assert sorted(carried) == [0, 1, 2, 3]
    assert all(one != other for one, other in enumerate(carried))


def test_sides_of_patches_are_between_the_bounds() -> None:
    torch.manual_seed(0)
    method, x = PoisonImmunityPatch(smallest=0.25, largest=0.5), torch.zeros(1, 1, 16, 16)
    areas = {int(method.patches(x, 2)[0].sum((1, 2, 3)).unique()) for _ in range(60)}
    assert areas == {side**2 for side in range(4, 9)}


@pytest.mark.parametrize("method", [PoisonImmunity(epsilon=0), PoisonImmunityMatching(epsilon=0.0)])
def test_a_bound_of_zero_is_plain_training(method: TrainingDefense) -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ArrayDataset(images, torch.arange(40) % 4, 4)
    run = Run.local(Recipe(epochs=2, batch=13), device="cpu")
    trained = method.train(data, TASK, build, run)
    (name,) = run.history
    plain = run.fit(run.build(build), data, Supervised(TASK), name=name)
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())
