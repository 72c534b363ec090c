"""Pages that are made when the site is built: every registered name, and the list of results.

A page is a room of the registry, as in the table of the README; what stands on it is what `sidedoor show` prints.
mkdocs calls `on_files` before it reads any page.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pictures import SHOWN, pictures

from sidedoor import registry
from sidedoor.cli.catalogue import rooms
from sidedoor.cli.describe import describe, meanings
from sidedoor.registry import Entry

SECTIONS = re.compile(r"^(Args|Attributes|Raises|Returns|Yields):\n(?:[ \t]+.*\n?|\n)*", re.MULTILINE)
CATALOGUE, RESULTS = "Catalogue", "Results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and name them in the navigation where it has a place for them."""
    entries = [entry for entry in registry.entries() if entry.origin == "sidedoor"]
    results = sorted(Path(config.docs_dir, "results").glob("*.md"))
    shown = dict(pictures())
    measured = {file.stem: file.read_text(encoding="utf-8") for file in results}
    pages = {slug(found[0]): page(title, found, shown.keys(), measured) for title, found in rooms(entries)}
    made: dict[str, Any] = {"catalogue/index.md": index(entries)}
    made |= {f"catalogue/{name}.md": text for name, text in pages.items()}
    made |= {f"catalogue/pictures/{name}.png": content for name, content in shown.items()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    lists = {CATALOGUE: ["catalogue/index.md", *(f"catalogue/{name}.md" for name in pages)],
             RESULTS: [f"results/{file.name}" for file in results]}
    for item in config.nav or ():
        for title in set(item) & set(lists):
            item[title] = lists[title]
    return files


def slug(entry: Entry) -> str:
    """Of the page that an entry is on."""
    return entry.room.replace(".", "-")


def index(entries: list[Entry]) -> str:
    """What there is, a line for each name."""
    lines = ["# Catalogue", "", f"{len(entries)} names, as `sidedoor list` has them. A page says of each what it is, "
             "its threat model, its paper, and where the default of each parameter comes from, as `sidedoor show NAME` "
             "does.", ""]
    for title, found in rooms(entries):
        lines += [f"## {title}", "", "| name | given | what it is |", "|---|---|---|"]
        lines += [f"| [`{e.name}`]({slug(e)}.md#{e.name}) | {e.access} | {escaped(e.summary)} |" for e in found] + [""]
    return "\n".join(lines)


def page(title: str, entries: list[Entry], shown: Any, measured: dict[str, str]) -> str:
    """One room."""
    return "\n".join([f"# {title}", "", *(line for entry in entries for line in section(entry, shown, measured))])


def section(entry: Entry, shown: Any, measured: dict[str, str]) -> Iterator[str]:
    """One name."""
    said = describe(entry.name)
    yield from (f"## {entry.name} {{ #{entry.name} }}", "", f"**{escaped(entry.summary)}**", "")
    if entry.name in shown:
        yield from (f"![{SHOWN} {entry.name}](pictures/{entry.name}.png){{ .trigger }}", "")
    own = inspect.cleandoc(said.docstring)
    yield from (escaped(SECTIONS.sub("", own).strip()), "")
    facts = {"Threat model": escaped(said.threat_model), "Tags": escaped(", ".join(said.tags)),
             "Paper": linked(said.paper)}
    for label, text in facts.items():
        yield from (f"*{label}:* {text}", "") if text else ()
    if said.parameters:
        yield from parameters(said.parameters, meanings(own))
    if pages := [name for name, text in measured.items() if re.search(rf"`{entry.name}`|\| {entry.name} [(|]", text)]:
        yield from ("*Figures:* " + ", ".join(f"[{name}](../results/{name}.md)" for name in pages), "")


def parameters(known: dict[str, dict[str, Any]], means: dict[str, str]) -> Iterator[str]:
    """A table of them."""
    yield from ("| parameter | default | what it is | where the default comes from |", "|---|---|---|---|")
    for name, said in known.items():
        default = f"`{in_words(said['default'])}`" if "default" in said else "required"
        what = "; ".join(filter(None, [(said.get("meaning") or means.get(name, "")).rstrip("."), said["type"]]))
        yield f"| `{name}` | {default} | {escaped(what)} | {escaped(said.get('origin', ''))} |"
    yield ""


def in_words(default: Any) -> str:
    """A default as a specification writes it; a method by its name."""
    if isinstance(default, dict):
        return str(default["name"])
    return {"": '""', "None": "none", "True": "true", "False": "false"}.get(str(default), str(default))


def linked(paper: str) -> str:
    """A citation whose arXiv numbers are links."""
    return re.sub(r"arXiv[: ](\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", escaped(paper))


def escaped(text: str) -> str:
    """Text without markup but for `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>|\[\]{}])", r"\\\1", part) for part in parts)
