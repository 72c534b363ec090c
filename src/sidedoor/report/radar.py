"""A radar chart: an axis for each condition, from the middle outwards, and a closed line for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from sidedoor.report.figures import COLOURS
from sidedoor.report.plot import DASHES, INK, WIDTH, Mark, legend

RINGS = 4
"""Grid lines between the middle and the end of the axes."""
_RADIUS, _AROUND, _TOP, _ROW, _FONT = 92.0, 20.0, 6.0, 12.0, 8.0


def radar(axes: Sequence[str], values: Mapping[str, Sequence[float | None]], most: float) -> Markup:
    """The chart; the first axis points up, the others follow clockwise.

    Args:
        axes: their names, three or more.
        values: of each method on each axis, from 0 to `most`; None where there is none, which leaves its line open.
        most: the end of every axis.
    """
    marks = [Mark("line", np.zeros(0), np.zeros(0), COLOURS[n % len(COLOURS)],
                  list(DASHES)[n // len(COLOURS) % len(DASHES)], label=name) for n, name in enumerate(values)]
    entries, rows = legend(marks)
    middle = (WIDTH / 2, _TOP + rows * _ROW + _AROUND + _RADIUS)
    turns = [2 * math.pi * k / len(axes) for k in range(len(axes))]
    body = [_grid(middle, turns, most), *(_name(middle, turn, name) for turn, name in zip(turns, axes, strict=True))]
    for mark, given in zip(marks, values.values(), strict=True):
        places = [None if value is None else _place(middle, turn, value / most)
                  for turn, value in zip(turns, given, strict=True)]
        body.append(f'<path d="{_line(places)}" stroke="{mark.colour}" stroke-width="{mark.width:g}" '
                    f'stroke-dasharray="{DASHES[mark.line]}"/>')
    tall = middle[1] + _RADIUS + _AROUND
    return Markup(f'<svg width="{WIDTH:g}pt" height="{tall:g}pt" viewBox="0 0 {WIDTH:g} {tall:g}" fill="none" '
                  f'font-size="{_FONT:g}">{entries}{"".join(body)}</svg>')


def _place(middle: tuple[float, float], turn: float, share: float) -> tuple[float, float]:
    """Where a share of an axis is."""
    away = _RADIUS * min(max(share, 0.0), 1.0)
    return middle[0] + away * math.sin(turn), middle[1] - away * math.cos(turn)


def _line(places: Sequence[tuple[float, float] | None]) -> str:
    """From each axis to the next, and from the last to the first, where both have a place."""
    pairs = zip(places, [*places[1:], places[0]], strict=True)
    return "".join(f"M{a[0]:.1f},{a[1]:.1f}L{b[0]:.1f},{b[1]:.1f}" for a, b in pairs if a and b)


def _grid(middle: tuple[float, float], turns: Sequence[float], most: float) -> str:
    """Axes, and rings with what they stand for beside the first axis."""
    found = []
    for ring in range(1, RINGS + 1):
        corners = [_place(middle, turn, ring / RINGS) for turn in turns]
        found.append(f'<path class="ring" d="{_line(corners)}" stroke="{INK}" stroke-width=".3" stroke-opacity=".5"/>')
        found.append(_text(middle[0] + 2.5, corners[0][1] + 2.8, f"{most * ring / RINGS:g}", "start"))
    for turn in turns:
        x, y = _place(middle, turn, 1)
        found.append(f'<path d="M{middle[0]:.1f},{middle[1]:.1f}L{x:.1f},{y:.1f}" stroke="{INK}" stroke-width=".4"/>')
    return "".join(found)


def _name(middle: tuple[float, float], turn: float, name: str) -> str:
    x, y = middle[0] + (_RADIUS + 6) * math.sin(turn), middle[1] - (_RADIUS + 6) * math.cos(turn)
    beside = math.sin(turn)
    anchor = "middle" if abs(beside) < 0.1 else "start" if beside > 0 else "end"
    return _text(x, y + 2.8, name, anchor)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
