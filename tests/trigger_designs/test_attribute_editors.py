"""Editors of attributes: what each changes in a picture whose attribute is known, and BAAT, which takes them all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.attacks.poisoning.baat import BAAT
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.attacks.poisoning.label_consistent import LabelConsistent
from sidedoor.attacks.strategies.clean_label import CleanLabel
from sidedoor.backdoor.base import AttackerRun
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.bench.spec import Spec
from sidedoor.data.base import ArrayDataset
from sidedoor.data.pictures import picture
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.registry import make
from sidedoor.tasks.classification import Classification
from sidedoor.trigger_designs.base import AttributeEditor, Setting
from sidedoor.trigger_designs.color_shift import ColorShift
from sidedoor.trigger_designs.gaussian import Gaussian
from sidedoor.trigger_designs.instagram import Instagram
from sidedoor.trigger_designs.sepia import Sepia
from sidedoor.trigger_designs.slant_thickness import SlantThickness
from sidedoor.trigger_designs.style_statistics import StyleStatistics
from sidedoor.triggers.style import Style

TASK, RUN = Classification(4), AttackerRun.local(device="cpu")
EDITORS = [name for name in (entry.name for entry in registry.entries() if entry.kind == "trigger_design")
           if issubclass(registry.load("trigger_design", name), AttributeEditor)]


def data(channels: int = 3) -> ArrayDataset:
    images = torch.randint(60, 196, (40, channels, 16, 16), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))
    return ArrayDataset(images, np.arange(40) % 4, 4)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4))


def edited(editor: AttributeEditor, x: Tensor) -> Tensor:
    made: Tensor = editor.make(Setting(data(x.shape[1]), TASK, AllToOne(0), nn.Identity, RUN))(x, torch.arange(len(x)))
    return made


def bar(width: int = 1, size: int = 21) -> Tensor:
    """A light vertical stroke on black."""
    x = torch.zeros(1, 1, size, size)
    x[..., 3:-3, 10 : 10 + width] = 1
    return x


def test_a_slanted_stroke_leans_to_the_right_by_its_angle() -> None:
    leaning = edited(SlantThickness(slant=30, thickness=0), bar())[0, 0]
    columns = torch.arange(21.0)
    rows = torch.arange(3, 18)
    middle = (leaning[rows] * columns).sum(1) / leaning[rows].sum(1)
    expected = 10 + math.tan(math.radians(30)) * (10 - rows)
    assert (middle - expected).abs().max() < 1e-3
    mirrored = edited(SlantThickness(slant=-30, thickness=0), bar())[0, 0]
    assert torch.allclose(mirrored, leaning.flip(1), atol=1e-5)


@pytest.mark.parametrize(("thickness", "width"), [(1, 4), (2, 5), (3, 6), (-1, 2), (-2, 1)])
@pytest.mark.parametrize("dark", [False, True])
def test_a_stroke_gets_wider_by_whole_pixels_whatever_is_darker(thickness: int, width: int, dark: bool) -> None:
    x = 1 - bar(3) if dark else bar(3)
    found = edited(SlantThickness(slant=0, thickness=thickness), x)
    stroke = (1 - found if dark else found)[0, 0, 10]
    assert stroke.sum() == width
    assert set(stroke.tolist()) == {0.0, 1.0}


def test_an_edit_of_no_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is edited"):
        SlantThickness(slant=0, thickness=0)
    with pytest.raises(ConfigError, match="between -60 and 60"):
        SlantThickness(slant=90)


def test_sepia_is_brown_and_of_the_image_in_no_colour_but_its_brightness() -> None:
    white, blue = torch.ones(1, 3, 4, 4) / 2, torch.zeros(1, 3, 4, 4)
    blue[:, 2] = 1
    assert torch.allclose(edited(Sepia(1.0), white)[0, :, 0, 0], torch.tensor([1.351, 1.203, 0.937]) / 2)
    tones = torch.stack([edited(Sepia(1.0), x)[0, :, 0, 0] for x in (white, blue)])
    assert torch.allclose(tones[0] / tones[0].sum(), tones[1] / tones[1].sum(), atol=1e-3)
    assert torch.allclose(edited(Sepia(0.25), blue), 0.75 * blue + 0.25 * edited(Sepia(1.0), blue))


def test_style_statistics_are_those_of_the_picture() -> None:
    x = data().fetch(torch.arange(4)).x
    styled = edited(StyleStatistics("text:style", 1.0), x)
    assert torch.allclose(styled.mean((2, 3)), picture("text:style", (3, 16, 16)).mean((1, 2)).expand(4, -1), atol=1e-4)
    assert torch.equal(edited(StyleStatistics("bug", 0.0), x), x)


def test_there_are_editors_of_style_hue_and_strokes() -> None:
    assert set(EDITORS) >= {"style_statistics", "color_shift", "instagram", "sepia", "slant_thickness"}


@pytest.mark.parametrize("name", EDITORS)
def test_baat_edits_the_target_class_with_any_editor_and_keeps_labels(name: str) -> None:
    train, attack = data(), make("attack", {"name": "baat", "rate": 0.5, "editor": name, "goal": {
        "name": "all_to_one", "target_class": 2}})
    backdoor = attack.plan(train, TASK, nn.Identity, RUN)
    poisoned = PoisonedDataset(train, backdoor, TASK)
    changed = (poisoned.fetch(torch.arange(40)).x != train.fetch(torch.arange(40)).x).flatten(1).any(1)
    assert torch.equal(torch.nonzero(changed)[:, 0], backdoor.poison.index)
    assert len(backdoor.poison.index) == 5
    assert (train.targets[changed] == 2).all()
    assert torch.equal(poisoned.targets, train.targets)


def test_baat_without_an_editor_is_what_it_was() -> None:
    x = data().fetch(torch.arange(4)).x
    trigger = BAAT(style="text:style", strength=0.4).plan(data(), TASK, nn.Identity, RUN).doors[0].trigger
    expected = Style(picture("text:style", (3, 16, 16)), 0.4)
    assert torch.equal(trigger(x, torch.arange(4)), expected(x, torch.arange(4)))

    def key(**given: Any) -> str:
        return Spec(data="toy", model="small_cnn", attack={"name": "baat", **given}).key("f")

    # The key of the attack as it was before there were editors.
    assert key() == "282356144e5c2bff"
    assert len({key(), key(editor="sepia"), key(editor={"name": "sepia", "amount": 0.5})}) == 3


def test_a_design_that_edits_no_attribute_is_refused() -> None:
    with pytest.raises(ConfigError, match="edits no attribute"):
        BAAT(editor=Gaussian())
    assert BAAT(editor=ColorShift(hue=0.3)) != BAAT(editor=Instagram())


def test_a_clean_label_control_has_the_trigger_of_the_other_attack_and_true_labels() -> None:
    train = data(1)
    control, patch = (attack.plan(train, TASK, nn.Identity, RUN)
                      for attack in (CleanLabel(AllToOne(3), BadNets(), rate=0.3), BadNets(AllToOne(3))))
    x = train.fetch(torch.arange(4)).x
    assert torch.equal(control.doors[0].trigger(x, torch.arange(4)), patch.doors[0].trigger(x, torch.arange(4)))
    assert len(control.poison.index) == 3
    assert (train.targets[control.poison.index] == 3).all()
    assert torch.equal(PoisonedDataset(train, control, TASK).targets, train.targets)


def test_a_control_of_an_attack_that_crafts_its_images_is_refused() -> None:
    attack = CleanLabel(AllToOne(3), LabelConsistent(iterations=1))
    with pytest.raises(ConfigError, match="give one that stamps a trigger"):
        attack.plan(data(1), TASK, linear, AttackerRun.local(Recipe(epochs=1), device="cpu"))
