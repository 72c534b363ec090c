"""Every method by name: the files of this package, then plug-ins of other packages by entry point.

File name = registry name = command-line name. Listing reads source and imports no method, so it does not need torch.
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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from sidedoor.core import source
from sidedoor.core.source import Definition
from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.method import check


@dataclass(frozen=True)
class Kind:
    """One kind of registered thing: all that the house knows of it.

    Args:
        name: as commands, specifications and entry points (`sidedoor.NAME`) write it.
        plural: as people may type it.
        title: in documents.
        package: whose files, also in folders of it, are the members.
        base: the class that members derive from, "module:Class"; None: members are functions.
        leading: arguments that the house passes itself; the rest are parameters.
        former: the name it had before, which is still accepted.
    """

    name: str
    plural: str
    title: str
    package: str
    base: str | None = None
    leading: tuple[str, ...] = ()
    former: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        former = (self.former, f"{self.former}s") if self.former else ()
        return (self.name, self.plural, *former)

    @property
    def groups(self) -> tuple[str, ...]:
        """Of entry points."""
        return tuple(f"sidedoor.{name}" for name in (self.name, self.former) if name)


KINDS = (
    Kind("attack", "attacks", "Attacks", "attacks", "attacks.base:Attack"),
    Kind("defense", "defenses", "Defences", "defenses", "defenses.base:Defense"),
    Kind("goal", "goals", "Goals", "goals", "goals.base:Goal"),
    Kind("task", "tasks", "Tasks", "tasks", "tasks.task:Task", ("classes",)),
    Kind("model", "models", "Networks", "models", leading=("classes", "shape", "scale", "crop", "download")),
    Kind("data", "datasets", "Data sets", "data.sets", leading=("where",)),
    Kind("trigger", "triggers", "Triggers", "triggers", "triggers.base:Trigger"),
    Kind("trigger_design", "trigger_designs", "Trigger designs", "trigger_designs", "trigger_designs.base:Design",
         former="design"),
    Kind("weighting", "weightings", "Weightings of two losses", "multitask", "multitask.base:Weighting"),
    Kind("object_detector", "object_detectors", "Object detectors", "object_detectors", leading=("classes", "shape"),
         former="detector"),
    Kind("forward_operator", "forward_operators", "Forward operators", "forward_operators",
         "forward_operators.base:Operator", former="operator"),
    Kind("verifier", "verifiers", "Ownership tests", "ownership", "ownership.base:Verifier"),
    Kind("explainer", "explainers", "Explainers", "explain.methods", "explain.base:Explainer"),
)


FACETS: dict[str, tuple[str, ...]] = {
    "access": ("data", "training", "weights"),
    "visibility": ("visible", "invisible"),
    "specificity": ("agnostic", "sample_specific"),
    "label": ("poison_label", "clean_label"),
    "trigger": ("fixed", "optimised"),
    "medium": ("digital", "physical", "semantic"),
    "aim": ("targeted", "untargeted"),
    "targets": ("single_target", "multi_target"),
}
"""The taxonomy of attacks (after Y. Li, Jiang, Z. Li, Xia, "Backdoor Learning: A Survey", TNNLS 2022): tags by facet.
An attack has one tag of each, by its default parameters; of "label" where it poisons data, of "targets" where it has
any.

visible: stamping leaves a PSNR below 30 dB or an SSIM below 0.95.
agnostic: what becomes of a pixel depends on the pixel and its place alone, so that all images get the same change.
optimised: the trigger is fitted to a network that learns the backdoor, or learned with it.
"""


def kind_of(name: str) -> Kind:
    """The kind that a name stands for, in the singular or plural, or by the name it had before.

    Raises:
        ConfigError: it is unknown.
    """
    for kind in KINDS:
        if name in kind.names:
            return kind
    raise unknown("kind", name, [kind.name for kind in KINDS])


@dataclass(frozen=True)
class Entry:
    """One registered name: what is known of it without importing it.

    Args:
        target: the module, or "module:attribute".
        summary: one line.
        paper: as its module names it.
        origin: the package that brings it.
        room: the package of the house that it belongs in, such as "attacks.poisoning".
        access: what the attacker can touch ("data", "training" or "weights"), or what the defender is given, in words.
        stage: of a defence.
        tasks: that an attack, a defence, a goal or a network is for, by name.
        aliases: further names that it is found by.
        tags: of an attack, see `FACETS`.
    """

    name: str
    kind: str
    target: str
    summary: str
    paper: str
    origin: str
    room: str = ""
    access: str = ""
    stage: str = ""
    tasks: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def tagged(self, wanted: Collection[str]) -> bool:
        """Whether it has all of these tags.

        Raises:
            ConfigError: there is no such tag.
        """
        known = [tag for tags in FACETS.values() for tag in tags]
        for tag in wanted:
            if tag not in known:
                raise ConfigError(f"unknown tag {tag!r}; expected one of {', '.join(known)}")
        return set(wanted) <= set(self.tags)


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All registered names, by kind and name.

    Raises:
        ConfigError: two entries share a name.
    """
    return tuple(sorted({entry.name: entry for entry in _by_name().values()}.values(),
                        key=lambda e: (KINDS.index(kind_of(e.kind)), e.name)))


