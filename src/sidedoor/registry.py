"""Every method by name: the files of this package, then plug-ins of other packages by entry point.

File name = registry name = command-line name. Listing parses files and never imports them, so it does not need torch.
A plug-in declares an entry point in the group `sidedoor.attack`, `sidedoor.defense`, ... named as its method.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.method import check

KINDS = {
    "attack": "attacks",
    "defense": "defenses",
    "goal": "goals",
    "task": "tasks",
    "model": "models",
    "data": "data.sets",
    "trigger": "triggers",
    "design": "trigger_designs",
    "weighting": "multitask",
    "detector": "object_detectors",
    "operator": "forward_operators",
}
"""Kind -> the package whose files are its members. Models, detectors and data sets are functions, the rest classes."""

FUNCTIONS = frozenset({"model", "detector", "data"})
LEADING = {"model": ("classes", "shape", "scale"), "detector": ("classes", "shape"), "data": ("where",),
           "task": ("classes",)}
"""Arguments that the house passes itself; the rest are parameters."""


@dataclass(frozen=True)
class Entry:
    """One registered name: what is known of it without importing it."""

    name: str
    kind: str
    target: str
    summary: str
    paper: str
    origin: str


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All registered names, by kind and name.

    Raises:
        ConfigError: two entries share a name.
    """
    found = [_from_file(kind, file) for kind, package in KINDS.items() for file in _files(package)]
    found += [_from_plugin(kind, point) for kind in KINDS for point in
              importlib.metadata.entry_points(group=f"sidedoor.{kind}")]
    seen: dict[str, Entry] = {}
    for entry in found:
        if entry.name in seen:
            first = seen[entry.name]
            raise ConfigError(f"the name {entry.name!r} is taken twice: {first.target} ({first.origin}) and "
                              f"{entry.target} ({entry.origin}); rename or uninstall one")
        seen[entry.name] = entry
    return tuple(sorted(found, key=lambda e: (list(KINDS).index(e.kind), e.name)))


def _files(package: str) -> list[Path]:
    """The members of a kind, also in folders of it; a file that begins with `_` is a helper of one."""
    files = folder_of(package).rglob("*.py")
    return sorted(f for f in files if f.stem not in ("base", "task") and not f.stem.startswith("_"))


def folder_of(package: str) -> Path:
    """Where the files of a package lie."""
    return Path(__file__).parent.joinpath(*package.split("."))


def _from_file(kind: str, file: Path) -> Entry:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    place = ".".join(file.relative_to(Path(__file__).parent).with_suffix("").parts)
    return Entry(file.stem, kind, f"sidedoor.{place}", *_describe(text), "sidedoor")


def _from_plugin(kind: str, point: importlib.metadata.EntryPoint) -> Entry:
    origin = point.dist.name if point.dist else "unknown package"
    return Entry(point.name, kind, point.value, f"plug-in of {origin}", "", origin)


def _describe(docstring: str) -> tuple[str, str]:
    """(first sentence, the paragraph that begins with "Paper:") of a module docstring."""
    paragraphs = [" ".join(p.split()) for p in docstring.split("\n\n")]
    paper = next((p.removeprefix("Paper:").strip() for p in paragraphs if p.startswith("Paper:")), "")
    return (paragraphs[0] if paragraphs else ""), paper


def paper_of(docstring: str) -> str:
    """The paper that a module docstring names, if any."""
    return _describe(docstring)[1]


def find(name: str, kind: str | None = None) -> Entry:
    """The entry of a name.

    Raises:
        ConfigError: the name is unknown, or is of another kind.
    """
    known = {e.name: e for e in entries()}
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if name not in known:
        raise unknown(kind or "name", name, [n for n, e in known.items() if kind in (None, e.kind)])
    if kind not in (None, known[name].kind):
        raise ConfigError(f"{name!r} is of the kind {known[name].kind}, not {kind}")
    return known[name]


def load(kind: str, name: str) -> Any:
    """The class (attacks, defences, goals, tasks, triggers) or function (models, detectors, data) behind a name."""
    entry = find(name, kind)
    path, _, attribute = entry.target.partition(":")
    try:
        module = importlib.import_module(path)
        if attribute:
            return getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise CannotComplete(f"cannot load {name!r} ({entry.target}) of {entry.origin}: {error}; repair or uninstall "
                             "that package") from error
    if kind in FUNCTIONS:
        return getattr(module, name)
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == path
               and not c.__name__.startswith("_") and issubclass(c, _base(kind)) and not inspect.isabstract(c)]
    if len(classes) != 1:
        raise ConfigError(f"{path} defines {len(classes)} public classes of kind {kind}; expected one")
    return classes[0]


def _base(kind: str) -> type:
    module, name = {
        "attack": ("sidedoor.attacks.base", "Attack"),
        "defense": ("sidedoor.defenses.base", "Defense"),
        "goal": ("sidedoor.goals.base", "Goal"),
        "task": ("sidedoor.tasks.task", "Task"),
        "trigger": ("sidedoor.triggers.base", "Trigger"),
        "design": ("sidedoor.trigger_designs.base", "Design"),
        "weighting": ("sidedoor.multitask.base", "Weighting"),
        "operator": ("sidedoor.forward_operators.base", "Operator"),
    }[kind]
    return typing.cast(type, getattr(importlib.import_module(module), name))


