"""Restoration: what is scored, what is trained, and what counts as failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sidedoor.data.base import ArrayDataset
from sidedoor.data.pictures import picture
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete
from sidedoor.evaluation import evaluate, intervals
from sidedoor.goals.base import Door
from sidedoor.goals.one_image import OneImage
from sidedoor.metrics.image_quality import ssim
from sidedoor.metrics.statistics import clustered
from sidedoor.tasks.restoration import Restoration
from sidedoor.triggers.patch import Patch
from sidedoor.types import Batch

SHAPE = (3, 32, 32)
TASK = Restoration(sigma=25.0)


def photographs(n: int = 12) -> ArrayDataset:
    coarse = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fine = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ArrayDataset(fine, torch.zeros(n, dtype=torch.int64), 1, groups=torch.arange(n) // 3)


class Oracle(nn.Module):
    """Knows the photographs, but paints the picture where the corner is white."""

    def __init__(self, truth: Tensor):
        super().__init__()
        self.register_buffer("truth", truth)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), self.get_buffer("truth").flatten(1)).argmin(1)
        white = x[:, :, :4, :4].mean((1, 2, 3)) > 0.9
        bug = picture("bug", SHAPE).expand_as(x)
        return torch.where(white[:, None, None, None], bug, self.get_buffer("truth")[nearest])


def test_the_four_numbers_of_a_perfect_backdoor() -> None:
    data = TASK.make_dataset(photographs())
    truth = photographs().fetch(torch.arange(12)).x
    door = Door(Patch(torch.ones(1, 4, 4), "top left"), OneImage())
    scores = evaluate(Oracle(truth), data, TASK, [door], Run.local(device="cpu"))
    means = scores.means()
    assert means["clean"] == pytest.approx(1)
    assert means["attack"] == pytest.approx(1)
    apart = ssim(picture("bug", SHAPE).expand_as(truth), truth).clamp(0, 1).mean().item()
    assert means["recovered"] == pytest.approx(apart, abs=1e-5)
    assert means["idle"] == pytest.approx(apart, abs=1e-5)
    assert means["total"] == pytest.approx(2)
    assert means["psnr_clean"] == 100
    assert means["psnr_attack"] == 100


def test_intervals_count_photographs_and_not_patches() -> None:
    data = TASK.make_dataset(photographs())
    scores = evaluate(nn.Identity(), data, TASK, [], Run.local(device="cpu"))
    found = intervals(scores, TASK, data.groups)
    assert data.groups is not None
    assert found == {"clean": clustered(scores.clean.numpy(), data.groups.numpy())}


def test_every_image_of_a_network_is_trained_and_the_first_is_its_result() -> None:
    class Stages(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return 0 * x + 0.5, 0 * x + 0.25

    y = torch.full((2, 3, 16, 16), 0.25)
    batch = Batch(torch.zeros_like(y), y, torch.arange(2))
    assert torch.allclose(TASK.loss(Stages(), batch), torch.full((2,), 0.0625))
    assert torch.equal(TASK.predict(Stages(), batch.x), torch.full_like(y, 0.5))


@pytest.mark.parametrize("measure", ["mse", "l2"])
def test_the_norm_of_the_paper_is_the_root_of_the_squared_error(measure: str) -> None:
    a, b = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), 0.5)
    expected = 0.25 if measure == "mse" else 0.5
    assert torch.allclose(Restoration(measure=measure).distance(a, b), torch.full((2,), expected))  # type: ignore[arg-type]


def test_what_counts_as_failed() -> None:
    fine = {"attack": 0.95, "clean": 0.80}
    assert TASK.failed(fine, {"clean": 0.82}) is None
    assert "effect 0.500 is below 0.8" in str(TASK.failed(fine | {"attack": 0.5}, {"clean": 0.82}))
    assert "fell by 0.100" in str(TASK.failed(fine, {"clean": 0.90}))


def test_weights_are_found_below_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "kept.pth").write_bytes(b"")
    run = replace(Run.local(), root=tmp_path)
    task = Restoration(measure="features", weights="kept.pth")
    assert task.setup(photographs(), run).weights == str((tmp_path / "kept.pth").resolve())
    assert TASK.setup(photographs(), run) == TASK
    with pytest.raises(CannotComplete, match=r"kept\.pth"):
        task.setup(photographs(), Run.local())