@functools.cache
def _by_name() -> dict[str, Entry]:
    """Every entry by its name and its aliases."""
    seen: dict[str, Entry] = {}
    for entry in _found():
        for name in (entry.name, *entry.aliases):
            if name in seen:
                first = seen[name]
                raise ConfigError(f"the name {name!r} is taken twice: {first.target} ({first.origin}) and "
                                  f"{entry.target} ({entry.origin}); rename or uninstall one")
            seen[name] = entry
    return seen


def _found() -> Iterator[Entry]:
    for kind in KINDS:
        yield from (_from_file(kind, file) for file in _files(kind.package))
    for kind in KINDS:
        yield from (_from_plugin(kind, point) for group in kind.groups
                    for point in importlib.metadata.entry_points(group=group))


def _files(package: str) -> list[Path]:
    """The members of a kind, also in folders of it; a file that begins with `_` is a helper of one."""
    files = folder_of(package).rglob("*.py")
    return sorted(f for f in files if f.stem not in ("base", "task") and not f.stem.startswith("_"))


def folder_of(package: str) -> Path:
    """Where the files of a package lie."""
    return Path(__file__).parent.joinpath(*package.split("."))


def _from_file(kind: Kind, file: Path) -> Entry:
    place = ".".join(file.relative_to(Path(__file__).parent).with_suffix("").parts)
    module = f"sidedoor.{place}"
    entry = Entry(file.stem, kind.name, module, *_describe(source.docstring(module)), "sidedoor",
                  place.rpartition(".")[0])
    return _with_facts(entry, kind, _member(kind, module, file.stem))


def _from_plugin(kind: Kind, point: importlib.metadata.EntryPoint) -> Entry:
    origin = point.dist.name if point.dist else "unknown package"
    module, _, attribute = point.value.partition(":")
    found = source.definition(module, attribute) if attribute else _member(kind, module, point.name)
    summary, paper = _describe(source.docstring(module))
    own = _describe(found.docstring)[0] if found and attribute else ""
    entry = Entry(point.name, kind.name, point.value, own or summary or f"plug-in of {origin}", paper, origin,
                  kind.package)
    return _with_facts(entry, kind, found)


def _member(kind: Kind, module: str, name: str) -> Definition | None:
    """The one public class of the kind, or the function of the name, that a module defines."""
    if kind.base is None:
        return source.definition(module, name)
    return next((d for d in source.definitions(module) if kind.base in map(_place, d.lineage())), None)


def _place(found: Definition) -> str:
    return f"{found.module.removeprefix('sidedoor.')}:{found.name}"


def _with_facts(entry: Entry, kind: Kind, found: Definition | None) -> Entry:
    """The entry with what its class or function says, if its source is found."""
    if found is None:
        return entry
    former = found.text("key_name")
    return replace(entry, room=_room(entry, kind, found), access=_access(found), stage=_stage(found),
                   tasks=_tasks(kind, found), aliases=(former,) if former else (),
                   tags=_tags(found) if kind.name == "attack" else ())


def _room(entry: Entry, kind: Kind, found: Definition) -> str:
    """The package that a member lies in, or the nearest of its bases that the house has."""
    places = (each.module.removeprefix("sidedoor.").rpartition(".")[0] for each in found.lineage()
              if each.module.startswith(f"sidedoor.{kind.package}."))
    return next(places, entry.room)


_GIVEN = {"labelled": "labelled clean images", "images": "clean images", "none": ""}


def _access(found: Definition) -> str:
    """An attack's `access`, or what a defence `needs`, in words."""
    value, needs = found.value("access"), _call(found, "needs")
    if needs is None:
        return value[1].attr.lower() if value and isinstance(value[1], ast.Attribute) else ""
    given = [_GIVEN.get(str(needs.get(name, "none")), str(needs.get(name))) for name in ("model", "clean")]
    given += ["training data"] * bool(needs.get("train")) + ["shadow models"] * bool(needs.get("shadows"))
    return ", ".join(filter(None, given)) or "inputs only"


def _stage(found: Definition) -> str:
    """The name of a defence's stage, the first argument of its `Stage`."""
    return str((_call(found, "stage") or {}).get("0", ""))


