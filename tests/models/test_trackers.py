"""Trackers: their sizes, what their responses say, and their geometry."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sidedoor.errors import ConfigError
from sidedoor.models.trackers.base import Geometry, locate
from sidedoor.models.trackers.dcfnet import GEOMETRY, dcfnet
from sidedoor.models.trackers.siamfc import PUBLISHED, TINY, correlated, near_object, siamfc


@pytest.mark.parametrize(("size", "side", "count"), [("tiny", 127, 40_802), ("published", 255, 2_336_320)])
def test_siamfc_has_the_parameters_of_its_size(size: str, side: int, count: int) -> None:
    model = siamfc((3, side, side), size)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == count
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 6, side, side)).shape == (1, 17, 17)


def test_dcfnet_has_the_tensors_of_published_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in dcfnet((3, 125, 125)).state_dict().items()}
    assert shapes == {"feature.0.weight": (32, 3, 3, 3), "feature.0.bias": (32,),
                      "feature.2.weight": (32, 32, 3, 3), "feature.2.bias": (32,)}


def test_crops_of_another_size_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"255×255, 127×127 given; set the task's `crops`"):
        siamfc((3, 127, 127), "published")


def test_windows_are_those_of_the_papers() -> None:
    size = torch.tensor([[40.0, 40.0], [20.0, 60.0]])
    # p = 40: sqrt(80 * 80) and sqrt(60 * 100).
    assert PUBLISHED.window(size)[:, 0].tolist() == pytest.approx([80 * 255 / 127, 6000**0.5 * 255 / 127])
    assert torch.equal(TINY.window(size)[:, 0], TINY.window(size)[:, 1])
    assert GEOMETRY.window(size).tolist() == [[120, 120], [60, 180]]


def test_correlation_is_that_of_a_convolution_in_groups() -> None:
    kernel, x = torch.randn(2, 5, 3, 4), torch.randn(6, 5, 9, 8)
    each = [functional.conv2d(x[3 * k : 3 * k + 3], kernel[k : k + 1])[:, 0] for k in range(2)]
    assert torch.allclose(correlated(kernel, x), torch.cat(each), atol=1e-4)


def test_the_peak_is_found_to_the_right_and_below() -> None:
    response = torch.zeros(2, 1, 17, 17)
    response[0, 0, 8, 8] = response[1, 0, 10, 5] = 1  # row 10 is 2 cells below the middle, column 5 is 3 left of it
    plain = Geometry(63, 127, True, 4, 16, (1.0,), 1.0, 0.0, 0.59)
    assert torch.allclose(locate(plain, response).offset, torch.tensor([[0.0, 0.0], [-12.0, 8.0]]), atol=0.26)


def test_the_window_decides_between_equal_peaks_and_the_penalty_between_equal_scales() -> None:
    response = torch.zeros(1, 3, 17, 17)
    response[0, :, 8, 9] = response[0, :, 8, 15] = 1
    peak = locate(TINY, response)
    assert peak.scale.item() == 1
    assert peak.offset[0, 0].item() == pytest.approx(4, abs=0.5)
    assert locate(TINY, response * torch.tensor([1, 1, 1.1])[:, None, None]).scale.item() == 2
    # A factor below 1 would bring negative responses nearer to 0.
    assert locate(TINY, -torch.ones(1, 3, 17, 17) * torch.tensor([1.01, 1, 1.01])[:, None, None]).scale.item() == 1


def test_cells_within_two_of_the_object_are_its_own() -> None:
    near = near_object(torch.zeros(1, 17, 17), torch.tensor([[8.0, -4.0]]), 4)
    assert near.sum() == 13  # 1 + 4 + 8 within two city blocks
    assert near[0, 7, 10] == 1  # one up, two right
    assert near[0, 7, 12] == 1
    assert near[0, 7, 13] == 0


def test_each_side_has_half_of_the_weight() -> None:
    model = siamfc((3, 127, 127), "tiny")
    flat = torch.zeros(1, 17, 17)
    assert model.loss(flat, torch.zeros(1, 2)).item() == pytest.approx(torch.tensor(2.0).log().item())
    right = 20 * (2 * near_object(flat, torch.zeros(1, 2), 4) - 1)
    one_wrong = right.clone()
    one_wrong[0, 8, 8] = -20
    assert model.loss(right, torch.zeros(1, 2)) < 1e-6
    assert model.loss(one_wrong, torch.zeros(1, 2)).item() == pytest.approx(0.5 * 20 / 13, rel=1e-3)


def test_dcfnet_answers_where_its_template_went() -> None:
    torch.manual_seed(0)
    model, x = dcfnet((3, 125, 125)).eval(), torch.rand(1, 3, 125, 125)
    with torch.no_grad():
        state = model.start(x)
        response = model.respond(state, torch.cat([x, x.roll((6, -9), (2, 3))]))
    assert locate(GEOMETRY, response[:, None]).offset.tolist() == [[0, 0], [-9, 6]]
    assert model.loss(response[1:], torch.tensor([[-9.0, 6.0]])) < model.loss(response[1:], torch.tensor([[9.0, -6.0]]))
