"""A scan as a page that carries all within itself, runs no script, and escapes names of unknown origin."""

from __future__ import annotations

from importlib.resources import files

from torch import Tensor

from sidedoor.core.templates import template
from sidedoor.report.images import data_uri, stored
from sidedoor.vetting.battery import exhibits
from sidedoor.vetting.result import LIMITS, Audited, Scan

_ROWS = ("held-out images", "the same with the recovered trigger", "where the model looks then (Grad-CAM)")


def page(scan: Scan, command: str) -> str:
    """The page.

    Args:
        command: that makes it again.
    """
    pictures = [(name, [data_uri(stored(image.numpy())) for image in images])
                for name, images in zip(_ROWS, scan.pictures, strict=False) if len(images)]
    shown = {audited.name: [(exhibit.caption, data_uri(stored(exhibit.values.numpy())))
                            for exhibit in exhibits(audited.told) if isinstance(exhibit.values, Tensor)]
             for audited in scan.audits if audited.told}
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    bars = {audited.name: _bars(audited, scan) for audited in scan.audits}
    return template("sidedoor.vetting", "page.html.jinja").render(
        scan=scan, style=style, limits=LIMITS, pictures=pictures, exhibits=shown, bars=bars, command=command)


def _bars(audited: Audited, scan: Scan) -> list[tuple[str, float, float, float, float]]:
    """(class, score of the suspect, lowest and highest of clean models, largest of all) class by class."""
    finding = audited.told.finding if audited.told else None
    if finding is None or not audited.clean_per_class or not 0 < len(finding.per_class) <= 50:
        return []
    most = max(*finding.per_class, *(high for _, high in audited.clean_per_class), 1e-12)
    return [(scan.class_name(label), own, low, high, most)
            for label, (own, (low, high)) in enumerate(zip(finding.per_class, audited.clean_per_class, strict=True))]
