"""Charts: what is drawn lies where its numbers say, and every text is there as it is."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sidedoor.report import figures
from sidedoor.report.plot import WIDTH, Panel, drawn


def paths(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """The points of lines of a colour."""
    return [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]
            for path in re.findall(rf'<path d="([^"]*)" stroke="{colour}"', svg)]


def at(svg: str, text: str) -> tuple[float, float]:
    """Where a text stands."""
    found = re.search(rf'<text x="(-?[\d.]+)" y="(-?[\d.]+)"[^>]*>{re.escape(text)}</text>', svg)
    assert found is not None, text
    return float(found[1]), float(found[2])


def test_points_lie_at_their_numbers() -> None:
    panel = Panel("x", "y", xlim=(0.0, 10.0), ylim=(0.0, 1.0))
    panel.add("line", [0, 5, 10], [0, 1, 0.5], colour="red")
    svg = drawn([panel], 145)
    (((x0, y0), (x1, y1), (x2, y2)),) = paths(svg, "red")
    assert (x1 - x0, x2 - x1) == pytest.approx(((x2 - x0) / 2,) * 2, abs=0.1)
    assert y0 - y2 == pytest.approx((y0 - y1) / 2, abs=0.1)
    # Numbers stand below and beside what they name.
    assert at(svg, "10")[0] == pytest.approx(x2, abs=0.1)
    assert at(svg, "1")[1] == pytest.approx(y1, abs=3)
    assert 0 < x0 < x2 < WIDTH


def test_a_logarithmic_axis_has_a_decade_where_it_belongs() -> None:
    panel = Panel(xlim=(0.001, 1.0), ylim=(0.0, 1.0), logarithmic=True)
    panel.add("line", [0.001, 0.01, 0.1, 1.0], 0.5, colour="red")
    svg = drawn([panel], 145)
    (points,) = paths(svg, "red")
    assert np.diff([x for x, _ in points]) == pytest.approx([(points[3][0] - points[0][0]) / 3] * 3, abs=0.1)
    assert at(svg, "0.01")[0] == pytest.approx(points[1][0], abs=0.1)


@pytest.mark.parametrize(("values", "texts"), [
    ([0.0, 100.0], {"0", "20", "40", "60", "80", "100"}), ([-2.0, 2.0], {"−2", "−1", "0", "1", "2"}),
    ([1e-5, 5e-5], {"1e−05", "2e−05", "3e−05", "4e−05", "5e−05"}), ([3.0, 3.0], {"3"}), ([], {"0", "1"}),
])
def test_ticks_are_round_numbers(values: list[float], texts: set[str]) -> None:
    panel = Panel(xlim=(0.0, 1.0))
    panel.add("line", np.linspace(0, 1, len(values)), values)
    assert texts <= set(re.findall(r">([^<]+)</text>", drawn([panel], 145)))


def test_numbers_that_are_not_finite_are_left_out() -> None:
    panel = Panel()
    panel.add("line", [0, 1, 2, np.nan], [1, np.inf, 2, 3], colour="red")
    assert len(paths(drawn([panel], 145), "red")[0]) == 2


def test_text_is_text_whatever_it_is() -> None:
    panel = Panel("a < b & c", "<script>")
    panel.add("line", [0, 1], [0, 1], label="“猫” $x^2$")
    svg = drawn([panel], 145)
    assert "a &lt; b &amp; c" in svg
    assert "<script" not in svg
    assert "“猫” $x^2$" in svg


def test_a_long_legend_takes_rows_of_its_own() -> None:
    def tall(count: int) -> float:
        panel = Panel()
        for n in range(count):
            panel.add("line", [0, 1], [n, n], label=f"a defence called {n}")
        found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawn([panel], 145))
        assert found is not None
        return float(found[1])

    assert tall(0) < tall(1) == tall(3) < tall(12)


def test_dots_of_every_shape_are_as_many_as_points() -> None:
    for shape in ("o", "s", "^", "D", "v", "P"):
        panel = Panel()
        panel.add("dots", [1, 2, 3], [1, 2, 3], colour="red", shape=shape, size=2.0)
        (path,) = re.findall(r'<path d="([^"]*)" fill="red"', drawn([panel], 145))
        assert path.count("M") == path.count("z") == 3


def test_a_histogram_is_of_shares() -> None:
    svg = figures.histogram({"clean": np.array([0.0, 0.0, 0.0, 1.0]), "stamped": np.array([1.0])}, "score")
    assert "clean (n = 4)" in svg
    heights = [min(float(y) for y in re.findall(r"V([\d.]+)", path))
               for path in re.findall(r'<path d="([^"]*V[^"]*)" fill="#[0-9a-f]+" fill-opacity', svg)]
    # Three quarters of the first group fall into one bin, all of the second into another.
    ticks = {text: float(y) - 2.8 for y, text in re.findall(r'y="([\d.]+)"[^>]* text-anchor="end">([^<]+)<', svg)}
    top, bottom = ticks["1"], ticks["0"]
    assert [(bottom - height) / (bottom - top) for height in heights] == pytest.approx([0.75, 1.0], abs=0.02)
