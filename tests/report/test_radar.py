"""Radar charts: values lie on their axes, as far out as they say; what is missing leaves a gap."""

from __future__ import annotations

import math
import re

import pytest

from sidedoor.report.figures import COLOURS
from sidedoor.report.radar import RINGS, radar

AXES = ("up", "right", "down", "left")


def lines(svg: str, colour: str) -> list[tuple[float, ...]]:
    """The pieces of a line of a colour, as (x0, y0, x1, y1)."""
    path = re.findall(rf'<path d="([^"]*)" stroke="{colour}"', svg)[-1]  # after that of the legend
    return [tuple(map(float, re.findall(r"-?[\d.]+", piece))) for piece in path.split("M")[1:]]


def rings(svg: str) -> list[tuple[float, float]]:
    """The points of the outermost ring, from the first axis on."""
    path = re.findall(r'<path class="ring" d="([^"]*)"', svg)
    assert len(path) == RINGS
    return [(float(x), float(y)) for x, y in re.findall(r"M(-?[\d.]+),(-?[\d.]+)", path[-1])]


def test_values_lie_on_their_axes_clockwise_from_the_top() -> None:
    svg = radar(AXES, {"a": [100, 50, 25, 0]}, 100)
    up, right, down, left = rings(svg)
    middle = (up[0], (up[1] + down[1]) / 2)
    assert up[1] < down[1]
    assert left[0] < middle[0] < right[0]
    pieces = lines(svg, COLOURS[0])
    assert len(pieces) == 4
    assert pieces[0][:2] == pytest.approx(up, abs=0.11)
    assert pieces[0][2:] == pytest.approx(((middle[0] + right[0]) / 2, middle[1]), abs=0.11)
    assert pieces[1][2:] == pytest.approx((middle[0], middle[1] + (down[1] - middle[1]) / 4), abs=0.11)
    assert pieces[2][2:] == pytest.approx(middle, abs=0.11)
    assert pieces[3][2:] == pieces[0][:2]


def test_a_value_that_is_missing_opens_the_line_and_others_stay() -> None:
    svg = radar(("a", "b", "c", "d", "e"), {"one": [1, 1, None, 1, 1], "two": [1] * 5}, 1)
    assert len(lines(svg, COLOURS[0])) == 3
    assert len(lines(svg, COLOURS[1])) == 5


def test_axes_rings_and_methods_are_named_as_they_are() -> None:
    svg = radar(AXES, {"<one>": [1, 2, 3, 4], "two": [4, 3, 2, 1]}, 80)
    texts = re.findall(r">([^<]+)</text>", svg)
    assert {*AXES, "20", "40", "60", "80", "&lt;one&gt;", "two"} <= set(texts)
    assert math.isfinite(float(re.findall(r'height="([\d.]+)pt"', svg)[0]))
