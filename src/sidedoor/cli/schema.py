"""The JSON Schema of specifications and sweep files, which editors check and complete as one types."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from sidedoor import registry
from sidedoor.cli.specification import Grid, Key, Recipe, Reference, recipe_keys, spec_keys, weights_keys
from sidedoor.method import bounds_of

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_KINDS = {"surrogate": "model", "defenses": "defense"}
"""The kind that a key refers to, where it is not its name."""


def schema() -> dict[str, Any]:
    """Draft 2020-12; parameters of methods are left to `sidedoor show`, since they take the methods to be imported."""
    properties = _properties(spec_keys())
    kinds = {_KINDS.get(name, name) for name in properties} & {kind.name for kind in registry.KINDS}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sidedoor specification or sweep file",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["data", "model"]}, {"required": ["grid"]}],
        "$defs": {kind: _reference(kind) for kind in sorted(kinds)} | {
            "recipe": {"type": "object", "properties": _properties(recipe_keys()), "additionalProperties": False}},
    }


def _properties(keys: Iterable[Key]) -> dict[str, Any]:
    return {key.name: of(key.hint, _KINDS.get(key.name, key.name)) | {"description": key.meaning}
            | ({"default": _plain(key.default[0])} if key.default else {}) for key in keys}


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def of(hint: Any, kind: str = "") -> dict[str, Any]:
    """The schema of a declared type; `kind` is that of the methods that it refers to."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SPECIAL:
        return {"$ref": f"#/$defs/{kind}"} if hint is Reference else dict(_SPECIAL[hint])
    if origin is Annotated:
        return of(arguments[0], kind) | _bounds(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [of(option, kind) for option in arguments]}
    if origin is tuple:
        return _array(arguments, kind)
    return {"type": _PLAIN[hint]} if hint in _PLAIN else {}


_AXES = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "array", "minItems": 1}}
_SPECIAL: dict[Any, dict[str, Any]] = {
    Reference: {}, Recipe: {"$ref": "#/$defs/recipe"},
    Grid: {"anyOf": [_AXES, {"type": "array", "minItems": 1, "items": _AXES}]},
}


def _array(items: tuple[Any, ...], kind: str) -> dict[str, Any]:
    if items[-1] is Ellipsis:
        return {"type": "array", "items": of(items[0], kind)}
    return {"type": "array", "prefixItems": [of(item, kind) for item in items], "minItems": len(items),
            "maxItems": len(items)}


def _bounds(hint: Any) -> dict[str, Any]:
    bounds = bounds_of(hint)
    if bounds is None:
        return {}
    low = {"exclusiveMinimum": 0} if bounds.low == 1e-300 else {"minimum": bounds.low}
    return low | ({"maximum": bounds.high} if math.isfinite(bounds.high) else {})


def _reference(kind: str) -> dict[str, Any]:
    """A name, a name with its first parameter behind a colon, or a table with a name."""
    entries = [entry for entry in registry.entries() if entry.kind == kind]
    names = sorted(name for entry in entries for name in (entry.name, *entry.aliases))
    name = {"anyOf": [{"enum": names}, {"type": "string", "pattern": f"^({'|'.join(names)}):"}]}
    keys = {"name": name} | (_weights() if kind == "model" else {})
    return {"description": f"See `sidedoor list {kind}`.",
            "anyOf": [*name["anyOf"], {"type": "object", "required": ["name"], "properties": keys}]}


def _weights() -> dict[str, Any]:
    """The keys about a network's weights; one number stands for a list of one."""
    found = _properties(weights_keys())
    for name in ("mean", "std"):
        found[name] = {"anyOf": [{"type": "number"}, found[name]]}
    return found
