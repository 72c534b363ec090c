"""Explanations of a model as a Markdown table and as a page with pictures that carries all within itself."""

from __future__ import annotations

from importlib.resources import files

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.apps.explain import Explained
from sidedoor.core.templates import template
from sidedoor.explain.evaluation import MODEL, NOTHING, Row
from sidedoor.report.images import data_uri, stored

HEADINGS = ("method", "model", "IoU, %", "pointing, %", "box IoU, %", "recovered, %", "difference, %", "no box, %",
            "s an image")
RESTORED, STAYED = 0.99, 0.01
"""What a trigger that is the reason must restore when it is covered, and any other place at most."""


def markdown(found: Explained) -> str:
    """The table, what it is to be read against, and the check that it rests on."""
    lines = [HEADINGS, ["---"] * 2 + ["---:"] * (len(HEADINGS) - 2), *map(cells, found.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *notes(found)]) + "\n"


def cells(row: Row) -> list[str]:
    """A row of the table."""
    if row.found is None:
        return [row.name, row.of, f"not applicable: {row.reason.replace('|', '/')}", *[""] * (len(HEADINGS) - 3)]
    it = row.found
    shares = (it.iou, it.pointing, it.box_iou, it.recovered, it.difference, it.boxless)
    return [row.name, "" if row.of == NOTHING else row.of, *(f"{100 * (share or 0):.1f}" for share in shares),
            f"{it.seconds:.3f}" if it.seconds is not None else ""]


def notes(found: Explained) -> list[str]:
    """What is to be known of the table, in words."""
    height, width = found.images.x.shape[-2:]
    faithful = found.deletion.trigger >= RESTORED and found.deletion.elsewhere <= STAYED
    covered = found.deletion
    said = [f"{len(found.images)} test images that the trigger sends to its target; it has {found.images.pixels:.0f} "
            f"of {height * width} pixels. A map that knows nothing has an IoU of {100 * found.chance:.2f} %.",
            f"Covering the trigger restores the label of {100 * covered.trigger:.1f} %, covering another place of the "
            f"same shape that of {100 * covered.elsewhere:.1f} % ({covered.places} places). "
            + ("The trigger is the reason." if faithful else
               "The trigger is not the whole reason (99 % and 1 % were expected), so that a map off it may be right.")]
    if found.generalisation is not None:
        said.append(f"Patterns unlike the trigger, of as many pixels: area under success against distance "
                    f"{found.generalisation:.3f} (0: nothing but the trigger works).")
    return said


def page(found: Explained, shown: int) -> str:
    """The page.

    Args:
        shown: images in the gallery.
    """
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    rows = [row for row in found.rows if row.maps is not None]
    pictures = [_pictures(found, rows, k) for k in range(min(shown, len(found.images)))]
    captions = ["input", "with the trigger", "trigger", *(_caption(row) for row in rows)]
    return template("sidedoor.apps", "explain.html.jinja").render(
        found=found, style=style, headings=HEADINGS, rows=[cells(row) for row in found.rows], notes=notes(found),
        captions=captions, pictures=pictures)


def _caption(row: Row) -> str:
    name = row.name.replace("_", " ")
    return name if row.of in (MODEL, NOTHING) else f"{name}, {row.of}"


def _pictures(found: Explained, rows: list[Row], k: int) -> list[tuple[str, str]]:
    """For each column a picture, and below it the pixels that the standardised evaluation takes, or nothing."""
    images = found.images
    area = images.area[k].cpu().float()
    first = [(_uri(images.x[k]), ""), (_uri(images.triggered[k]), ""), (_uri(area), "")]
    maps = [row.maps[k] for row in rows if row.maps is not None]
    return first + [(_uri(_stretched(each)), _uri(_largest(each, int(area.sum())))) for each in maps]


def _uri(values: Tensor) -> str:
    return data_uri(stored(values.cpu().numpy()))


def _stretched(values: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    return (values - values.amin()) / (values.amax() - values.amin()).clamp(min=1e-12)


def _largest(values: Float[Tensor, "h w"], count: int) -> Float[Tensor, "h w"]:
    """1 for the most salient pixels, a half for those that tie for the last places."""
    last = values.flatten().topk(count).values[-1]
    above = (values > last).float()
    tied = (values == last).float()
    whole = int(above.sum() + tied.sum()) == count
    return above + tied * (1.0 if whole else 0.5) if torch.isfinite(last) else above
