"""A filtered data set as a page that carries all within itself, runs no script, and escapes names of unknown origin."""

from __future__ import annotations

from importlib.resources import files

from torch import Tensor

from sidedoor.core.templates import template
from sidedoor.report.images import data_uri, stored
from sidedoor.vetting.filter.result import LIMITS, LISTED, Filtered, Pictures

_STRIPS = (("suspected", "rows that are suspected"), ("ordinary", "other rows of the class"),
           ("others", "images of other classes"), ("stamped", "the same with what the suspected rows have in common"))


def page(found: Filtered, command: str) -> str:
    """The page.

    Args:
        command: that makes it again.
    """
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    listed = [(int(row), found.rows.files[row], found.class_name(int(found.rows.labels[row])),
               float(found.rows.suspicion[row]), bool(found.rows.group[row]))
              for row in found.rows.ranked[:LISTED].tolist()]
    pairs = [[(found.rows.files[row], found.class_name(int(found.rows.labels[row]))) for row in pair]
             for pair in found.conflicts.pairs[:LISTED]]
    return template("sidedoor.vetting.filter", "page.html.jinja").render(
        found=found, style=style, limits=LIMITS, command=command, listed=listed, pairs=pairs, kinds=(
            "replace", "add", "blend"), pictures={each.label: _strips(each) for each in found.pictures})


def _strips(pictures: Pictures) -> list[tuple[str, list[str]]]:
    """(caption, images) of each strip; the trigger on grey is the last."""
    strips = [(caption, _images(getattr(pictures, name))) for name, caption in _STRIPS]
    return [*strips, ("what they have in common, on grey", _images(pictures.trigger[None]))]


def _images(x: Tensor) -> list[str]:
    return [data_uri(stored(image.numpy())) for image in x]