def _tags(found: Definition) -> tuple[str, ...]:
    """Of each facet the tag that an attack's class says, or its nearest base that says any; the others are derived from
    its access and its default goal.
    """
    said = [tag for each in found.lineage() for tag in _texts(each.own("tags"))]
    said += [_access(found), *_aims(found)]
    chosen = {facet: next((tag for tag in said if tag in tags), "") for facet, tags in FACETS.items()}
    if chosen["access"] != "data":
        chosen["label"] = ""
    return tuple(filter(None, chosen.values()))


def _texts(expression: ast.expr | None) -> list[str]:
    """The texts in an expression, such as `frozenset({"clean_label"})`, in their order."""
    nodes = ast.walk(expression) if expression is not None else ()
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _aims(attack: Definition) -> list[str]:
    """What the class of an attack's default goal says of it."""
    given = attack.value("goal")
    if given is None or not isinstance(given[1], ast.Call):
        return []
    goal = source.definition(given[0], ast.unparse(given[1].func))
    if goal is None:
        return []
    aimed, several = (_is_true(goal, name) for name in ("aimed", "several"))
    return ["targeted", "multi_target" if several else "single_target"] if aimed else ["untargeted"]


def _is_true(found: Definition, name: str) -> bool:
    value = found.value(name)
    return value is not None and isinstance(value[1], ast.Constant) and value[1].value is True


def _call(found: Definition, name: str) -> dict[str, Any] | None:
    """The plain arguments of the call whose value a class assigns to a name, by their names or places."""
    value = found.value(name)
    if value is None or not isinstance(value[1], ast.Call):
        return None
    given = {str(place): argument for place, argument in enumerate(value[1].args)}
    given |= {keyword.arg: keyword.value for keyword in value[1].keywords if keyword.arg}
    return {key: argument.value for key, argument in given.items() if isinstance(argument, ast.Constant)}


BUILT_FOR = {"labels": "classes", "image": "scale", "response": "crop"}
"""The argument of a network's builder by which it suits a task, by what the network gives (`Task.output`)."""


def _tasks(kind: Kind, found: Definition) -> tuple[str, ...]:
    """The tasks that a member suits: those that its class names, or that have its kind of output."""
    if kind.name == "model":
        wanted = {output for output, argument in BUILT_FOR.items() if argument in found.arguments}
        return tuple(name for name, task in _all_tasks() if task.text("output") in wanted)
    if kind.name == "goal":
        return tuple(name for name, task in _all_tasks() if task.text("output") == found.text("output"))
    if (value := found.value("tasks")) is None or not isinstance(value[1], ast.Tuple):
        return ()
    named = {_place(d) for e in value[1].elts if (d := source.definition(value[0], ast.unparse(e)))}
    return tuple(name for name, task in _all_tasks() if named & set(map(_place, task.lineage())))


@functools.cache
def _all_tasks() -> tuple[tuple[str, Definition], ...]:
    kind = kind_of("task")
    modules = [(file.stem, f"sidedoor.{kind.package}.{file.stem}") for file in _files(kind.package)]
    return tuple((name, found) for name, module in modules if (found := _member(kind, module, name)))


def _describe(docstring: str) -> tuple[str, str]:
    """(first sentence, the paragraph that begins with "Paper:" or "Papers:") of a module docstring."""
    paragraphs = [" ".join(p.split()) for p in docstring.split("\n\n")]
    paper = next((text for p in paragraphs if (text := p.removeprefix("Papers:").removeprefix("Paper:")) != p), "")
    return (paragraphs[0] if paragraphs else ""), paper.strip()


def paper_of(docstring: str) -> str:
    """The paper that a module docstring names, if any."""
    return _describe(docstring)[1]


def find(name: str, kind: str | None = None) -> Entry:
    """The entry of a name, or of one that it had before.

    Raises:
        ConfigError: the name is unknown, or is of another kind.
    """
    wanted, known = kind_of(kind).name if kind is not None else None, _by_name()
    if name not in known:
        raise unknown(wanted or "name", name, [e.name for e in entries() if wanted in (None, e.kind)])
    if wanted not in (None, known[name].kind):
        raise ConfigError(f"{name!r} is of the kind {known[name].kind}, not {wanted}")
    return known[name]


