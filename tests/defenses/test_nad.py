from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from backdoored_digits import Scene
from torch import nn

from sidedoor import registry
from sidedoor.algorithms.features.cut import recorded
from sidedoor.defenses.repair.nad import NAD, Distilled, attention, layers
from sidedoor.errors import NotApplicable
from sidedoor.tasks.task import Supervised
from sidedoor.types import Batch


def batch_of(scene: Scene) -> Batch:
    return scene.clean.fetch(torch.arange(24))


def test_attention_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 0.0], [2.0, -1.0]], [[0.0, 2.0], [1.0, 3.0]]]])
    strength = torch.tensor([[1.0, 4.0, 5.0, 10.0]])
    torch.testing.assert_close(attention(maps, 2.0), strength / strength.norm(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention(7 * maps, 2.0), attention(maps, 2.0), rtol=1e-5, atol=1e-6)


def test_maps_of_one_place_are_refused() -> None:
    with pytest.raises(NotApplicable, match="more than one place"):
        attention(torch.ones(3, 5, 1, 1), 2.0)


def test_the_last_layer_of_each_size_counts(scene: Scene) -> None:
    names = layers(scene.run.frozen(scene.model), scene.clean.shape)
    with recorded(scene.model.eval(), names) as seen:
        scene.model(batch_of(scene).x)
    assert [tuple(seen[name].shape[1:]) for name in names] == [(16, 8, 8), (64, 4, 4)]


def test_a_transformer_has_no_layers_for_it() -> None:
    model = registry.make("model", "vit", classes=4, shape=(3, 16, 16))()
    with pytest.raises(NotApplicable, match="one size"):
        layers(model.eval(), (3, 16, 16))


@pytest.fixture
def pair(scene: Scene) -> tuple[nn.Module, nn.Module, list[str]]:
    """A student, and a teacher with other weights."""
    teacher = copy.deepcopy(scene.sibling).eval()
    return copy.deepcopy(scene.model).eval(), teacher, layers(teacher, scene.clean.shape)


def test_without_weight_it_is_fine_tuning_and_with_it_gradients_reach_the_features(
        scene: Scene, pair: tuple[nn.Module, nn.Module, list[str]]) -> None:
    student, teacher, names = pair
    batch, parameters = batch_of(scene), list(student.parameters())
    plain = Supervised(scene.task).losses(student, batch)
    none = Distilled(scene.task, teacher, names, [0.0, 0.0], 2.0).losses(student, batch)
    assert torch.equal(plain, none)
    full = Distilled(scene.task, teacher, names, [3.0, 5.0], 2.0).losses(student, batch)
    with recorded(student, names) as own, recorded(teacher, names) as theirs:
        student(batch.x)
        teacher(batch.x)
    gaps = [(attention(own[name], 2.0) - attention(theirs[name], 2.0)).square().mean() for name in names]
    torch.testing.assert_close(full - plain, (3 * gaps[0] + 5 * gaps[1])[None], rtol=1e-3, atol=1e-6)
    gradients = torch.autograd.grad((full - plain).sum(), parameters, allow_unused=True)
    assert max(g.abs().max() for g in gradients if g is not None) > 1e-4
    assert Distilled(scene.task, teacher, names, [3.0, 5.0], 2.0).state_dict() == {}


def test_a_student_comes_to_look_where_its_teacher_does(scene: Scene,
                                                        pair: tuple[nn.Module, nn.Module, list[str]]) -> None:
    student, teacher, names = pair
    batch = batch_of(scene)

    def gap(model: nn.Module) -> float:
        with torch.no_grad(), recorded(model, names) as own, recorded(teacher, names) as theirs:
            model(batch.x)
            teacher(batch.x)
        return sum((attention(own[n], 2.0) - attention(theirs[n], 2.0)).square().mean().item() for n in names)

    recipe = replace(scene.run.recipe, epochs=4, batch=50, lr=0.01, schedule="constant", weight_decay=0.0)
    after = []
    for beta in (0.0, 50.0):
        objective = Distilled(scene.task, teacher, names, [beta, beta], 2.0)
        after.append(gap(scene.run.fit(copy.deepcopy(student), scene.clean, objective, name="student", recipe=recipe)))
    assert after[1] < 0.7 * after[0]


def test_a_student_begins_as_the_model_and_not_as_its_teacher(scene: Scene) -> None:
    repaired = NAD(teacher_steps=8, first_steps=1, steps=1, lr=1e-12).repair(scene.model, scene.clean, scene.task,
                                                                             scene.run)
    for name, parameter in scene.model.named_parameters():
        torch.testing.assert_close(dict(repaired.named_parameters())[name], parameter, msg=name)
