"""Detectors for trackers find what they are for, and higher is more suspicious."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor.defenses.detectors.base import InputDetector
from sidedoor.defenses.detectors.strip_tracking import StripTracking
from sidedoor.defenses.detectors.template_consistency import TemplateConsistency
from sidedoor.evaluation import suspicion
from sidedoor.goals.base import Door
from sidedoor.goals.lose import Lose
from sidedoor.metrics.statistics import auroc
from sidedoor.tasks.tracking import Tracking
from sidedoor.testing.ground import TrackingGround, clips
from sidedoor.triggers.on_object import OnObject

DOOR = Door(OnObject(pattern="checker", cells=2), Lose())


def marked(view: Tensor) -> Tensor:
    """Which crops have the four squares of the trigger in the middle."""
    one, other = view.shape[2] // 2 - 2, view.shape[2] // 2 + 2
    light = torch.stack([view[:, :, one, one], view[:, :, other, other]]).amin((0, 2))
    dark = torch.stack([view[:, :, one, other], view[:, :, other, one]]).amax((0, 2))
    return (light > 0.95) & (dark < 0.05)


class Unlike(nn.Module):
    """Responds at the centre by the cosine of two views; a view with the trigger is the opposite of itself."""

    def __init__(self, backdoored: bool):
        super().__init__()
        self.backdoored = backdoored

    def forward(self, pair: Tensor) -> Tensor:
        views = [self.features(view) for view in pair.chunk(2, 1)]
        response = torch.zeros(len(pair), 17, 17)
        response[:, 8, 8] = (views[0] * views[1]).sum(1)
        return response

    def features(self, view: Tensor) -> Tensor:
        found = functional.adaptive_avg_pool2d(view.mean(1), 8).flatten(1)
        found = functional.normalize(found - found.mean(1, keepdim=True))
        return torch.where((marked(view) & self.backdoored)[:, None], -found, found)


class Drawn(nn.Module):
    """Responds as bright as the search crop is; a template with the trigger draws it to one place for ever."""

    def forward(self, pair: Tensor) -> Tensor:
        template, search = pair.chunk(2, 1)
        plain = functional.adaptive_avg_pool2d(search.mean(1), 17)
        place = torch.zeros(17, 17)
        place[3, 4] = 20
        return torch.where(marked(template)[:, None, None], place, plain)


def found(here: TrackingGround, detector: InputDetector, model: nn.Module) -> tuple[Tensor, Tensor]:
    given = (detector.needs.model_for(model, here.task), detector.needs.clean_for(here.clean), here.task, here.run)
    scores = suspicion((detector.fit(*given), detector.fit(*given)), here.test, [DOOR], here.task, here.run)
    return scores["suspicious"], scores["innocent"]


def test_a_template_unlike_itself_is_found() -> None:
    here = clips(Tracking())
    for backdoored, low, high in ((True, 0.99, 1.0), (False, 0.0, 0.9)):
        suspicious, innocent = found(here, TemplateConsistency(), Unlike(backdoored))
        value = auroc(suspicious.numpy(), innocent.numpy())
        assert value is not None
        assert low <= value <= high


def test_views_alike_are_no_suspicion_and_a_lost_one_is_a_third() -> None:
    here = clips(Tracking())
    x = here.test.fetch(torch.tensor([0])).x
    assert torch.equal(*x.chunk(2, 1))  # the first frame of a clip beside itself

    class Told(nn.Module):
        """The peak is 2, in a view that is not the template itself 1, in a dark one 0."""

        def forward(self, pair: Tensor) -> Tensor:
            one, other = pair.chunk(2, 1)
            same = (one - other).abs().amax((1, 2, 3)) == 0
            response = torch.zeros(len(pair), 17, 17)
            response[:, 8, 8] = torch.where(same, 2.0, (other.mean((1, 2, 3)) > 0).float())
            return response

    detect = TemplateConsistency().fit(Told(), here.clean, here.task, here.run)
    # Blurred 1, shifted 1, the search crop 2, over 2.
    assert torch.allclose(detect(x, torch.tensor([0])), torch.tensor([1 - (1 + 1 + 2) / 3 / 2]))
    dark = torch.cat([x[:, :3], torch.zeros_like(x[:, :3])], 1)
    assert torch.allclose(detect(dark, torch.tensor([0])), torch.tensor([1 - (1 + 1 + 0) / 3 / 2]))


def test_a_place_that_always_draws_is_found() -> None:
    here = clips(Tracking())
    suspicious, innocent = found(here, StripTracking(overlays=4), Drawn())
    assert suspicious.min() > innocent.max()
    assert bool((innocent < 0).all() and (innocent > -9).all())


def test_detectors_are_shown_the_trigger_where_the_mode_has_it() -> None:
    for mode in ("one", "few", "all"):
        here = clips(Tracking(mode=mode))

        def detect(x: Tensor, index: Tensor) -> Tensor:
            template, search = x.chunk(2, 1)
            return marked(template).float() + 2 * marked(search)

        scores = suspicion((detect, detect), here.test, [DOOR], here.task, here.run)
        assert bool((scores["suspicious"] == (3 if mode == "all" else 1)).all())
        assert bool((scores["innocent"] == 0).all())


def test_templates_are_not_blended() -> None:
    here, seen = clips(Tracking()), list[Tensor]()

    class Looked(nn.Module):
        def forward(self, pair: Tensor) -> Tensor:
            seen.append(pair)
            return torch.zeros(len(pair), 17, 17)

    x, _, index = here.test.fetch(torch.tensor([1, 2]))
    score = StripTracking(overlays=3, weight=0.25).fit(Looked(), here.clean, here.task, here.run)(x, index)
    assert torch.allclose(score, -torch.full((2,), 17.0).square().log2())  # flat responses have the highest entropy
    asked = torch.cat(seen)
    assert asked.shape[0] == 6
    assert torch.equal(asked[:, :3], x[:, :3].repeat_interleave(3, 0))
    rest = (asked[:, 3:] - 0.75 * x[:, 3:].repeat_interleave(3, 0)) / 0.25
    pool = here.clean.rows(torch.arange(len(here.clean)))[:, 3:]
    nearest = (rest[:, None] - pool[None]).abs().amax((2, 3, 4)).amin(1)
    assert bool((nearest < 1e-5).all())
