"""What can be said of a registered name: docstring, parameters, paper, threat model."""

from __future__ import annotations

import inspect
import textwrap
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access
from sidedoor.defenses.base import Defense
from sidedoor.goals.base import Goal
from sidedoor.method import bounds_of, interval

_ACCESS = {
    Access.DATA: "the attacker changes training data; the victim trains",
    Access.TRAINING: "the attacker trains the model and delivers it",
    Access.WEIGHTS: "the attacker edits the weights of a trained model",
}
_GIVEN = {
    "train": "the training data, sealed (poisoned rows are not marked)",
    "build": "the network's architecture",
    "model": "the model",
    "clean": "the defender's small clean split",
}


@dataclass(frozen=True)
class Description:
    """One registered name, for people (`text`) and as JSON (`vars`)."""

    name: str
    kind: str
    summary: str
    docstring: str
    paper: str
    threat_model: str
    parameters: dict[str, dict[str, Any]]

    def text(self) -> str:
        """A page for the terminal."""
        lines = [f"{self.name} ({self.kind})", "", self.docstring]
        if self.paper:
            lines += ["", *textwrap.wrap(f"Paper: {self.paper}", 100)]
        if self.threat_model:
            lines += ["", *textwrap.wrap(f"Threat model: {self.threat_model}.", 100)]
        if self.parameters:
            lines += ["", "Parameters:"]
            lines += [f"  {name} = {p['default']!r}  ({p['type']})" if "default" in p else
                      f"  {name}  ({p['type']}, required)" for name, p in self.parameters.items()]
        return "\n".join(lines)


def describe(name: str) -> Description:
    """Describe a name.

    Raises:
        ConfigError: it is unknown.
    """
    entry = registry.find(name)
    subject = registry.load(entry.kind, name)
    parameters = {key: {"type": _named(hint)} | ({} if default is inspect.Parameter.empty else
                                                 {"default": registry.plain(default)})
                  for key, (hint, default) in registry.parameters(entry.kind, name).items()}
    module = inspect.getmodule(subject)
    paper = entry.paper or registry.paper_of(inspect.getdoc(module) or "")
    return Description(name, entry.kind, entry.summary, inspect.getdoc(subject) or "", paper, _threat_model(subject),
                       parameters)


def _threat_model(subject: Any) -> str:
    if inspect.isclass(subject) and issubclass(subject, Attack):
        goals = "any goal" if subject.goals == (Goal,) else ", ".join(goal.__name__ for goal in subject.goals)
        return f"{_ACCESS[subject.access]}; goals: {goals}"
    if inspect.isclass(subject) and issubclass(subject, Defense):
        verb = next(getattr(subject, name) for name in ("score", "train", "repair", "inspect", "fit")
                    if hasattr(subject, name))
        given = [_GIVEN[name] for name in inspect.signature(verb).parameters if name in _GIVEN]
        return f"a {subject.stage} defence that is given {', '.join(given)}"
    return ""


def _named(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bounds, kind = bounds_of(hint), _named(arguments[0])
        return f"{kind}, {interval(bounds)}" if bounds else kind
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple:
        many = "any number" if arguments[-1] is Ellipsis else str(len(arguments))
        return f"list of {many}: {', '.join(dict.fromkeys(_named(a) for a in arguments if a is not Ellipsis))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if option is type(None) else _named(option) for option in arguments)
    return getattr(hint, "__name__", None) or str(hint)
