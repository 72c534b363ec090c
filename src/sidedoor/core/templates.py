"""Pages from templates that lie beside the code."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jinja2


def template(package: str, name: str, **filters: Callable[..., Any]) -> jinja2.Template:
    """A template of HTML: what it is given is escaped, and a name it is not given is an error."""
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= filters
    return page.from_string((files(package) / name).read_text(encoding="utf-8"))
