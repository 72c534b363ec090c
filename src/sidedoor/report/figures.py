"""Charts as inline SVG: text stays text, takes the page's font and colour, and nothing is fetched."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from sidedoor.metrics.statistics import roc_curve
from sidedoor.report.series import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scores = npt.NDArray[np.float64]
Epoch = Mapping[str, float | None]
INK = "#010203"
"""A stand-in that becomes the page's text colour."""
COLOURS = ("#3c7fc0", "#d5672c", "#2f9a70", "#b064a6", "#b08a1e", "#5d93a8")
LINES = ("-", "--", ":", "-.")
SHAPES = ("o", "s", "^", "D", "v", "P")
WIDTH = 5.6
"""Inches; two figures stand side by side on a page."""
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 8.0,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.minor.width": 0.4, "xtick.major.size": 3, "ytick.major.size": 3,
    "lines.linewidth": 1.4, "axes.titlesize": 8.5, "axes.titlelocation": "left", "legend.frameon": False,
    "legend.fontsize": 7.5, "axes.formatter.useoffset": False, "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Curve:
    """A detector on one model.

    Args:
        positive, negative: scores, higher is more suspicious.
        points: realised (false, true) positive rates at the thresholds of 1 % and 5 %.
    """

    name: str
    positive: Scores
    negative: Scores
    points: tuple[tuple[float, float], ...] = ()


