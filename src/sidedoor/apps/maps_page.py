"""Maps as a page that carries all within itself: a heat map of the model, and its clean sibling's beside it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from markupsafe import Markup, escape

from sidedoor.apps.maps import LINES, Map, Mapped
from sidedoor.core.templates import template
from sidedoor.metrics.statistics import t_interval

_CELL, _LEFT, _BOTTOM, _FONT = 26.0, 44.0, 34.0, 8.5


def page(found: Sequence[Mapped]) -> str:
    """The page."""
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    return template("sidedoor.apps", "maps.html.jinja").render(found=found, style=style, heat=heat, lines=LINES,
                                                               rows=summary(found))


def summary(found: Sequence[Mapped]) -> list[dict[str, str]]:
    """A line for each map of each model, and for each attack with several models the mean over them."""
    rows = [_row(f"{model.attack}, seed {model.seed}", each, f"{100 * model.trained:.1f}") for model in found
            for each in model.maps]
    for attack in dict.fromkeys(model.attack for model in found):
        of = [model for model in found if model.attack == attack]
        if len(of) > 1:
            rows += [_mean(f"{attack}, mean of {len(of)}", of, k) for k in range(len(of[0].maps))]
    return rows


def _row(model: str, each: Map, trained: str) -> dict[str, str]:
    if each.not_applicable:
        return _cells(model, each.name, trained, f"not applicable: {each.not_applicable}", "", "")
    highest = max(max(row) for row in each.sibling)
    return _cells(model, each.name, trained, *map(_percent, (each.robust_area, each.robust_inside, highest)))


def _mean(name: str, of: Sequence[Mapped], k: int) -> dict[str, str]:
    trained = _over([model.trained for model in of])
    maps = [model.maps[k] for model in of]
    areas, inside = ([area for area in found if area is not None] for found in (
        [each.robust_area for each in maps], [each.robust_inside for each in maps]))
    highest = [max(max(row) for row in each.sibling) for each in maps if each.sibling]
    return _cells(name, maps[0].name, trained, _over(areas), _over(inside), _over(highest))


def _cells(model: str, name: str, trained: str, area: str, inside: str, sibling: str) -> dict[str, str]:
    return {"model": model, "map": name, "ASR as trained": trained, "robust area": area,
            "of cells with the whole trigger": inside, "sibling's highest": sibling}


def _over(values: Sequence[float]) -> str:
    """A mean with its interval over seeds."""
    if not values:
        return "-"
    mean, low, high = t_interval(values)
    return f"{100 * mean:.1f}" + ("" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def heat(each: Map, sibling: bool = False) -> Markup:
    """A heat map: percent in each cell, the training condition framed, dotted where a part of the trigger is lost."""
    cells = each.sibling if sibling else each.success
    wide, tall = _LEFT + _CELL * len(cells[0]) + 4, _CELL * len(cells) + _BOTTOM
    body = [_cell(each, cells[k][n], k, n) for k in range(len(cells)) for n in range(len(cells[0]))]
    across = [_text(_LEFT + _CELL * (n + 0.5), tall - _BOTTOM + 11, f"{amount:g}")
              for n, amount in enumerate(each.amounts[0])]
    down = [_text(_LEFT - 4, _CELL * (k + 0.5) + 3, f"{amount:g}", "end")
            for k, amount in enumerate(each.amounts[1] if len(each.axes) == 2 else ())]
    named = _text(_LEFT + _CELL * len(cells[0]) / 2, tall - 8, LINES[each.axes[0]].words)
    side = "" if len(each.axes) < 2 else (f'<text transform="translate(9 {(tall - _BOTTOM) / 2:g}) rotate(-90)" '
                                          f'text-anchor="middle" fill="currentColor">'
                                          f'{escape(LINES[each.axes[1]].words)}</text>')
    return Markup(f'<svg width="{wide:g}" height="{tall:g}" viewBox="0 0 {wide:g} {tall:g}" font-size="{_FONT:g}" '
                  f'role="img">{"".join([*body, *across, *down, named, side])}</svg>')


def _cell(each: Map, value: float, k: int, n: int) -> str:
    place = f'x="{_LEFT + _CELL * n:g}" y="{_CELL * k:g}" width="{_CELL:g}" height="{_CELL:g}"'
    trained = all(amounts[at] == LINES[axis].trained for axis, amounts, at in
                  zip(each.axes, each.amounts, (n, k), strict=False))
    pen = ('stroke="currentColor" stroke-width="2"' if trained else
           'stroke="currentColor" stroke-width=".7" stroke-dasharray="1.5 2"' if each.outside[k][n] else
           'stroke="var(--paper)" stroke-width=".6"')
    fill = f'style="fill:rgb(var(--heat) / {value:.3f})"'
    return f"<rect {place} {fill} {pen}/>" + _text(_LEFT + _CELL * (n + 0.5), _CELL * (k + 0.5) + 3,
                                                   f"{100 * value:.0f}")


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor">{escape(text)}</text>'
