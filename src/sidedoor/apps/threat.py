"""What an attack's own code declares of its threat model: access, labels, networks, and what the attacker decides.

Read from source without importing it; a strategy has what the attack within it has, and its own access.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidedoor import registry
from sidedoor.core import source
from sidedoor.core.source import Definition
from sidedoor.errors import ConfigError

_PLANNING = ("plan", "doors", "rows")
_SHARED = ("sidedoor.attacks.base", "sidedoor.attacks.strategies.base")
"""Modules of base classes, which hand the surrogate on to members that may not look at it."""


@dataclass(frozen=True)
class Threat:
    """The threat model of an attack.

    Args:
        access: "data", "training" or "weights"; empty if no package brings the attack any more.
        clean_label: labels are left alone.
        surrogate: it derives the trigger or the poison from a network of the kind that the specification names.
        networked: test images have to pass a network of the attacker.
        target: "any", "some_classes", "untargeted", or "positive" for a watermark, which harms nobody.
    """

    access: str
    clean_label: bool
    surrogate: bool
    networked: bool
    target: str


def threat_of(attack: Mapping[str, Any]) -> Threat:
    """Of an attack by its reference."""
    inner = attack.get("attack")
    within = threat_of(inner) if isinstance(inner, Mapping) else None
    try:
        entry = registry.find(str(attack["name"]), "attack")
    except ConfigError:
        return Threat("", False, False, False, _target(attack, ""))
    found = _class_of(entry.target)
    return Threat(
        entry.access, "clean_label" in entry.tags or bool(within and within.clean_label),
        within.surrogate if within else bool(found and _needs_surrogate(found)),  # a strategy hands it on
        bool(found and _is_networked(found)) or bool(within and within.networked),
        within.target if within and "goal" not in attack else _target(attack, entry.summary))


def _target(attack: Mapping[str, Any], summary: str) -> str:
    goal = attack.get("goal")
    name = str(goal["name"]) if isinstance(goal, Mapping) and "name" in goal else ""
    if "watermark" in summary.lower():
        return "positive"
    if not _aimed(name):
        return "untargeted"
    return "some_classes" if name == "from_classes" or "source_classes" in attack else "any"


@functools.cache
def _aimed(goal: str) -> bool:
    """Whether reaching the goal's target is the success; otherwise any wrong output is one."""
    if not goal or goal not in {entry.name for entry in registry.entries() if entry.kind == "goal"}:
        return True
    value = next((v for each in source.definitions(registry.find(goal, "goal").target)
                  if (v := each.value("aimed")) is not None), None)
    return value is None or not (isinstance(value[1], ast.Constant) and value[1].value is False)


def _class_of(target: str) -> Definition | None:
    """The attack's class."""
    module, _, name = target.partition(":")
    if name:
        return source.definition(module, name)
    return next((each for each in source.definitions(module) if isinstance(each.node, ast.ClassDef)), None)


def _own(found: Definition) -> Iterator[Definition]:
    """The class and its bases, those aside that all attacks of a kind share."""
    yield from (each for each in found.lineage() if each.module not in _SHARED)


def _needs_surrogate(found: Definition) -> bool:
    return any(_uses(found, name, "surrogate") for name in _PLANNING)


def _uses(found: Definition, method: str, argument: str) -> bool:
    """Whether a method looks at an argument, or hands it to one of its own that does."""
    body = next((node for each in _own(found) if isinstance(each.node, ast.ClassDef) for node in each.node.body
                 if isinstance(node, ast.FunctionDef) and node.name == method), None)
    if body is None:
        return False
    handed: set[int] = set()
    for call in ast.walk(body):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and \
                isinstance(call.func.value, ast.Name) and call.func.value.id == "self" and call.func.attr != method:
            names = [each for each in call.args if isinstance(each, ast.Name) and each.id == argument]
            if names and not _uses(found, call.func.attr, argument):
                handed |= set(map(id, names))
    return any(isinstance(node, ast.Name) and node.id == argument and id(node) not in handed for node in ast.walk(body))


def _is_networked(found: Definition) -> bool:
    """Whether its module, or that of a base, imports a trigger that says so."""
    for module in {each.module for each in _own(found)}:
        for statement in ast.walk(source.parsed(module) or ast.Module([], [])):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    trigger = source.definition(statement.module, alias.name) if alias.name[:1].isupper() else None
                    value = trigger.value("networked") if trigger and isinstance(trigger.node, ast.ClassDef) else None
                    if value and isinstance(value[1], ast.Constant) and value[1].value is True:
                        return True
    return False
