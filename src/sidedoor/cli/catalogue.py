"""Registered names as lines for the terminal and as a table for documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sidedoor import registry
from sidedoor.core import source
from sidedoor.registry import Entry

_ORDER = ("poisoning", "training_controlled", "weights", "strategies", "image_to_image",
          "filters", "training", "repair", "audits", "detectors", "purifiers")
"""Rooms in the order in which a table has them; others follow by name."""


def lines(entries: Sequence[Entry]) -> list[str]:
    """A line for each: kind, name, a defence's stage, what the attacker or defender gets, tasks, summary."""
    rows = [(e.kind, e.name, e.stage, e.access, _tasks(e.tasks), e.summary) for e in entries]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True) if width).rstrip()
            for row in rows]


def _tasks(names: tuple[str, ...]) -> str:
    known = [entry.name for entry in registry.entries() if entry.kind == "task"]
    if len(names) > 1 and set(names) >= set(known):
        return "any task"
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""


def markdown(entries: Iterable[Entry]) -> str:
    """A table of names with the authors and years of their papers; a row for each room."""
    rows = [f"| {title} | {', '.join(map(_cited, found))} |" for title, found in rooms(entries)]
    return "\n".join(["| kind | names and papers |", "|---|---|", *rows])


def rooms(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Entries by the rooms that they belong in, each with what it says of itself, in the order of a table."""
    found: dict[tuple[int, int, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault(_place(entry), []).append(entry)
    return [(_title(members[0]), members) for _, members in sorted(found.items())]


def _place(entry: Entry) -> tuple[int, int, str]:
    kind, room = registry.kind_of(entry.kind), entry.room.rpartition(".")[2]
    return registry.KINDS.index(kind), _ORDER.index(room) if room in _ORDER else len(_ORDER), room


def _title(entry: Entry) -> str:
    """What a room says of itself, or what its kind is called."""
    kind = registry.kind_of(entry.kind)
    if entry.room == kind.package:
        return kind.title
    return source.docstring(f"sidedoor.{entry.room}").partition("\n")[0].rstrip(".")


def _cited(entry: Entry) -> str:
    cited = citation(entry.paper)
    return f"`{entry.name}`" + (f" ({cited})" if cited else "")


def citation(paper: str) -> str:
    """Authors and year of the first paper that a text names, as "Gu et al. 2017"; empty where it names none."""
    match = re.match(r'(?P<authors>[^"]*), "[^"]*"[^;]*?\b(?P<year>(?:19|20)\d\d)\b', paper)
    if match is None or paper.startswith("none"):
        return ""
    surnames = [_surname(author) for author in re.split(r", | and ", match["authors"])]
    first = surnames[0] if len(surnames) == 1 else " and ".join(surnames) if len(surnames) == 2 else \
        f"{surnames[0]} et al."
    return f"{first} {match['year']}"


def _surname(author: str) -> str:
    """Without initials, and without words that lead up to a list of authors."""
    words = author.split()
    while words and (words[0][0].islower() or re.fullmatch(r"\w\.", words[0])):
        words.pop(0)
    return " ".join(words)
