"""A page is found again in photographs of it. These are rendered, by the simulated camera and no real one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sidedoor.apps.sheet import Layout, Refused, crops, drawn, found
from sidedoor.data.jpeg import compressed
from sidedoor.data.print_capture import blurred, lit, noisy
from sidedoor.errors import ConfigError
from sidedoor.image.geometry import projected

LAYOUT = Layout(30.0)
RNG = torch.Generator().manual_seed(0)
COARSE = torch.rand(24, 3, 6, 6, generator=RNG)
IMAGES = (255 * functional.interpolate(COARSE, (24, 24), mode="bilinear")).to(torch.uint8)
CORNERS = torch.tensor([[[-0.9, -1], [1, -0.88], [0.93, 0.95], [-1, 0.85]]])


def page(number: int = 5) -> Tensor:
    return torch.from_numpy(drawn(IMAGES, number, LAYOUT, "words", dpi=80)).permute(2, 0, 1)[None] / 255


def photo(x: Tensor, quarters: int = 0, light: float = 0.0) -> Tensor:
    """On a grey table, turned, from the side, in uneven light, out of focus, with noise; as JPEG."""
    x = projected(torch.rot90(functional.pad(x, [60] * 4, value=0.4), quarters, (2, 3)), CORNERS)
    x = blurred(lit(x, torch.tensor([[0.1, 0.5, 0.3, 0.4, 0.5, 0.1]]), light), torch.tensor([0.8]))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (255 * compressed(noisy(x, noise), 85)[0]).round().to(torch.uint8)


def grey(x: Tensor) -> Tensor:
    return x.float().mean(0, keepdim=True).to(torch.uint8)


@pytest.mark.parametrize("quarters", [0, 1, 2])
def test_each_image_is_cut_out_where_it_lies_whichever_way_up(quarters: int) -> None:
    seen = photo(page(), quarters)
    where = found(grey(seen))
    assert where.number == 5
    made = crops(seen, where, LAYOUT, 24, (24, 24))
    assert made.shape == IMAGES.shape
    assert (made - IMAGES / 255).abs().mean() < 0.03
    assert (made - IMAGES.roll(1, 0) / 255).abs().mean() > 0.1
    moved = functional.pad(made, [1, 0, 0, 0], mode="replicate")[..., :-1]
    assert (moved - IMAGES / 255).abs().mean() > (made - IMAGES / 255).abs().mean()


def test_uneven_light_hides_no_mark() -> None:
    assert found(grey(photo(page(170), light=0.3))).number == 170


def test_without_four_marks_it_is_refused() -> None:
    covered = page()
    covered[..., :100, :100] = 1
    with pytest.raises(Refused, match="3 of the 4 corner marks"):
        found(grey(photo(covered)))
    with pytest.raises(Refused, match="0 of the 4"):
        found(torch.full((1, 300, 200), 90, dtype=torch.uint8))


def test_without_a_number_it_is_refused() -> None:
    covered = page()
    covered[..., :100, 110:450] = 1
    with pytest.raises(Refused, match="not the number"):
        found(grey(photo(covered)))


def test_a_page_has_room_for_so_many() -> None:
    assert len(LAYOUT.places) == 24
    with pytest.raises(ConfigError, match="at most 24"):
        drawn(IMAGES.repeat(2, 1, 1, 1), 0, LAYOUT)
    with pytest.raises(ConfigError, match="expected 5 to 150"):
        Layout(200.0)
