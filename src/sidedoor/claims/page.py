"""A verification as a page that carries all within itself, runs no script, and escapes names of unknown origin."""

from __future__ import annotations

from importlib.resources import files

from sidedoor.claims.result import LIMITS, REFUTES, Verified
from sidedoor.core.templates import template


def page(found: Verified) -> str:
    """The page."""
    style = (files("sidedoor.report") / "page.css").read_text(encoding="utf-8")
    return template("sidedoor.claims", "page.html.jinja").render(found=found, style=style, limits=LIMITS,
                                                                 refutes=REFUTES)
