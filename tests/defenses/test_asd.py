"""ASD: the pool grows as published, and the copy that looks ahead leaves the model alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.splits import symmetric_losses
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.defenses.training.asd import ASD, first_of_each
from sidedoor.models.base import head_names
from sidedoor.models.small_cnn import small_cnn
from sidedoor.testing.ground import CLASSES, equal_states, ground, sealed

HERE = ground(1)
TRAIN = sealed(HERE.poisoned())


def build() -> nn.Module:
    return small_cnn(CLASSES, (1, 16, 16), 8)


@pytest.mark.parametrize(("number", "count"), [(0, 0), (4, 0), (5, 2), (9, 2), (10, 4), (59, 22)])
def test_the_pool_grows_class_by_class_every_five_of_120_rounds(number: int, count: int) -> None:
    model = HERE.run.build(build)
    flags = ASD(growth=2).pool(model, TRAIN, number, HERE.task, HERE.run)
    assert torch.bincount(TRAIN.targets[flags], minlength=CLASSES).tolist() == [count] * CLASSES


def test_then_half_of_all_rows_is_trusted_by_their_losses() -> None:
    model = HERE.run.build(build)
    losses = symmetric_losses(model, TRAIN, HERE.run)
    for number in (60, 89):
        flags = ASD().pool(model, TRAIN, number, HERE.task, HERE.run)
        assert flags.sum() == len(TRAIN) // 2
        assert losses[flags].max() <= losses[~flags].min()


def test_in_the_end_the_half_whose_loss_falls_least_while_a_copy_learns() -> None:
    run, method = replace(HERE.run, history={}), ASD()
    model = run.build(build).train()
    states = [{name: value.clone() for name, value in model.state_dict().items()}]
    flags = method.pool(model, TRAIN, 90, HERE.task, run)
    assert all(torch.equal(value, states[0][name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert list(run.history) == ["ahead 90"]
    assert flags.sum() == len(TRAIN) // 2

    ahead = method._ahead(model, TRAIN, 90, HERE.task, run)
    fall = symmetric_losses(model, TRAIN, run) - symmetric_losses(ahead, TRAIN, run)
    assert fall.mean() > 0  # the premise: it learned
    assert fall[flags].max() <= fall[~flags].min()
    weights = [name for name, _ in model.named_parameters()]
    changed = [name for name in weights if not torch.equal(ahead.state_dict()[name], states[0][name])]
    assert changed == weights[-(len(weights) // 3) :]
    assert head_names(model, model) <= set(changed)


def test_seeds_are_the_first_clean_samples_of_each_class() -> None:
    y = torch.tensor([1, 0, 1, 1, 3, 0, 0])
    assert first_of_each(y, 2).tolist() == [0, 1, 2, 4, 5]


def test_labels_of_the_seeds_count() -> None:
    """In the first rounds they are all that MixMatch trusts."""
    method = ASD(rounds=2, steps=4, growth=0, batch=50)

    def trained(shift: int) -> nn.Module:
        given = relabelled(HERE.clean, (HERE.clean.targets + shift) % CLASSES)
        return method.train(TRAIN, given, HERE.task, build, HERE.run)

    assert equal_states([trained(0), trained(0)])
    assert not equal_states([trained(0), trained(1)])


def relabelled(data: Dataset, targets: Tensor) -> Dataset:
    return ArrayDataset(data.rows(torch.arange(len(data))), targets, CLASSES)
