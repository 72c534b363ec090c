"""Defences of restoration networks, and what they share with those of classifiers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sidedoor.bench.spec import Refused, Spec
from sidedoor.data.jpeg import compressed
from sidedoor.defenses.detectors.base import Detect
from sidedoor.defenses.detectors.strip_i2i import StripI2I
from sidedoor.defenses.purifiers.bit_depth import BitDepth
from sidedoor.defenses.purifiers.jpeg import Jpeg
from sidedoor.defenses.repair.fine_tuning import FineTuning
from sidedoor.engine import Recipe
from sidedoor.evaluation import evaluate, suspicion
from sidedoor.metrics.image_quality import psnr
from sidedoor.metrics.statistics import auroc
from sidedoor.tasks.restoration import Restoration
from sidedoor.testing.ground import Ground, ImageGround, grounds
from sidedoor.types import Batch

INDEX = torch.arange(4)


def here() -> Ground:
    (place,) = grounds((Restoration,))
    assert isinstance(place, ImageGround)
    return place


def images(channels: int = 3) -> Tensor:
    return torch.rand(4, channels, 24, 16, generator=torch.Generator().manual_seed(0))


def purified(defense: Any, x: Tensor) -> Tensor:
    place = here()
    return defense.fit(place.victim(), place.clean, place.task, place.run)(x, INDEX)[0]  # type: ignore[no-any-return]


def fitted_twice(detector: StripI2I, model: nn.Module) -> tuple[Detect, Detect]:
    place = here()
    return (detector.fit(model, place.clean, place.task, place.run),
            detector.fit(model, place.clean, place.task, place.run))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_so_many_bits_leave_so_many_levels(bits: int) -> None:
    out = purified(BitDepth(bits), images() * 1.2 - 0.1)
    assert len(out.unique()) <= 2**bits
    assert bool((out >= 0).all() and (out <= 1).all())
    assert (out - (images() * 1.2 - 0.1).clamp(0, 1)).abs().max() <= 0.5 / (2**bits - 1) + 1e-6
    assert torch.equal(purified(BitDepth(bits), out), out)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_own_round_trip(channels: int) -> None:
    x = (images(channels) * 255).round() / 255
    ours = purified(Jpeg(60), x)[2]
    pixels = (x[2] * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=60)
    with Image.open(file) as read:
        theirs = np.asarray(read)
    theirs = theirs[None] if channels == 1 else theirs.transpose(2, 0, 1)
    assert np.array_equal((ours * 255).round().numpy().astype(np.uint8), theirs)


def test_lower_quality_costs_more() -> None:
    x = images()
    loss = [psnr(compressed(x, quality), x).mean() for quality in (90, 60, 20)]
    assert loss[0] > loss[1] > loss[2]


def test_superimposing_finds_a_door_that_stays_open() -> None:
    """A white corner survives a sum; without a backdoor triggered inputs look like any other."""
    place = here()
    for model, low, high in ((place.victim(), 0.95, 1.0), (place.build(), 0.2, 0.8)):
        twins = fitted_twice(StripI2I(overlays=16), model)
        found = suspicion(twins, place.test, [place.door()], place.task, place.run)
        value = auroc(found["suspicious"].numpy(), found["innocent"].numpy())
        assert value is not None
        assert low <= value <= high


def test_averaging_closes_that_door_and_turns_the_score_round() -> None:
    place = here()
    twins = fitted_twice(StripI2I(16, 0.5, 0.5), place.victim())
    found = suspicion(twins, place.test, [place.door()], place.task, place.run)
    value = auroc(found["suspicious"].numpy(), found["innocent"].numpy())
    assert value is not None
    assert value < 0.1


def test_fine_tuning_lowers_the_clean_loss_and_leaves_the_model_alone() -> None:
    place = here()
    model = place.victim()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    tuned = FineTuning(epochs=5, lr=3e-3).repair(model, place.clean, place.task, place.run)
    before, after = (evaluate(m, place.test, place.task, [], place.run).columns["distance_clean"].mean()
                     for m in (model, tuned))
    assert after < 0.95 * before
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_fine_tuning_is_for_classifiers_too() -> None:
    classification, restoration, _ = grounds(FineTuning.tasks)
    assert isinstance(restoration, ImageGround)
    place = classification
    tuned = FineTuning(epochs=1).repair(place.victim(), place.clean, place.task, place.run)
    assert evaluate(tuned, place.test, place.task, [], place.run).clean.mean() > 0.9


def test_what_does_not_go_together_is_refused() -> None:
    common: dict[str, Any] = {"data": "photos", "recipe": Recipe(epochs=1)}
    with pytest.raises(Refused, match="defence strip does not work on the task restoration"):
        Spec(model="unet", task="restoration", defense="strip", **common).check()
    with pytest.raises(Refused, match="attack badnets does not work on the task restoration"):
        Spec(model="unet", task="restoration", attack="badnets", **common).check()
    with pytest.raises(Refused, match="model small_cnn is no network for the task restoration"):
        Spec(model="small_cnn", task="restoration", **common).check()
    with pytest.raises(Refused, match="model unet is no network for the task classification"):
        Spec(model="unet", **common).check()


def test_the_ground_has_a_door() -> None:
    place = here()
    scores = evaluate(place.victim(), place.test, place.task, [place.door()], place.run).means()
    assert scores["attack"] is not None
    assert scores["idle"] is not None
    assert scores["attack"] > 0.99
    assert scores["idle"] < 0.5
    assert isinstance(place.test.fetch(INDEX), Batch)
