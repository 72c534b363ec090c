"""ABL: what it isolates is mostly poison, and the model it trains forgets the trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.local_gradient_ascent import LocalGradientAscent
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.data.root import Where
from sidedoor.data.sets.digits import digits
from sidedoor.defenses.training.abl import ABL, Unlearning, isolate
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.models.small_cnn import small_cnn
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch

TASK = Classification(10)


def build() -> nn.Module:
    return small_cnn(10, (1, 16, 16), width=16)


def places(part: Dataset) -> Tensor:
    """Rows of the whole that a part holds."""
    return part.position(torch.arange(len(part)))


def test_the_isolated_rows_are_poison_and_the_trained_model_has_no_backdoor() -> None:
    splits, run = digits(Where(None)), Run.local(Recipe(epochs=6, lr=0.01, batch=32), device="cpu")
    backdoor = BadNets(rate=0.1).plan(splits.train, TASK, build, AttackerRun.of(run))
    data = PoisonedDataset(splits.train, backdoor, TASK)
    view, order = seal(data)
    truth = data.is_poisoned()[order]
    victim = run.fit(run.build(build), view, Supervised(TASK), name="victim")
    undefended = TASK.score(victim, splits.test, backdoor.doors[0], run).means()
    assert undefended["attack"] > 0.9  # the premise
    assert truth.mean() < 0.1

    early = run.fit(run.build(build), view, LocalGradientAscent(TASK, 0.5), name="isolation")
    isolated, rest = isolate(early, view, TASK, 13, run)
    assert truth[places(isolated)].mean() > 0.4
    assert len(isolated) == ABL().count(view, TASK) == round(0.01 * len(view))
    assert torch.equal(torch.cat([places(isolated), places(rest)]).sort().values, torch.arange(len(view)))

    model = ABL(isolation_epochs=6, finetune_epochs=6).train(view, TASK, build, run)
    defended = TASK.score(model, splits.test, backdoor.doors[0], run).means()
    assert defended["attack"] < 0.1
    assert defended["recovered"] > 0.8
    assert defended["clean"] > undefended["clean"] - 0.15
    assert [len(run.history[name]) for name in ("isolation", "finetuning", "unlearning")] == [6, 6, 20]
    assert {epoch["lr"] for epoch in run.history["unlearning"]} == {5e-4}


class Logits(nn.Module):
    """A model whose logits are its input's pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize(("margin", "sign"), [(0.0, 1), (3.0, -1)])
def test_local_gradient_ascent_turns_where_the_mean_loss_passes_gamma(margin: float, sign: int) -> None:
    x = torch.tensor([[margin, 0.0], [margin, 0.0]]).reshape(2, 1, 1, 2).requires_grad_()
    batch = Batch(x, torch.tensor([0, 0]), torch.arange(2))
    task = Classification(2)
    mean = task.loss(Logits(), batch).mean()
    assert (mean.item() > 0.5) == (sign == 1)  # the premise: log 2 and log(1 + exp(-3))
    ascent = LocalGradientAscent(task, 0.5).losses(Logits(), batch).sum()
    assert ascent.item() == pytest.approx(sign * mean.item())
    (expected,), (gradient,) = torch.autograd.grad(mean, x, retain_graph=True), torch.autograd.grad(ascent, x)
    torch.testing.assert_close(gradient, sign * expected)


def test_unlearning_climbs_the_loss() -> None:
    x = torch.zeros(2, 1, 1, 2, requires_grad=True)
    batch = Batch(x, torch.tensor([0, 1]), torch.arange(2))
    (gradient,) = torch.autograd.grad(Unlearning(Classification(2)).losses(Logits(), batch).sum(), x)
    after = Batch(x - gradient, batch.y, batch.index)
    assert (Classification(2).loss(Logits(), after) > Classification(2).loss(Logits(), batch)).all()


def _ten() -> ArrayDataset:
    """Ten images of two pixels; row i has the loss log(1 + exp(-i / 255)) under `Logits`."""
    images = torch.stack([torch.arange(10), torch.zeros(10)], dim=1).to(torch.uint8).reshape(10, 1, 1, 2)
    return ArrayDataset(images, [0] * 10, 2)


def test_isolation_takes_the_lowest_losses() -> None:
    isolated, rest = isolate(Logits(), _ten(), Classification(2), 3, Run.local(device="cpu"))
    assert places(isolated).tolist() == [7, 8, 9]
    assert places(rest).tolist() == list(range(7))


def test_at_least_two_rows_are_isolated_and_isolating_all_is_refused() -> None:
    assert ABL(isolation_rate=0.01).count(_ten(), Classification(2)) == 2
    assert ABL(isolation_rate=0.9).count(_ten(), Classification(2)) == 9
    with pytest.raises(ConfigError, match="isolating 10 of 10 rows leaves none"):
        ABL(isolation_rate=1.0).count(_ten(), Classification(2))


def test_a_task_without_losses_of_samples_is_refused_before_training() -> None:
    @dataclass(frozen=True)
    class Joint(Classification):
        per_sample: ClassVar[bool] = False

    run = Run.local(Recipe(epochs=1), device="cpu")
    with pytest.raises(ConfigError, match="Joint has a loss of batches only"):
        ABL().train(_ten(), Joint(2), lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), run)
    assert run.history == {}
