"""What can be said of a registered name: docstring, parameters, paper, threat model."""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from sidedoor import registry
from sidedoor.method import bounds_of, interval, is_label

_ACCESS = {
    "data": "the attacker changes training data; the victim trains",
    "training": "the attacker trains the model and delivers it",
    "weights": "the attacker edits the weights of a trained model",
}


@dataclass(frozen=True)
class Description:
    """One name, for people (`text`) and as JSON (`vars`).

    Args:
        parameters: by name: "type", "required" and, where they are known, "default", its "origin", and "meaning".
        tags: of an attack by its defaults, see `registry.FACETS`.
    """

    name: str
    kind: str
    summary: str
    docstring: str
    paper: str
    threat_model: str
    parameters: dict[str, dict[str, Any]]
    tags: tuple[str, ...] = ()

    def text(self) -> str:
        """A page for the terminal."""
        lines = [f"{self.name} ({self.kind})", "", self.docstring]
        if self.paper:
            lines += ["", *textwrap.wrap(f"Paper: {self.paper}", 100)]
        if self.threat_model:
            lines += ["", *textwrap.wrap(f"Threat model: {self.threat_model}.", 100)]
        if self.tags:
            lines += ["", *textwrap.wrap(f"Tags: {', '.join(self.tags)}.", 100)]
        if self.parameters:
            lines += ["", "Parameters:", *(line for item in self.parameters.items() for line in _parameter(*item))]
        return "\n".join(lines)


def _parameter(name: str, said: dict[str, Any]) -> list[str]:
    default = f" = {said['default']!r}" if "default" in said else ""
    facts = said["type"] + (", required" if said["required"] else "")
    more = [f"default: {said['origin']}"] if "origin" in said else []
    more += [said["meaning"]] if said.get("meaning") else []
    wrap = functools.partial(textwrap.wrap, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return [f"  {name}{default}  ({facts})", *(line for text in more for line in wrap(text))]


def describe(name: str) -> Description:
    """Describe a registered name.

    Raises:
        ConfigError: it is unknown.
    """
    entry = registry.find(name)
    subject = registry.load(entry.kind, entry.name)
    module = inspect.getmodule(subject)
    about = inspect.getdoc(module) or ""
    own = inspect.getdoc(subject) or ""
    if entry.kind == "model":
        own += "\n\nThe reference of a network may also name the weights it starts from: see `sidedoor show weights`."
    return Description(entry.name, entry.kind, entry.summary, f"{_without_paper(about)}\n\n{own}"
                       if entry.kind == "data" else own, entry.paper or registry.paper_of(about),
                       _threat_model(entry.kind, subject), _parameters(entry.kind, entry.name, subject),
                       entry.tags)


def _without_paper(docstring: str) -> str:
    return "\n\n".join(p for p in docstring.split("\n\n") if not p.startswith(("Paper:", "Papers:")))


def _parameters(kind: str, name: str, subject: Any) -> dict[str, dict[str, Any]]:
    origins = getattr(subject, "origins", {})
    return {key: {"type": named(hint), "required": default is inspect.Parameter.empty}
            | ({} if default is inspect.Parameter.empty else {"default": registry.plain(default)})
            | ({"origin": origins[key]} if key in origins else {})
            for key, (hint, default) in registry.parameters(kind, name).items()}


def _threat_model(kind: str, subject: Any) -> str:
    if kind == "attack":
        allowed = [goal.__name__ for goal in subject.goals]
        return f"{_ACCESS[subject.access.value]}; goals: {'any goal' if allowed == ['Goal'] else ', '.join(allowed)}"
    if kind == "defense":
        return f"a defence ({subject.stage.name}) that {subject.stage.words}; it is given {subject.needs}"
    return ""


def meanings(docstring: str) -> dict[str, str]:
    """What the section "Args:" of a docstring says of each name; "a, b: text" speaks of both."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    items = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name.strip(): " ".join(text.split()) for names, text in items for name in names.split(",")}


def named(hint: Any, words: Mapping[Any, str] = MappingProxyType({})) -> str:
    """A declared type in words; `words` has those of further types."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        if is_label(hint):
            return "number or name of a class"
        bounds, kind = bounds_of(hint), named(arguments[0], words)
        return f"{kind}, {interval(bounds)}" if bounds else kind
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        many = "any number" if arguments[-1] is Ellipsis else str(len(arguments))
        each = dict.fromkeys(named(a, words) for a in arguments if a is not Ellipsis)
        return f"list of {many}: {', '.join(each)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if option is type(None) else named(option, words) for option in arguments)
    return words.get(hint) or getattr(hint, "__name__", None) or str(hint)
