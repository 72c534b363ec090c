"""Test-time transformations: each beside an independent source, and what they do to a trigger."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import Tensor, nn
from torchvision.transforms import functional

from sidedoor.data.base import ArrayDataset
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.purifiers.crop_resize import CropResize
from sidedoor.defenses.purifiers.cutmix import CutMix
from sidedoor.defenses.purifiers.cutout import Cutout
from sidedoor.defenses.purifiers.edge_replacement import EdgeReplacement, around
from sidedoor.defenses.purifiers.flip import Flip
from sidedoor.defenses.purifiers.gaussian_blur import GaussianBlur
from sidedoor.defenses.purifiers.gaussian_noise import GaussianNoise
from sidedoor.defenses.purifiers.mixup import Mixup
from sidedoor.defenses.purifiers.rotation import Rotation
from sidedoor.engine import Run
from sidedoor.errors import ConfigError
from sidedoor.image.edges import mask
from sidedoor.image.geometry import turned
from sidedoor.tasks.classification import Classification
from sidedoor.types import Purify

X = torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(6)
GREYS = ArrayDataset((torch.arange(5)[:, None, None, None] * 50).expand(5, 3, 20, 24).to(torch.uint8),
                     torch.zeros(5, dtype=torch.int64), 1)
"""What the defender has: images of one grey each."""


def fitted(purifier: Purifier) -> Purify:
    return purifier.fit(nn.Identity(), GREYS, Classification(1), Run.local(device="cpu"))


def purified(purifier: Purifier) -> Tensor:
    return fitted(purifier)(X, INDEX)[0]


def test_a_flip_is_undone_on_images_and_leaves_logits_alone() -> None:
    x, undo = fitted(Flip())(X, INDEX)
    assert torch.equal(x[..., 0], X[..., -1])
    assert torch.equal(undo(x), X)
    assert torch.equal(undo(X[:, 0, 0]), X[:, 0, 0])


def test_rotation_is_torchvisions() -> None:
    angles = torch.tensor([-15.0, -4, 0, 7.5, 15, 90])
    expected = torch.stack([functional.rotate(image, angle, functional.InterpolationMode.BILINEAR)
                            for image, angle in zip(X, angles.tolist(), strict=True)])
    # torchvision decides with a mask of its own what is outside, so that only inner pixels are alike.
    assert torch.allclose(turned(X, angles)[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6], atol=1e-4)
    assert torch.equal(purified(Rotation(0.0)), turned(X, torch.zeros(6)))
    half = Rotation(180.0).fit(nn.Identity(), GREYS, Classification(1), Run.local(device="cpu"))
    many = half(torch.rand(1, 3, 20, 24).expand(50, -1, -1, -1), torch.arange(50))[0]
    assert len(torch.unique(many.flatten(1).sum(1))) > 40, "all inputs are rotated alike"


def test_turned_resized_and_moved_is_torchvisions_affine() -> None:
    found = turned(X, torch.full((6,), 20.0), torch.full((6,), 1 / 0.8), torch.tensor([[2 * 3 / 24, 0.0]] * 6))
    # torchvision moves the picture, ours the window over it, in the picture's own axes.
    moved = functional.affine(X, 0, [-3, 0], 1.0, [0, 0], functional.InterpolationMode.BILINEAR)
    expected = functional.affine(moved, -20.0, [0, 0], 0.8, [0, 0], functional.InterpolationMode.BILINEAR)
    assert torch.allclose(found[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], atol=1e-4)


def test_a_crop_is_one_of_the_windows_enlarged() -> None:
    found = purified(CropResize(2))
    windows = torch.stack([functional.resize(X[:, :, i : i + 18, j : j + 22], [20, 24], antialias=False)
                           for i in range(3) for j in range(3)])
    nearest = (windows - found).abs().amax((2, 3, 4)).amin(0)
    assert nearest.max() < 1e-5
    with pytest.raises(ConfigError, match="expected at most 19"):
        fitted(CropResize(20))


def test_noise_has_the_variance_that_was_asked_for() -> None:
    grey = torch.full((40, 3, 20, 24), 0.5)
    noise = fitted(GaussianNoise(0.01))(grey, torch.arange(40))[0] - grey
    assert noise.var().item() == pytest.approx(0.01, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)
    clipped = fitted(GaussianNoise(1.0))(grey, torch.arange(40))[0]
    assert (clipped.min(), clipped.max()) == (0, 1)


def test_blur_is_a_gaussian_mirrored_at_the_edges() -> None:
    side = np.exp(-np.array([1.0, 0, 1]) / (2 * 0.8**2))
    kernel = np.outer(side, side) / side.sum() ** 2
    expected = convolve(X[0, 0].numpy(), kernel, mode="mirror")
    assert np.allclose(purified(GaussianBlur())[0, 0].numpy(), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="an odd number"):
        GaussianBlur(size=4)


def test_cutout_blacks_out_one_square() -> None:
    gone = (purified(Cutout(0.5)) == 0).all(1)
    assert gone.flatten(1).sum(1).tolist() == [100] * 6
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert (rows.tolist(), columns.tolist()) == ([10] * 6, [10] * 6)
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in gone}) > 1, "all squares are at one place"
    assert torch.equal(purified(Cutout(0.0)), X)


def test_mixup_and_cutmix_take_images_of_the_defenders() -> None:
    other = 2 * purified(Mixup(0.5)) - X
    greys = other.flatten(1).median(1).values
    assert torch.allclose(other, greys[:, None, None, None].expand_as(other), atol=1e-5)
    assert set((greys * 255).round().int().tolist()) <= {0, 50, 100, 150, 200}
    assert len(set(greys.tolist())) > 1
    pasted = (purified(CutMix(0.5)) != X).any(1).flatten(1).sum(1)
    assert pasted.tolist() == [100] * 6


@pytest.mark.parametrize("operator", ["sobel", "scharr", "prewitt", "roberts", "canny"])
def test_edges_are_painted_over_and_nothing_else(operator: str) -> None:
    edges = mask(X, operator, 28 / 255)
    assert 0.02 < edges.float().mean() < 0.98
    found = purified(EdgeReplacement(operator))
    assert torch.equal(found, torch.where(edges, torch.tensor(125 / 255), X))
    with pytest.raises(ConfigError, match="edge operator 'laplace'"):
        EdgeReplacement("laplace")


def test_a_hidden_pixel_is_the_mean_of_the_nearest_seen_ones() -> None:
    hidden = torch.rand(6, 1, 20, 24, generator=torch.Generator().manual_seed(1)) < 0.7
    hidden[:, :, 2:9, 3:10] = True
    found = around(X, hidden)
    for image, row, column in ((0, 5, 6), (1, 3, 4), (2, 19, 0), (3, 10, 10)):
        reach = 0
        seen = torch.zeros(0)
        while seen.numel() == 0:
            part = (image, slice(None), slice(max(row - reach, 0), row + reach + 1),
                    slice(max(column - reach, 0), column + reach + 1))
            seen = X[part][:, ~hidden[part][0]]
            reach += 1
        assert torch.allclose(found[image, :, row, column], seen.mean(1), atol=1e-5)
    assert torch.equal(found[~hidden.expand_as(X)], X[~hidden.expand_as(X)])
    assert (around(X, torch.ones_like(hidden)) == 0).all()
    smooth = purified(EdgeReplacement(fill="around"))
    assert (smooth[:, :, 1:] - smooth[:, :, :-1]).abs().mean() < (X[:, :, 1:] - X[:, :, :-1]).abs().mean()