def roc(curves: Sequence[Curve], name: str) -> Markup:
    """ROC curves, with false positives once on a linear and once on a logarithmic axis.

    Args:
        name: unique on the page; ids within the figure derive from it.
    """
    with _canvas(name, 2.5, 2) as canvas:
        linear, logarithmic = canvas.axes
        floor = min(0.01, *(1 / len(curve.negative) for curve in curves)) / 2
        for n, curve in enumerate(curves):
            colour, line = COLOURS[n % len(COLOURS)], LINES[n // len(COLOURS) % len(LINES)]
            fpr, tpr = _corners(*roc_curve(curve.positive, curve.negative))
            for axes, low in ((linear, 0.0), (logarithmic, floor)):
                axes.plot(np.maximum(fpr, low), tpr, line, color=colour, label=curve.name, clip_on=False)
                for false, true in curve.points:
                    axes.plot(max(false, low), true, "o", ms=4.5, color=colour, clip_on=False)
        for axes in (linear, logarithmic):
            axes.set(xlabel="false positive rate", ylim=(0, 1))
            for rate in (0.01, 0.05):
                axes.axvline(rate, color=INK, lw=0.4, ls=":")
        chance = np.geomspace(floor, 1, 50)
        linear.plot([0, 1], [0, 1], color=INK, lw=0.4)
        logarithmic.plot(chance, chance, color=INK, lw=0.4)
        linear.set(xlim=(0, 1), ylabel="true positive rate")
        logarithmic.set(xlim=(floor, 1), xscale="log")
        # The default labels are mathematics, which SVG text cannot show.
        logarithmic.xaxis.set_major_formatter("{x:g}")
        linear.figure.legend(*linear.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return canvas.svg


def histogram(groups: dict[str, Scores], name: str, label: str) -> Markup:
    """Scores of several groups, each as shares of its own group."""
    with _canvas(name, 2.2, 1) as canvas:
        (axes,) = canvas.axes
        finite = {title: scores[np.isfinite(scores)] for title, scores in groups.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), 40)
        for n, (title, scores) in enumerate(finite.items()):
            share = np.histogram(scores, edges)[0] / max(1, len(scores))
            counted = f"{title} (n = {len(groups[title])})"
            axes.stairs(share, edges, fill=True, color=COLOURS[n], alpha=0.55, label=counted)
        axes.set(xlabel=label, ylabel="share of the group")
        axes.figure.legend(loc="outside upper left", ncols=len(groups))
    return canvas.svg


def indices(per_class: Scores, classes: Sequence[str], threshold: float | None, references: Scores,
            name: str) -> Markup:
    """The suspicion of each class, the paper's threshold if it is on that scale, and the scores of clean models."""
    with _canvas(name, 2.3, 1) as canvas:
        (axes,) = canvas.axes
        top = int(np.nanargmax(per_class)) if np.isfinite(per_class).any() else -1
        axes.bar(range(len(per_class)), np.nan_to_num(per_class, posinf=0, neginf=0), 0.7,
                 color=[COLOURS[1] if n == top else COLOURS[0] for n in range(len(per_class))])
        for n, score in enumerate(references):
            label = f"clean models (n = {len(references)})" if n == 0 else None
            axes.axhline(score, color=COLOURS[2], lw=0.9, label=label)
        if threshold is not None:
            axes.axhline(threshold, color=INK, lw=0.9, ls="--", label=f"the paper's threshold ({threshold:g})")
        _name_classes(axes, classes, len(per_class))
        axes.set(ylabel="suspicion")
        if axes.get_legend_handles_labels()[0]:
            axes.figure.legend(loc="outside upper left", ncols=2)
    return canvas.svg


def curve(values: Scores, name: str) -> Markup:
    """A curve that a method shows, by the number of its points."""
    with _canvas(name, 2.2, 1) as canvas:
        (axes,) = canvas.axes
        axes.plot(values, color=COLOURS[0])
        axes.locator_params("x", integer=True)
    return canvas.svg


def training(history: Mapping[str, Sequence[Epoch]], name: str) -> Markup:
    """Loss and learning rate of each phase by epoch; dashed: the loss on validation data."""
    with _canvas(name, 2.2, 2) as canvas:
        losses, rates = canvas.axes
        for n, (phase, epochs) in enumerate(history.items()):
            colour, marker = COLOURS[n % len(COLOURS)], "." if len(epochs) < 30 else ""
            losses.plot(*_column(epochs, "loss"), f"{marker}-", color=colour, ms=4, label=phase)
            for k, part in enumerate(key for key in epochs[0] if key.startswith("loss_")):
                losses.plot(*_column(epochs, part), LINES[2 + k % 2], color=colour, label=f"{phase}, loss {k + 1}")
            rates.plot(*_column(epochs, "lr"), f"{marker}-", color=colour, ms=4)
            if any(epoch.get("valid") is not None for epoch in epochs):
                losses.plot(*_column(epochs, "valid"), f"{marker}--", color=colour, ms=4, label=f"{phase}, validation")
        losses.set(xlabel="epoch", ylabel="training loss")
        rates.set(xlabel="epoch", ylabel="learning rate")
        for axes in (losses, rates):
            axes.locator_params("x", integer=True)
        if len(losses.lines) > 1:
            losses.legend()
    return canvas.svg


def strengths(lines: Sequence[Line], parameter: str, names: dict[str, str], unit: float, name: str) -> Markup:
    """The clean and the attack number by a parameter: means over seeds, bars from the lowest to the highest seed.

    Args:
        names: headings of the numbers that are drawn, a panel each.
        unit: what 1 is drawn as, 100 for per cent.
    """
    drawn = {key: heading for key, heading in names.items() if any(key in line.points for line in lines)}
    with _canvas(name, 2.4, len(drawn)) as canvas:
        for axes, (key, heading) in zip(canvas.axes, drawn.items(), strict=True):
            for n, line in enumerate(line for line in lines if key in line.points):
                middle, low, high = unit * np.array(line.points[key]).T
                axes.errorbar(line.values, middle, [middle - low, high - middle], fmt=f"o{LINES[n // 6 % 4]}", ms=3.5,
                              color=COLOURS[n % len(COLOURS)], elinewidth=0.8, label=line.label)
            axes.set(xlabel=parameter, ylabel=heading, ylim=(0, unit))
        if len(lines) > 1:
            canvas.axes[0].figure.legend(*canvas.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return canvas.svg


def tradeoff(dots: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, unit: float, name: str) -> Markup:
    """A dot for each (x, y), colour and shape by group; the first group, the undefended, as rings.

    Args:
        across, up: what the axes show.
        unit: what 1 is drawn as, 100 for per cent.
    """
    with _canvas(name, 3.2, 1) as canvas:
        (axes,) = canvas.axes
        for n, (title, points) in enumerate(dots.items()):
            x, y = unit * np.array(points).T
            colour, shape = (INK, "o") if n == 0 else (COLOURS[(n - 1) % 6], SHAPES[(n - 1) // 6 % len(SHAPES)])
            axes.plot(x, y, shape, color=colour, ms=5, mfc="none" if n == 0 else colour, label=title, clip_on=False)
        axes.set(xlabel=across, ylabel=up, xlim=(0, unit))
        axes.figure.legend(loc="outside right upper")
    return canvas.svg


@dataclass
class _Canvas:
    """Axes to draw on, and what came of it once they are left."""

    axes: list[Axes]
    svg: Markup = Markup()


@contextmanager
def _canvas(name: str, height: float, panels: int) -> Iterator[_Canvas]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        # The page's font draws the text; this one only measures it.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        canvas = _Canvas([figure.add_subplot(1, panels, n + 1) for n in range(panels)])
        yield canvas
        written = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    canvas.svg = _inline(written.getvalue())


def _inline(svg: str) -> Markup:
    """An SVG file as part of a page: without its own prologue, style sheet, namespaces and repeated ids."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'style="font: ([\d.]+px)[^;"]*', r'style="font-size: \1', svg)
    return Markup(svg.replace(INK, "currentColor").strip())


def _corners(fpr: Scores, tpr: Scores) -> tuple[Scores, Scores]:
    """The curve without the points within its straight runs."""
    if len(fpr) < 3:
        return fpr, tpr
    turn = np.diff(fpr)[:-1] * np.diff(tpr)[1:] - np.diff(fpr)[1:] * np.diff(tpr)[:-1]
    keep = np.concatenate([[True], np.abs(turn) > 1e-12, [True]])
    return fpr[keep], tpr[keep]


def _column(epochs: Sequence[Epoch], key: str) -> tuple[list[float], list[float]]:
    present = [(x, y) for epoch in epochs if (x := epoch["epoch"]) is not None and (y := epoch.get(key)) is not None]
    return [x for x, _ in present], [y for _, y in present]


def _name_classes(axes: Axes, classes: Sequence[str], count: int) -> None:
    if len(classes) != count or count > 30:
        axes.set_xlabel("class")
        return
    crowded = sum(map(len, classes)) > 55
    axes.set_xticks(range(count), [name if len(name) <= 14 else f"{name[:13]}…" for name in classes],
                    rotation=45 if crowded else 0, ha="right" if crowded else "center")
