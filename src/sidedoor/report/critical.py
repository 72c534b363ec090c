"""A critical-difference diagram: methods at their mean ranks, joined where a test does not tell them apart.

Paper: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006, figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from markupsafe import Markup, escape

from sidedoor.metrics.ranking import not_told_apart
from sidedoor.report.plot import INK, WIDTH

MOST = 20
"""Methods that a diagram has room for."""
_SIDE, _TOP, _ROW, _BAR = 118.0, 34.0, 13.0, 6.0
_FONT = 8.0
Place = Callable[[float], float]
"""From a rank to where it stands."""


def diagram(mean: Mapping[str, float], difference: float) -> Markup:
    """The diagram, best on the left.

    Args:
        mean: rank of each method.
        difference: that two mean ranks must differ by.
    """
    names = sorted(mean, key=lambda name: (mean[name], name))
    values = [mean[name] for name in names]
    low, high = 1, max(math.ceil(values[-1]), 2)

    def at(rank: float) -> float:
        return _SIDE + (rank - low) / (high - low) * (WIDTH - 2 * _SIDE)

    runs = not_told_apart(np.array(values), difference)
    below = _TOP + 6 + _BAR * len(runs)
    half = math.ceil(len(names) / 2)
    body = [_axis(at, low, high), _ruler(at, low, high, difference)]
    for row, (first, last) in enumerate(runs):
        y = _TOP + 6 + _BAR * row
        body.append(f'<path class="run" d="M{at(values[first]) - 2:.1f},{y:.1f}H{at(values[last]) + 2:.1f}" '
                    f'stroke="{INK}" stroke-width="2.6"/>')
    for place, name in enumerate(names):
        left = place < half
        y = below + _ROW * (place + 1 if left else len(names) - place)
        body.append(_method(name, mean[name], at(mean[name]), y, left))
    tall = below + _ROW * (half + 1)
    return Markup(f'<svg width="{WIDTH:g}pt" height="{tall:g}pt" viewBox="0 0 {WIDTH:g} {tall:g}" fill="none" '
                  f'font-size="{_FONT:g}">{"".join(body)}</svg>')


def file_of(svg: str) -> str:
    """A drawing as a file of its own, black on white, heat in the colour of page.css."""
    head = ('<svg xmlns="http://www.w3.org/2000/svg" style="background:white;color:black;--heat:213 103 44" '
            'font-family="sans-serif" ')
    return str(svg).replace("<svg ", head, 1) + "\n"


def _axis(at: Place, low: int, high: int) -> str:
    step = max(1, math.ceil((high - low) / 12))
    ticks = "".join(f'<path d="M{at(rank):.1f},{_TOP:.1f}v-4" stroke="{INK}" stroke-width=".6"/>'
                    + _text(at(rank), _TOP - 6.5, str(rank), "middle") for rank in range(low, high + 1, step))
    return f'<path d="M{at(low):.1f},{_TOP:.1f}H{at(high):.1f}" stroke="{INK}" stroke-width=".6"/>{ticks}'


def _ruler(at: Place, low: int, high: int, difference: float) -> str:
    """The critical difference, as long as it is on the axis."""
    end = at(min(low + difference, high))
    cut = "" if low + difference <= high else " (longer than the axis)"
    return (f'<path class="difference" d="M{at(low):.1f},9v4m0,-2H{end:.1f}m0,-2v4" stroke="{INK}" '
            f'stroke-width=".8"/>' + _text(end + 4, 13.5, f"critical difference {difference:.2f}{cut}", "start"))


def _method(name: str, rank: float, x: float, y: float, left: bool) -> str:
    end = _SIDE - 6 if left else WIDTH - _SIDE + 6
    line = f'<path d="M{x:.1f},{_TOP:.1f}V{y:.1f}H{end:.1f}" stroke="{INK}" stroke-width=".6"/>'
    said = f"{name} {rank:.2f}" if left else f"{rank:.2f} {name}"
    return line + _text(end + (-3 if left else 3), y + 2.8, said, "end" if left else "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
