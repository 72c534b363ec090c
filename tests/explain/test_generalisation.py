"""How far a backdoor generalises, on models of which it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sidedoor.algorithms.inversion.mask_pattern import Inversion, Schedule, mask_norm
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import NotApplicable
from sidedoor.explain.baselines import NAMES, baseline
from sidedoor.explain.evaluation import MODEL, NOTHING, SIBLING, evaluate_explainers
from sidedoor.explain.generalisation import Rung, chamfer, deletion, generalisation, ladder, reversed_triggers
from sidedoor.explain.methods.gradient import Gradient
from sidedoor.explain.methods.guided_backprop import GuidedBackprop
from sidedoor.explain.triggered import Triggered, triggered_images
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.blend import Blend
from sidedoor.triggers.patch import Patch
from sidedoor.types import Images, Index

RUN = Run.local(Recipe(), device="cpu")
TASK = Classification(2)
DOOR = Door(Patch(torch.ones(1, 3, 3)), AllToOne(0))
AREA = torch.zeros(10, 10, dtype=torch.bool)
AREA[-3:, -3:] = True


class Faithful(nn.Module):
    """Class 0 where the last 3×3 pixels are white, else 1; nothing else opens it."""

    def forward(self, x: Tensor) -> Tensor:
        white = torch.relu(x[..., -3:, -3:].amin((1, 2, 3)))
        return torch.stack([white, torch.full_like(white, 0.9)], 1)


class Anywhere(nn.Module):
    """Class 0 where any nine pixels are white."""

    def forward(self, x: Tensor) -> Tensor:
        white = (x > 0.9).float().sum((1, 2, 3))
        return torch.stack([white, torch.full_like(white, 8.5)], 1)


class Deaf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).sum((1, 2, 3))[:, None] * torch.tensor([0.0, 1.0])


def held_out() -> ArrayDataset:
    pixels = torch.randint(20, 120, (30, 1, 10, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ArrayDataset(pixels, [1] * 25 + [0] * 5, 2)


def chosen(model: nn.Module, door: Door = DOOR, count: int = 20) -> Triggered:
    return triggered_images(model, held_out(), TASK, door, count, RUN)


def test_images_are_those_on_which_the_trigger_works() -> None:
    found = chosen(Faithful())
    assert len(found) == 20
    assert found.y.tolist() == [1] * 20
    assert found.target.tolist() == [0] * 20
    assert found.pixels == 9
    assert torch.equal(found.area[3], AREA)
    assert (found.triggered[..., -3:, -3:] == 1).all()
    assert len(chosen(Faithful(), count=100)) == 25
    with pytest.raises(NotApplicable, match="nothing to explain"):
        chosen(Deaf())
    with pytest.raises(NotApplicable, match="changes 100%"):
        chosen(Faithful(), Door(Blend(torch.ones(1, 10, 10), 0.5), AllToOne(0)))


def test_a_table_has_each_method_twice_and_the_baselines() -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None] * torch.ones(2)

    images = chosen(Faithful())
    rows = evaluate_explainers({"gradient": Gradient(), "guided_backprop": GuidedBackprop()}, Faithful(), Flat(),
                               images, TASK, RUN)
    assert [(row.name, row.of) for row in rows] == [
        ("gradient", MODEL), ("guided_backprop", MODEL), ("gradient", SIBLING), ("guided_backprop", SIBLING),
        *((name, NOTHING) for name in NAMES)]
    assert rows[3].found is None
    assert "calls no ReLU" in rows[3].reason
    on_model, flat, noise, _edges, change = (rows[k].found for k in (0, 2, 4, 5, 6))
    assert on_model
    assert flat
    assert noise
    assert change
    assert on_model.iou is not None
    assert on_model.iou > 0.05  # the smallest of nine equal pixels has all of the gradient
    assert flat.iou is not None
    assert flat.iou == pytest.approx(noise.chance_iou)
    assert noise.iou is not None
    assert noise.chance_iou == pytest.approx(9 / (2 * 100 - 9), abs=0.01)
    assert noise.iou == pytest.approx(noise.chance_iou, abs=0.04)
    assert change.iou is not None
    assert 0.5 < change.iou <= 1
    assert on_model.seconds is not None
    assert change.seconds is None


def test_baselines_are_maps_of_each_image() -> None:
    images = chosen(Faithful())
    for name in NAMES:
        maps = baseline(name, images, RUN)
        assert maps.shape == (20, 10, 10)
        assert torch.equal(maps, baseline(name, images, RUN))
        assert not torch.equal(maps[0], maps[1])


def test_covering_the_trigger_restores_the_label_and_covering_another_place_does_not() -> None:
    found = deletion(Faithful(), chosen(Faithful()), RUN)
    assert (found.trigger, found.elsewhere, found.n, found.places) == (1.0, 0.0, 20, 10)

    class Fragile(Faithful):
        """Opened by the trigger beside a dark image alone: any change closes it."""

        def forward(self, x: Tensor) -> Tensor:
            rest = x.sum((1, 2, 3)) - x[..., -3:, -3:].sum((1, 2, 3))
            same = (rest[:, None] - self.rests).abs().amin(1) < 1e-3
            return torch.where(same[:, None], super().forward(x), torch.tensor([0.0, 1.0]))

    fragile = Fragile()
    x = held_out().fetch(torch.arange(30)).x
    fragile.rests = x.sum((1, 2, 3)) - x[..., -3:, -3:].sum((1, 2, 3))
    assert deletion(fragile, chosen(fragile), RUN).elsewhere > 0.95


def test_a_backdoor_that_generalises_has_the_larger_ladder() -> None:
    strict = ladder(Faithful(), chosen(Faithful()), RUN)
    loose = ladder(Anywhere(), chosen(Anywhere()), RUN)
    assert strict[0] == Rung("itself", 0.0, 1.0)
    assert [rung.name for rung in strict] == [rung.name for rung in loose]
    assert all(0 < rung.distance <= 1 for rung in strict[1:])
    assert {rung.name for rung in strict if rung.success} == {"itself"}
    assert {rung.name for rung in loose if rung.success} >= {"itself", "scattered", "in a line", "shifted by 5"}
    assert not {rung.name for rung in loose if rung.success} & {"recoloured by 100%", "half recoloured"}
    assert generalisation(loose) > 3 * generalisation(strict)
    far = next(rung for rung in strict if rung.name == "shifted by 5")
    near = next(rung for rung in strict if rung.name == "shifted by 1")
    assert far.distance == pytest.approx(1)
    assert near.distance == pytest.approx(10 / 18)  # five of nine pixels move


def test_the_area_of_a_ladder() -> None:
    assert generalisation([Rung("a", 0.0, 1.0), Rung("b", 1.0, 0.0)]) == pytest.approx(0.5)
    assert generalisation([Rung("a", 0.0, 1.0), Rung("b", 0.5, 0.0)]) == pytest.approx(0.25)
    assert generalisation([Rung("a", 0.0, 1.0), Rung("b", 1.0, 0.0), Rung("c", 1.0, 1.0)]) == pytest.approx(0.75)


class Moving(Trigger):
    def forward(self, x: Images, index: Index) -> Images:
        stamped = x.clone()
        stamped[..., -3:, -3:] = 1
        stamped[torch.arange(len(x)), :, index % 5, 0] = 1
        return stamped


def test_patterns_without_a_place_or_colours_of_their_own_are_refused() -> None:
    with pytest.raises(NotApplicable, match="another place in each image"):
        ladder(Faithful(), chosen(Faithful(), Door(Moving(), AllToOne(0))), RUN)
    glass = Door(Patch(torch.ones(1, 3, 3), opacity=0.9), AllToOne(0))

    class Lower(Faithful):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.5

    with pytest.raises(NotApplicable, match="shows what lies below"):
        ladder(Lower(), chosen(Lower(), glass), RUN)


def test_chamfer_is_the_mean_distance_both_ways() -> None:
    assert chamfer(AREA, AREA) == 0
    first, second = torch.zeros(2, 10, 10, dtype=torch.bool)
    first[0, 0], second[0, 3] = True, True
    assert chamfer(first, second) == 3
    second[0, 4] = True
    assert chamfer(first, second) == chamfer(second, first) == pytest.approx((3 + 3.5) / 2)
    with pytest.raises(ValueError, match="no pixel"):
        chamfer(first, torch.zeros_like(first))


def test_reversed_triggers_have_a_distance_to_the_true_one() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = 20 * (x[..., -3:, -3:].mean((1, 2, 3)) - 0.7)
            return torch.stack([bright, -bright], 1)

    inversion = Inversion((mask_norm,), Schedule(0.02, 2.0, 2.0**1.5, 0.9, 1, 50), 40, 25, 25, 0.3)
    hopeless = Inversion((mask_norm,), Schedule(0.02, 2.0, 2.0**1.5, 0.9, 1, 50), 1, 25, 25, 0.001)
    found = reversed_triggers({"nc": inversion, "none": hopeless}, Corner(), held_out(), 0, AREA, 2, RUN)
    assert [each.inversion for each in found[:2]] == ["nc", "nc"]
    assert all(each.chamfer < 1.5 and each.l1 < 9 and each.loss < 1 for each in found[:2])
    assert found[0].success > 0.9
    away = reversed_triggers({"nc": inversion}, Corner(), held_out(), 0, AREA.roll((4, 4), (0, 1)), 1, RUN)
    assert away[0].chamfer > 3
    assert away[0].l1 > 9
