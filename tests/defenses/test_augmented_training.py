"""Mixup, CutMix and cutout as training defences: what batches become, and the loss of a mixture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.algorithms.mixtures import Mixture, OnMixtures, mixed_loss
from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.defenses.training.cutmix_training import CutMixTraining, boxes
from sidedoor.defenses.training.cutout_training import CutoutTraining
from sidedoor.defenses.training.mixup_training import MixupTraining
from sidedoor.engine import Recipe, Run
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

B = 12
SHADES = torch.arange(1.0, B + 1)
BATCH = Batch((SHADES / 100)[:, None, None, None].expand(B, 1, 8, 8), torch.arange(B), torch.arange(B))
"""Image k is evenly (k + 1) / 100, and of class k."""


class Logits(nn.Module):
    """A model whose logits are its input's first pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x.flatten(1)[:, :B]


def test_the_loss_of_a_mixture_is_the_weighted_sum_over_its_labels() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    mixture = Mixture(torch.zeros(2, 1, 1, 1), torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.25, 1.0], [0.75, 0.0]]))
    log = logits.log_softmax(1)
    expected = torch.stack([-0.25 * log[0, 0] - 0.75 * log[0, 2], -log[1, 1]])
    torch.testing.assert_close(mixed_loss(logits, mixture), expected)


@pytest.mark.parametrize("parts", [2, 4])
def test_mixup_weighs_images_and_labels_alike(parts: int) -> None:
    torch.manual_seed(0)
    x, labels, weights = MixupTraining(parts=parts).mixed(BATCH)
    assert labels.shape == weights.shape == (parts, B)
    torch.testing.assert_close(x[:, 0, 3, 3], (weights * (labels + 1) / 100).sum(0))
    assert torch.equal(labels[0], BATCH.y)
    assert all(torch.equal(row.sort().values, BATCH.y) for row in labels)  # permutations
    assert (labels[1] != labels[0]).any()
    torch.testing.assert_close(weights.sum(0), torch.ones(B))
    assert (weights == weights[:, :1]).all()
    assert weights.min() > 0


def test_noise_has_its_scale() -> None:
    torch.manual_seed(0)
    batch = Batch(torch.full((100, 1, 16, 16), 0.5), torch.zeros(100, dtype=torch.int64), torch.arange(100))
    x = MixupTraining(noise=16.0).mixed(batch).x
    assert (x - 0.5).abs().mean().item() == pytest.approx(16 / 255, rel=0.05)  # a Laplacian's mean deviation


def test_cutmix_weighs_labels_by_the_area_that_is_pasted() -> None:
    torch.manual_seed(0)
    x, labels, weights = CutMixTraining(probability=1.0).mixed(BATCH)
    torch.testing.assert_close(x.mean((1, 2, 3)), (weights * (labels + 1) / 100).sum(0))
    own = (x == BATCH.x).float().mean((1, 2, 3))
    other = labels[1] != labels[0]
    assert 0 < own[other].min() < 1  # the premise: something is cut, and something is left
    torch.testing.assert_close(weights[0][other], own[other])
    assert len(weights[0].unique()) > 1  # boxes reach out of some images


def test_a_batch_is_cut_with_the_probability() -> None:
    torch.manual_seed(0)
    cut = [not torch.equal(CutMixTraining(probability=0.3).mixed(BATCH).x, BATCH.x) for _ in range(300)]
    assert 0.2 < sum(cut) / 300 < 0.37
    assert torch.equal(CutMixTraining(probability=0.0).mixed(BATCH).x, BATCH.x)


def test_boxes_have_the_shape_of_the_image_and_lie_anywhere() -> None:
    torch.manual_seed(0)
    box = boxes(torch.zeros(2000, 1, 8, 16), 0.25)
    assert (box.sum((1, 2, 3)).max() == 4 * 8)
    rows, columns = box[:, 0].amax(2).sum(1), box[:, 0].amax(1).sum(1)
    assert (rows.max(), columns.max()) == (4, 8)
    assert box.mean(0).min() > 0  # every pixel is within one at times
    assert not boxes(torch.zeros(3, 1, 8, 8), 0.0).any()
    assert boxes(torch.zeros(50, 1, 8, 8), 1.0).mean() > 0.5


def test_cutout_fills_a_square_of_each_image_with_the_mean() -> None:
    torch.manual_seed(0)
    x, labels, weights = CutoutTraining(share=0.5).mixed(BATCH)
    assert torch.equal(labels, BATCH.y[None])
    assert torch.equal(weights, torch.ones(1, B))
    changed = x != BATCH.x
    assert (changed.sum((1, 2, 3)) == 16).all()
    torch.testing.assert_close(x[changed], BATCH.x.mean().expand(16 * B))
    assert len({tuple(image.flatten().nonzero()[0].tolist()) for image in changed}) > 1  # places of their own


def test_of_several_copies_the_worst_counts_for_each_sample_once_they_are_due() -> None:
    shifts = iter([0.0, 1.0, 0.0, -1.0, 0.0])

    def mix(batch: Batch) -> Mixture:
        shift = next(shifts) * torch.eye(B)[:, :, None].repeat(1, 1, 1)  # moves the logit of the label
        x = torch.cat([batch.x.flatten(1)[:, :B] + 0.1 * shift[:, :, 0], torch.zeros(B, 64 - B)], 1)
        return Mixture(x.reshape(B, 1, 8, 8), batch.y[None], torch.ones(1, B))

    objective = OnMixtures(mix, 2, after=1)
    plain = functional.cross_entropy(Logits()(BATCH.x), BATCH.y)
    torch.testing.assert_close(objective.losses(Logits(), BATCH)[0], plain)  # one copy in the first epoch
    objective.end_epoch(Logits(), 0)
    torch.testing.assert_close(objective.losses(Logits(), BATCH)[0], plain)  # an easier copy beside it
    harder = functional.cross_entropy(Logits()(BATCH.x) - torch.eye(B), BATCH.y)
    torch.testing.assert_close(objective.losses(Logits(), BATCH)[0], harder)
    assert harder > plain


@pytest.mark.parametrize("method", [MixupTraining(parts=1), CutMixTraining(probability=0.0), CutoutTraining(share=0.0)])
def test_without_mixing_it_is_plain_training(method: TrainingDefense) -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data, task = ArrayDataset(images, torch.arange(40) % 2, 2), Classification(2)
    run = Run.local(Recipe(epochs=2, batch=20), device="cpu")

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    trained = method.train(data, task, build, run)
    (name,) = run.history  # streams are keyed by it
    plain = run.fit(run.build(build), data, Supervised(task), name=name)
    assert not torch.equal(plain[1].weight, run.build(build)[1].weight)  # the premise: something was learned
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())
