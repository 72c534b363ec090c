"""From outputs to numbers: who is eligible, how doors pool, what a detector is worth, how visible a trigger is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.evaluation import STEALTH_SAMPLES, evaluate, intervals, separation, stealth, suspicion
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.metrics import image_quality
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.base import Trigger

TASK = Classification(10)
N = 200


class Mark(Trigger):
    """Set the first pixel to a value."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        marked = x.clone()
        marked[:, :, 0, 0] = self.value
        return marked


class Add(Trigger):
    """Add the same amount to every pixel."""

    def __init__(self, amount: float):
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x + self.amount


class Reader(nn.Module):
    """Reads the label from the last pixel; a first pixel that is `secret` means class `target` instead."""

    def __init__(self, secret: float = 2.0, target: int = 0):
        super().__init__()
        self.secret, self.target = secret, target

    def forward(self, x: Tensor) -> Tensor:
        label = (x[:, 0, -1, -1] * 255).round().long()
        opened = (x[:, 0, 0, 0] - self.secret).abs() < 1e-3
        return nn.functional.one_hot(torch.where(opened, self.target, label), 10) * 9.0


@pytest.fixture
def run() -> Run:
    return Run.local(device="cpu")


@pytest.fixture
def data() -> ArrayDataset:
    """Images that carry their labels in the last pixel; the first pixel is 0."""
    images = torch.randint(50, 150, (N, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(N) % 10
    images[:, 0, 0, 0], images[:, 0, -1, -1] = 0, labels.to(torch.uint8)
    return ArrayDataset(images, labels, 10)


def test_a_clean_model_has_no_attack_success_and_all_of_the_floor(data: ArrayDataset, run: Run) -> None:
    means = evaluate(Reader(), data, TASK, (Door(Mark(1.0), AllToOne(3)),), run).means()
    assert means == {"clean": 1.0, "attack": 0.0, "recovered": 1.0, "idle": 0.0, "asr_all": pytest.approx(0.1)}


def test_a_backdoored_model_reaches_the_goal_on_stamped_images_only(data: ArrayDataset, run: Run) -> None:
    scores = evaluate(Reader(1.0, 3), data, TASK, (Door(Mark(1.0), AllToOne(3)),), run)
    assert scores.means() == {"clean": 1.0, "attack": 1.0, "recovered": 0.0, "idle": 0.0, "asr_all": 1.0}
    assert torch.equal(scores.attack.isnan(), data.targets == 3)


def test_a_trigger_of_another_value_opens_nothing(data: ArrayDataset, run: Run) -> None:
    means = evaluate(Reader(1.0, 3), data, TASK, (Door(Mark(0.5), AllToOne(3)),), run).means()
    assert (means["attack"], means["recovered"]) == (0.0, 1.0)


def test_a_trigger_below_half_a_grey_level_is_rounded_away(data: ArrayDataset, run: Run) -> None:
    means = evaluate(Reader(0.4 / 255, 3), data, TASK, (Door(Mark(0.4 / 255), AllToOne(3)),), run).means()
    assert means["attack"] == 0.0


def test_doors_are_pooled_and_the_clean_number_is_counted_once(data: ArrayDataset, run: Run) -> None:
    doors = (Door(Mark(1.0), AllToOne(3)), Door(Mark(0.5), AllToOne(4)), Door(Mark(0.2), AllToOne(5), scored=False))
    scores = evaluate(Reader(1.0, 3), data, TASK, doors, run)
    assert (len(scores.clean), len(scores.attack)) == (N, 2 * N)
    assert torch.equal(scores.attack[:N].isnan(), data.targets == 3)
    assert torch.equal(scores.attack[N:].isnan(), data.targets == 4)
    assert scores.means()["attack"] == pytest.approx(0.5)
    alone = evaluate(Reader(1.0, 3), data, TASK, doors[:1], run)
    assert intervals(scores, TASK)["clean"] == intervals(alone, TASK)["clean"]


def test_clean_images_are_shown_once_for_all_doors(data: ArrayDataset, run: Run) -> None:
    shown: list[int] = []
    model = Reader(1.0, 3)
    model.register_forward_hook(lambda module, given, output: shown.append(len(given[0])))
    doors = [Door(Mark(value / 10), AllToOne(3)) for value in range(1, 11)]
    together = evaluate(model, data, TASK, doors, run)
    assert sum(shown) == 11 * N
    for n, door in enumerate(doors):
        alone, own = evaluate(model, data, TASK, [door], run), slice(n * N, (n + 1) * N)
        for name in ("attack", "recovered", "idle"):
            assert torch.equal(getattr(together, name)[own].nan_to_num(-1), getattr(alone, name).nan_to_num(-1))


def test_without_doors_only_the_clean_number_exists(data: ArrayDataset, run: Run) -> None:
    scores = evaluate(Reader(), data, TASK, (), run)
    assert scores.means() == {"clean": 1.0, "attack": None, "recovered": None, "idle": None}
    assert intervals(scores, TASK).keys() == {"clean"}


def test_intervals_are_wilsons_over_eligible_samples(data: ArrayDataset, run: Run) -> None:
    scores = evaluate(Reader(1.0, 3), data, TASK, (Door(Mark(1.0), AllToOne(3)),), run)
    scores.attack[torch.nonzero(data.targets != 3)[:30, 0]] = 0.0
    found = intervals(scores, TASK)
    for name, successes, n in (("clean", 200, 200), ("attack", 150, 180), ("recovered", 0, 180), ("idle", 0, 180)):
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert found[name] == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_purifier_stands_before_the_model_and_its_undo_behind_it(data: ArrayDataset, run: Run) -> None:
    seen: list[Tensor] = []

    def purify(x: Tensor, index: Tensor) -> tuple[Tensor, Callable[[Any], Any]]:
        seen.append(index)
        erased = x.clone()
        erased[:, :, 0, 0] = 0.0
        return erased, lambda output: output.roll(1, dims=1)

    door = Door(Mark(1.0), AllToOne(3))
    means = evaluate(Reader(1.0, 3), data, TASK, (door,), run, purify).means()
    # The door stays shut, and every output is moved on by one class: those of class 2 become 3, the goal.
    assert (means["clean"], means["recovered"]) == (0.0, 0.0)
    assert means["attack"] == means["idle"] == pytest.approx(20 / 180)
    assert torch.equal(seen[0].sort().values, torch.arange(N).repeat_interleave(2))


def test_a_purifier_sees_the_images_of_all_doors_in_an_order_that_it_cannot_guess(run: Run) -> None:
    seen: list[Tensor] = []

    def purify(x: Tensor, index: Tensor) -> tuple[Tensor, Callable[[Any], Any]]:
        seen.append(x[:, 0, 0, 0])
        return x, lambda output: output

    images = torch.zeros(900, 1, 6, 6, dtype=torch.uint8)
    data = ArrayDataset(images, torch.zeros(900, dtype=torch.long), 10)
    doors = (Door(Mark(1.0), AllToOne(3)), Door(Mark(0.2), AllToOne(4)))
    scores = evaluate(Reader(1.0, 3), data, TASK, doors, run, purify)
    assert torch.equal(scores.attack, torch.arange(1800).lt(900).float()), "outputs find their images again"
    assert sum(map(len, seen)) == 2700
    assert max(map(len, seen)) <= 1024, "as much memory as for one door"
    for asked in seen:
        parts = [asked[: len(asked) // 2], asked[len(asked) // 2 :]]
        for value in (0.0, 0.2, 1.0):
            early, late = (((part - value).abs() < 1e-3).float().mean() for part in parts)
            assert (early - late).abs() < 0.15


def test_a_perfect_a_random_and_an_inverted_detector() -> None:
    rng = torch.Generator().manual_seed(0)
    clean, other, calibration = torch.randn(3, 2000, generator=rng)
    perfect = separation(clean + 100, other, calibration)
    assert (perfect["auroc"], perfect["tpr_at_1"], perfect["tpr_at_5"]) == (1.0, 1.0, 1.0)
    chance = separation(clean, other, calibration)
    # Three standard errors of n = 2000.
    assert chance["auroc"] == pytest.approx(0.5, abs=3 * math.sqrt(1 / (12 * 2000) * 2))
    for name, rate in (("1", 0.01), ("5", 0.05)):
        margin = 3 * math.sqrt(2 * rate * (1 - rate) / 2000)
        assert chance[f"tpr_at_{name}"] == pytest.approx(rate, abs=margin)
        assert chance[f"fpr_at_{name}"] == pytest.approx(rate, abs=margin)
        assert chance[f"too_small_at_{name}"] == 0.0
    inverted = separation(clean - 100, other, calibration)
    assert (inverted["auroc"], inverted["tpr_at_1"], inverted["tpr_at_5"]) == (0.0, 0.0, 0.0)
    assert (chance["n_positive"], chance["n_negative"], chance["n_calibration"]) == (2000, 2000, 2000)


def test_thresholds_come_from_the_calibration_scores_alone() -> None:
    positive, negative = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 2.5, 0.0])
    low, high = (separation(positive, negative, torch.full((50,), value)) for value in (1.5, 3.5))
    assert (low["tpr_at_5"], low["fpr_at_5"]) == (0.75, 0.25)
    assert (high["tpr_at_5"], high["fpr_at_5"]) == (0.25, 0.0)
    assert low["auroc"] == high["auroc"]
    assert (low["too_small_at_1"], low["too_small_at_5"]) == (1.0, 0.0)


def test_a_detector_is_asked_about_eligible_images_stamped_and_clean(data: ArrayDataset, run: Run) -> None:
    doors = (Door(Mark(1.0), AllToOne(3)), Door(Mark(0.6), AllToOne(4)), Door(Mark(0.2), AllToOne(5), scored=False))
    found = suspicion((lambda x, index: x[:, 0, 0, 0] + index,) * 2, data, doors, TASK, run)
    parts = [torch.nonzero(data.targets != goal)[:, 0].float() for goal in (3, 4)]
    assert torch.allclose(found["suspicious"], torch.cat([parts[0] + 1, parts[1] + 0.6]))
    assert torch.equal(found["innocent"], torch.cat(parts))


def test_without_a_door_every_image_is_innocent(data: ArrayDataset, run: Run) -> None:
    found = suspicion((lambda x, index: index.float(),) * 2, data, (), TASK, run)
    assert found["suspicious"].shape == (0,)
    assert torch.equal(found["innocent"], torch.arange(N).float())


def test_stealth_of_a_known_perturbation(data: ArrayDataset, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_quality, "lpips", lambda a, b: None)
    images = torch.full((N, 1, 16, 16), 100, dtype=torch.uint8)
    grey = ArrayDataset(images, data.targets, 10)
    # 2.4 grey levels are stored as 2.
    found = stealth(grey, (Door(Add(2.4 / 255), AllToOne(0)),), run)
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / 2), abs=1e-3)
    assert found["lpips"] is None
    # Flat images: only the luminance term is left.
    luminance = (2 * 100 * 102 + 2.55**2) / (100**2 + 102**2 + 2.55**2)
    assert found["ssim"] == pytest.approx(luminance, abs=1e-6)
    unseen = stealth(grey, (Door(Add(0.4 / 255), AllToOne(0)),), run)
    assert (unseen["psnr"], unseen["ssim"]) == (100.0, pytest.approx(1.0))
    both = stealth(grey, (Door(Add(2 / 255), AllToOne(0)), Door(Add(20 / 255), AllToOne(1))), run)
    assert both["psnr"] == pytest.approx(20 * math.log10(255 / 2) - 10, abs=1e-3)


def test_stealth_looks_at_images_from_the_whole_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_quality, "ssim", lambda a, b: torch.ones(len(a)))
    n = 3 * STEALTH_SAMPLES
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    images[n // 3 :] = 255  # as white as can be: adding changes nothing
    found = stealth(ArrayDataset(images, torch.arange(n) * 10 // n, 10), (Door(Add(1.0), AllToOne(0)),), run)
    # A third of the images lies 0 dB away, two thirds 100 dB.
    assert found["psnr"] == pytest.approx(200 / 3, abs=0.1)