def parameters(kind: str, name: str) -> dict[str, tuple[Any, Any]]:
    """Parameter -> (declared type, default or `inspect.Parameter.empty`)."""
    subject = load(kind, name)
    hints = typing.get_type_hints(subject if kind in FUNCTIONS or hasattr(subject, "__dataclass_fields__")
                                  else subject.__init__, include_extras=True)
    leading = LEADING.get(kind, ())
    made = {f.name: f.default_factory() for f in fields(subject) if f.default_factory is not MISSING} \
        if hasattr(subject, "__dataclass_fields__") else {}
    return {p.name: (hints.get(p.name, Any), made.get(p.name, p.default))
            for p in inspect.signature(subject).parameters.values() if p.name not in leading}


def leading(kind: str, name: str) -> frozenset[str]:
    """Which of the arguments that the house passes itself the method takes."""
    return frozenset(inspect.signature(load(kind, name)).parameters) & frozenset(LEADING.get(kind, ()))


def reference(kind: str, given: str | Mapping[str, Any]) -> dict[str, Any]:
    """A reference as written in a config, in full: `{"name": ..., every parameter}`.

    `"badnets"`, `{name = "badnets", rate = 0.05}` and `"torchvision:resnet18"` (the part behind the colon is the first
    parameter) are all references.

    Raises:
        ConfigError: unknown name or parameter, a missing one, or a value of the wrong type.
    """
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise ConfigError(f"{kind} = {given!r} given; expected a name or a table with a `name`")
    name, _, argument = given["name"].partition(":")
    known = parameters(kind, name)
    values = {k: v for k, v in given.items() if k != "name"}
    if argument:
        if not known:
            raise ConfigError(f"{kind} {name!r} takes no argument, {given['name']!r} given")
        values = {next(iter(known)): argument} | values
    for key in values:
        if key not in known:
            raise unknown(f"parameter of {name}", key, known)
    full: dict[str, Any] = {"name": name}
    for key, (hint, default) in known.items():
        value = values.get(key, default)
        if value is inspect.Parameter.empty:
            raise ConfigError(f"{kind} {name!r} needs the parameter {key!r}")
        value = convert(hint, value, f"{name}.{key}")
        check(f"{name}.{key}", value, hint)
        full[key] = plain(value)
    return full


def make(kind: str, given: str | Mapping[str, Any], **leading: Any) -> Any:
    """The method (an instance) that a reference names. For models and data sets: a partial of the builder.

    `leading` are the arguments that the house passes itself; those that the method does not take are left out.
    """
    full = reference(kind, given)
    name = full.pop("name")
    subject = load(kind, name)
    known = parameters(kind, name)
    values = {k: convert(known[k][0], v, f"{name}.{k}") for k, v in full.items()}
    accepted = inspect.signature(subject).parameters
    values |= {k: v for k, v in leading.items() if k in accepted}
    if kind in FUNCTIONS:
        return functools.partial(typing.cast(Callable[..., Any], subject), **values)
    return subject(**values)


def name_of(method: object) -> str:
    """The registered name of a method's class."""
    module = type(method).__module__
    for entry in entries():
        path, _, attribute = entry.target.partition(":")
        if path == module and attribute in ("", type(method).__name__):
            return entry.name
    return type(method).__name__


_NESTED = {"sidedoor.goals.base.Goal": "goal", "sidedoor.trigger_designs.base.Design": "design",
           "sidedoor.multitask.base.Weighting": "weighting", "sidedoor.attacks.base.Attack": "attack",
           "sidedoor.forward_operators.base.Operator": "operator"}
"""Methods that are parameters of methods, by the type that a field declares."""


def convert(hint: Any, value: Any, what: str) -> Any:
    """A value of a config (TOML or JSON) as the declared type: lists become tuples, tables become goals."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return convert(arguments[0], value, what)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        return value if value is None or len(options) != 1 else convert(options[0], value, what)
    if origin is tuple and isinstance(value, list | tuple):
        each = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
        if len(each) != len(value):
            raise ConfigError(f"{what} = {value!r} given; expected {len(each)} entries")
        return tuple(convert(h, v, what) for h, v in zip(each, value, strict=True))
    if inspect.isclass(hint) and (kind := _NESTED.get(f"{hint.__module__}.{hint.__name__}")):
        return value if isinstance(value, hint) else make(kind, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _every(method: Any) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in fields(method)}


def plain(value: Any, parameters: Callable[[Any], dict[str, Any]] = _every) -> Any:
    """A value as JSON knows it: tuples become lists, methods become references.

    Args:
        parameters: those of a method that are written, by name.
    """
    if isinstance(value, tuple | list):
        return [plain(v, parameters) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {"name": name_of(value)} | {k: plain(v, parameters) for k, v in parameters(value).items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise ConfigError(f"{value!r} of type {type(value).__name__} given; expected a number, text, a list or a method")
