"""The site: every name of the registry and of the public face has its place, and nothing is fetched."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pages import ROOT, pages

import sidedoor
from sidedoor import registry
from sidedoor.errors import CannotComplete

OWN = [entry for entry in registry.entries() if entry.origin == "sidedoor"]


@pytest.fixture(scope="module")
def hooks() -> dict[str, ModuleType]:
    """The modules that mkdocs loads, loaded as it does."""
    pytest.importorskip("mkdocs", reason="the site is built with the extra [docs]")
    sys.path.insert(0, str(ROOT / "docs" / "_hooks"))
    try:
        return {name: importlib.import_module(name) for name in ("catalogue", "pictures", "board", "offline")}
    finally:
        sys.path.pop(0)


def test_the_reference_has_every_public_name_once() -> None:
    text = "".join(file.read_text() for file in (ROOT / "docs" / "api").glob("*.md"))
    assert sorted(re.findall(r"^::: sidedoor\.(\w+)$", text, re.MULTILINE)) == sidedoor.__all__


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = re.findall(r"[\w/-]+\.md", text)
    there = [str(file.relative_to(ROOT / "docs")) for file in pages()]
    assert sorted(named) == sorted(there)


def test_the_catalogue_links_every_name_to_its_section(hooks: dict[str, ModuleType]) -> None:
    index = hooks["catalogue"].index(OWN)
    links = re.findall(r"\[`([\w]+)`\]\(([\w-]+)\.md#(\w+)\)", index)
    assert sorted(name for name, _, _ in links) == sorted(entry.name for entry in OWN)
    assert all(name == anchor for name, _, anchor in links)
    assert ("badnets", "attacks-poisoning", "badnets") in links


def test_a_section_says_paper_threat_model_and_the_origin_of_defaults(hooks: dict[str, ModuleType]) -> None:
    entry = registry.find("strip")
    measured = {"a": "| badnets | strip |", "b": "| badnets | stripes |", "c": "with `strip`"}
    text = "\n".join(hooks["catalogue"].section(entry, {"strip"}, measured))
    assert "## strip { #strip }" in text
    assert "pictures/strip.png" in text
    assert "[arXiv:1902.06531](https://arxiv.org/abs/1902.06531)" in text
    assert "it is given the model's probabilities, clean images" in text
    assert "| `overlays` | `100` | clean images that each input is blended with; int, at least 1 | paper: N = 100 |" \
        in text
    assert "Args:" not in text
    assert re.findall(r"results/(\w)\.md", text) == ["a", "c"]


def test_without_entries_the_site_has_no_leaderboard(hooks: dict[str, ModuleType], tmp_path: Path) -> None:
    board = hooks["board"]
    files, config = board.Files([]), board.MkDocsConfig()
    config.docs_dir = str(tmp_path)
    assert len(board.on_files(files, config)) == 0
    (tmp_path / board.FOLDER).mkdir()
    with pytest.raises(CannotComplete, match="no entries"):
        board.on_files(files, config)


@pytest.mark.slow
def test_pictures_are_of_attacks_whose_trigger_needs_no_training(hooks: dict[str, ModuleType]) -> None:
    shown = {name for name, _ in hooks["pictures"].pictures()}
    assert {"badnets", "blended", "sig", "wanet"} <= shown
    assert not {"narcissus", "issba", "lira", "input_aware", "trojannn"} & shown


def test_markup_of_docstrings_is_text(hooks: dict[str, ModuleType]) -> None:
    assert hooks["catalogue"].escaped("a_b * <c> `d_e`") == r"a\_b \* \<c\> `d_e`"


def test_a_page_that_would_fetch_something_is_refused(hooks: dict[str, ModuleType]) -> None:
    remote = hooks["offline"].remote
    for wrong in ('<script src="https://a.example/b.js">', '<img alt="" src=//a.example/b.png>',
                  '<link rel="stylesheet" href="https://a.example/b.css">', "<style>@import url(http://a.example/b)</style>"):
        assert len(remote(wrong)) == 1, wrong
    for right in ('<a href="https://a.example">', '<script src="b.js">', '<link rel="canonical" href="https://a.example/">',
                  '<img src="data:image/png;base64,//">'):
        assert remote(right) == [], right
    with pytest.raises(Exception, match=r"index\.md would fetch"):
        hooks["offline"].refuse("index.md", ["https://a.example"])