def load(kind: str, name: str) -> Any:
    """The class, or for kinds without a base class the function, behind a name."""
    entry = find(name, kind)
    path, _, attribute = entry.target.partition(":")
    try:
        module = importlib.import_module(path)
        if attribute:
            return getattr(module, attribute)
    except (ImportError, AttributeError) as error:
        raise CannotComplete(f"cannot load {name!r} ({entry.target}) of {entry.origin}: {error}; repair or uninstall "
                             "that package") from error
    base = _base(kind_of(kind))
    if base is None:
        return getattr(module, entry.name)
    classes = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == path
               and not c.__name__.startswith("_") and issubclass(c, base) and not inspect.isabstract(c)]
    if len(classes) != 1:
        raise ConfigError(f"{path} defines {len(classes)} public classes of kind {entry.kind}; expected one")
    return classes[0]


@functools.cache
def _base(kind: Kind) -> type | None:
    if kind.base is None:
        return None
    module, _, name = kind.base.partition(":")
    return typing.cast(type, getattr(importlib.import_module(f"sidedoor.{module}"), name))


def parameters(kind: str, name: str) -> dict[str, tuple[Any, Any]]:
    """Parameter -> (declared type, default or `inspect.Parameter.empty`)."""
    return _parameters(load(kind, name), kind)


@functools.cache
def _parameters(subject: Any, kind: str) -> dict[str, tuple[Any, Any]]:
    """Once for each class: annotations are text, and compiled to be resolved."""
    leading = kind_of(kind).leading
    hints = typing.get_type_hints(subject if _is_function(kind) or hasattr(subject, "__dataclass_fields__")
                                  else subject.__init__, include_extras=True)
    made = {f.name: f.default_factory() for f in fields(subject) if f.default_factory is not MISSING} \
        if hasattr(subject, "__dataclass_fields__") else {}
    return {p.name: (hints.get(p.name, Any), made.get(p.name, p.default))
            for p in _signature(subject).parameters.values() if p.name not in leading}


_signature = functools.cache(inspect.signature)


def leading(kind: str, name: str) -> frozenset[str]:
    """Which of the arguments that the house passes itself the method takes."""
    return frozenset(_signature(load(kind, name)).parameters) & frozenset(kind_of(kind).leading)


def _is_function(kind: str) -> bool:
    return kind_of(kind).base is None


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
    known, registered = parameters(kind, name), find(name, kind).name
    values = {k: v for k, v in given.items() if k != "name"}
    if argument:
        if not known:
            raise ConfigError(f"{kind} {name!r} takes no argument, {given['name']!r} given")
        values = {next(iter(known)): argument} | values
    for key in values:
        if key not in known:
            raise unknown(f"parameter of {name}", key, known)
    full: dict[str, Any] = {"name": registered}
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
    accepted = _signature(subject).parameters
    values |= {k: v for k, v in leading.items() if k in accepted}
    if _is_function(kind):
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


def _nested(hint: Any) -> Kind | None:
    """The kind of the methods that a declared type stands for: methods may be parameters of methods."""
    place = f"{hint.__module__.removeprefix('sidedoor.')}:{hint.__name__}" if inspect.isclass(hint) else None
    return next((kind for kind in KINDS if kind.base and kind.base == place), None)


def kind_among(hint: Any) -> str | None:
    """The kind of the methods that a declared type takes, also beside None; None for other types."""
    found = _nested(hint)
    if found is None and typing.get_origin(hint) in (typing.Union, types.UnionType, Annotated):
        return next((kind for each in typing.get_args(hint) if (kind := kind_among(each))), None)
    return found.name if found else None


def key_name_of(method: object) -> str:
    """The name that keys of results know a method by: that which it had when results of it were first kept."""
    return getattr(type(method), "key_name", "") or name_of(method)


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
    if kind := _nested(hint):
        return value if isinstance(value, hint) else make(kind.name, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _real(value, what)
    return value


def _real(value: int, what: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{what} is an integer of {value.bit_length():,} bits; expected a number below 1e308") \
            from error


def _every(method: Any) -> dict[str, Any]:
    return {f.name: getattr(method, f.name) for f in fields(method)}


def plain(value: Any, parameters: Callable[[Any], dict[str, Any]] = _every,
          name: Callable[[Any], str] = name_of) -> Any:
    """A value as JSON knows it: tuples become lists, methods become references.

    Args:
        parameters: those of a method that are written, by name.
        name: what a method is called.
    """
    if isinstance(value, tuple | list):
        return [plain(v, parameters, name) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {"name": name(value)} | {k: plain(v, parameters, name) for k, v in parameters(value).items()}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise ConfigError(f"{value!r} of type {type(value).__name__} given; expected a number, text, a list or a method")


def quick(kind: str, name: str) -> dict[str, Any]:
    """Parameters with which a method runs in a second on generated data: its `quick`, or `QUICK` beside a function."""
    subject = load(kind, name)
    if inspect.isclass(subject):
        return dict(getattr(subject, "quick", {}))
    return dict(getattr(inspect.getmodule(subject), "QUICK", {}))
