"""No page of the site fetches anything from elsewhere: a build that would is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

FETCHING = re.compile(r"<(?!a\b)\w[^>]*?\s(?:src|srcset|href|data|poster)=[\"']?((?:https?:)?//[^\"'\s>]+)")
IMPORTING = re.compile(r"(?:url\(|@import\s)[\"']?((?:https?:)?//[^\"')\s]+)")
NAMED = re.compile(r"<link\b[^>]*\brel=[\"']?canonical")


def on_post_page(output: str, page: Any, config: MkDocsConfig) -> None:
    """Refuse a page with a resource of another host; links that people may follow are none."""
    refuse(page.file.src_uri, remote(output))


def on_post_build(config: MkDocsConfig) -> None:
    """The same of style sheets."""
    for file in Path(config.site_dir).rglob("*.css"):
        refuse(file.name, IMPORTING.findall(file.read_text(encoding="utf-8")))


def remote(html: str) -> list[str]:
    """Addresses on other hosts that a browser would fetch to show a page."""
    found = [match for match in FETCHING.finditer(html) if not NAMED.match(match[0])]
    return [match[1] for match in found] + IMPORTING.findall(html)


def refuse(name: str, addresses: list[str]) -> None:
    if addresses:
        raise PluginError(f"{name} would fetch {', '.join(addresses)}; the site must open without a network")
