"""Specifications: every method of a run with all its parameters, so that a key means one result."""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from sidedoor import registry, zoo
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access
from sidedoor.bench.after import check_names as check_after
from sidedoor.bench.class_names import Classes, numbered
from sidedoor.bench.contents import contents, replaced
from sidedoor.bench.versions import versions
from sidedoor.core import opening
from sidedoor.data.augment import augmentation
from sidedoor.defenses.base import Defense, Stage
from sidedoor.defenses.filters.base import REMOVED, STAGE
from sidedoor.defenses.repair.base import Repair
from sidedoor.engine import Recipe
from sidedoor.errors import ConfigError, NotApplicable, unknown
from sidedoor.method import LATER, Bounds, Share, Whole, came_later, check, hints, lasting
from sidedoor.tasks.task import Task

_LIMIT, _DEPTH = 2**24, 32
"""Bytes of the largest specification, and tables and lists in each other."""
Reference = dict[str, Any]
"""A registered name with all its parameters: `{"name": ..., ...}`."""


class Refused(NotApplicable):
    """Methods that do not suit each other."""


@dataclass(frozen=True)
class Spec:
    """One cell: one attack (or none) on one model, with one defence (or none).

    Methods may be given as references (`"badnets"`, `{"name": "badnets", "rate": 0.05}`) or, for attacks and defences,
    as instances.

    Args:
        data: the data set.
        model: the victim's network; the key `weights` names a file to start from; `sidedoor show weights` has
            further keys.
        attack: None: the model is trained clean.
        defense: None: the model is measured undefended. A list is a pipeline: filters, a training defence, repairs, an
            audit, an input detector, purifiers, in this order, each as far as wanted.
        surrogate: the network that a data poisoner derives a trigger with; None: the victim's own.
        task: what the model is for.
        recipe: how the victim trains.
        seed: of all random streams, the defender's split aside.
        defender_share: of each class of the training data, held by the defender and used by no other party; data that
            bring a clean part of their own are not cut.
        defender_seed: of that split.
        train_samples, test_samples: keep so many, balanced over classes as the set is; 0 for all.
        references: clean models that a model audit is calibrated against; trained from scratch, of other seeds.
        assumed_rate: the share of poisoned rows that a data filter assumes; 1.5 times as many are removed.
        augment: names of augmentations.
        devices: that train together, each on its share of every batch; several lead to another model than one.
        after: what is tried with the delivered model afterwards: "retuning" on a few poisoned images, "search" for a
            trigger near the planted one, either with a "repaired_sibling" as a further control, which costs the
            defences once more, and whether it stays as it is in "int8" and "bf16". Classifiers only.
    """

    data: Reference
    model: Reference
    attack: Reference | None = None
    defense: Reference | tuple[Reference, ...] | None = None
    surrogate: Reference | None = None
    task: Reference = field(default_factory=lambda: {"name": "classification"})
    recipe: Recipe = field(default_factory=Recipe)
    augment: tuple[str, ...] = ()
    seed: int = 0
    defender_share: Share = 0.05
    defender_seed: int = 0
    train_samples: Whole = 0
    test_samples: Whole = 0
    references: Whole = 2
    assumed_rate: Share = 0.1
    devices: Annotated[int, Bounds(1, 1024), LATER] = 1
    after: Annotated[tuple[str, ...], LATER] = ()

    def __post_init__(self) -> None:
        for kind in _REFERENCES:
            value = getattr(self, kind)
            if value is not None:
                full = _pipeline(value) if kind == "defense" else _full("model" if kind == "surrogate" else kind, value)
                object.__setattr__(self, kind, full)
        declared = hints(Spec)
        for name in ("augment", "seed", "defender_seed", "train_samples", "test_samples", "references",
                     "defender_share", "assumed_rate", "devices", "after"):
            check(name, getattr(self, name), declared[name])
        for name, share in (("defender_share", self.defender_share), ("assumed_rate", self.assumed_rate)):
            if share in (0, 1):
                raise ConfigError(f"{name} = {share} given; expected more than 0 and less than 1")
        if STAGE in self._stages and REMOVED * self.assumed_rate >= 1:
            raise ConfigError(f"assumed_rate = {self.assumed_rate} given; a filter removes {REMOVED} times as many "
                              "rows, which would be all of them; expected less than 2/3")
        augmentation(self.augment)
        check_after(self.after)
        if self._compared and self.references < 1:
            raise ConfigError("a model audit needs at least one clean reference model; set `references`")

    def check(self) -> None:
        """Refuse methods that do not suit each other.

        Raises:
            Refused: such a pair, with the reason.
        """
        if reason := self.refusal():
            raise Refused(reason)

    def refusal(self) -> str | None:
        """Why the methods do not suit each other; None if they do."""
        attack, task = self.make_attack(), registry.load("task", self.task["name"])
        defenses = [("defence", *each) for each in zip(self.make_defenses(), self.defense_names, strict=True)]
        for kind, method, name in (("attack", attack, self.attack_name), *defenses):
            if method and not issubclass(task, method.tasks):
                known = ", ".join(suited.__name__ for suited in method.tasks)
                why = f", because {method.because}" if kind == "defence" and method.because else ""
                return f"{kind} {name} does not work on the task {self.task['name']}{why}; it knows {known}"
        for reference in (self.model, self.surrogate or self.model):
            if registry.BUILT_FOR[task.output] not in registry.leading("model", reference["name"]):
                return (f"model {reference['name']} is no network for the task {self.task['name']}; see "
                        "`sidedoor list models`")
        on_data = next((name for _, method, name in defenses if method.stage.on_training_data), None)
        if self.frozen and (attack or on_data):
            what = f"attack {self.attack_name}" if attack else f"defence {on_data}"
            return (f"{what} trains a model, and model.frozen = true takes the given one as it is; leave one of them "
                    "out")
        if self.after and task.output != "labels":
            return f"after = {list(self.after)} is about classifiers, and the task is {self.task['name']}; leave it out"
        if on_data and attack and attack.access is not Access.DATA:
            return (f"defence {on_data} works on poisoned training data, but in attack {self.attack_name} "
                    "the attacker trains the model and hands over no data; choose a repair, audit, detector or "
                    "purifier")
        return self._disorder()

    def _disorder(self) -> str | None:
        """Why defences do not make a pipeline; None if they do."""
        named = list(zip(self.defense_names, self._stages, strict=True))
        for (first, before), (second, after) in itertools.pairwise(named):
            if after.place < before.place or (after.place == before.place and not after.several):
                return (f"{second} ({_words(after)}) cannot come after {first} ({_words(before)}); expected filters, "
                        "one training defence, repairs, one audit, one input detector and purifiers, in this order")
        return None

    @property
    def attack_name(self) -> str:
        return self.attack["name"] if self.attack else "none"

    @property
    def defense_names(self) -> tuple[str, ...]:
        """Of each defence of the pipeline."""
        return tuple(reference["name"] for reference in self._defenses)

    @property
    def defense_name(self) -> str:
        return "+".join(self.defense_names) or "none"

    @property
    def _defenses(self) -> tuple[Reference, ...]:
        return self.defense if isinstance(self.defense, tuple) else (self.defense,) if self.defense else ()

    @property
    def _stages(self) -> tuple[Stage, ...]:
        return tuple(registry.load("defense", name).stage for name in self.defense_names)

    @property
    def frozen(self) -> bool:
        """Whether the model is taken from a file as it is."""
        return bool(self.model.get("frozen"))

    def make_attack(self) -> Attack | None:
        return registry.make("attack", self.attack) if self.attack else None

    def make_defenses(self) -> tuple[Defense, ...]:
        return tuple(registry.make("defense", reference) for reference in self._defenses)

    @property
    def _methods(self) -> tuple[Attack | Defense, ...]:
        """The attack, if any, and the defences, to read parameters from."""
        given = [("attack", self.attack)] * bool(self.attack) + [("defense", each) for each in self._defenses]
        return tuple(_method(kind, json.dumps(reference)) for kind, reference in given)

    def make_task(self, classes: int) -> Task:
        return registry.make("task", self.task, classes=classes)  # type: ignore[no-any-return]

    def attack_half(self) -> Spec:
        """The attack half: what decides the trained model."""
        return replace(self, defense=None, references=0, assumed_rate=0.1, after=())

    def clean_models(self) -> list[Spec]:
        """The clean models that the cell is compared with: of an attacked model its sibling, the same without the
        attack; of an audited one as many as `references`, which are that and the same with further seeds.

        None is the model in question itself, and none starts from given weights, which may have a backdoor.
        """
        compared, half = self._compared, self.attack_half()
        clean = replace(half, attack=None, surrogate=None, model=zoo.fresh(self.model))
        seeds = (replace(clean, seed=seed) for seed in itertools.count(self.seed))
        return list(itertools.islice((spec for spec in seeds if spec != half),
                                     self.references if compared else int(self.attack is not None)))

    def defended_sibling(self) -> Spec | None:
        """The same defences of a model that was never attacked, as far as they change one; None if none does."""
        changing = tuple(reference for reference, stage in zip(self._defenses, self._stages, strict=True)
                         if stage.place <= Repair.stage.place)
        return replace(self, attack=None, surrogate=None, model=zoo.fresh(self.model), defense=changing, after=()) \
            if changing else None

    @property
    def _compared(self) -> bool:
        """Whether a defence is calibrated against clean models."""
        return any(stage.compared for stage in self._stages)

    def to_json(self) -> dict[str, Any]:
        """As it is written to records."""
        return {name: registry.plain(value) if name != "recipe" else _recipe(self.recipe)
                for name, value in lasting(self).items() if name not in _REFERENCES} | {
                    k: list(value) if isinstance(value := getattr(self, k), tuple) else value for k in _REFERENCES}

    def deciding(self, root: Path | None = None) -> dict[str, Any]:
        """What of the specification decides the result: not where files lie, nor later parameters at their defaults.

        Args:
            root: the data root, where files may lie whose content decides.

        Raises:
            CannotComplete: a file that a parameter names is not there or cannot be read.
        """
        plain = [registry.plain(method, lasting, registry.key_name_of) for method in self._methods]
        attack, defenses = (plain[0], plain[1:]) if self.attack else (None, plain)
        spec = self.to_json() | {"attack": attack, "recipe": lasting(self.recipe),
                                 "defense": defenses if len(defenses) > 1 else defenses[0] if defenses else None}
        # The data's fingerprint and the hash of the weights stand for the files.
        for kind, name, place in (("data", "data", "path"), ("model", "model", "weights"),
                                  ("model", "surrogate", "weights")):
            spec[name] = {k: v for k, v in _lasting(kind, spec[name]).items() if k != place}
        found = self._contents(root)
        return {name: replaced(value, found) for name, value in spec.items()} if found else spec

    def _contents(self, root: Path | None) -> dict[str, str]:
        """Of the files that parameters of the methods and the task name."""
        known = registry.parameters("task", self.task["name"])
        given: list[tuple[Any, Any]] = [(method, type(method)) for method in self._methods]
        given += [(value, known[name][0]) for name, value in self.task.items() if name in known]
        return {text: content for value, hint in given for text, content in contents(value, hint, root).items()}

    def key(self, fingerprint: str, root: Path | None = None) -> str:
        """16 hexadecimal digits that change with anything that changes the result.

        Args:
            fingerprint: of the data.
            root: the data root, where files may lie whose content decides.

        Raises:
            CannotComplete: a file that a parameter names is not there or cannot be read.
        """
        content: dict[str, Any] = {"spec": self.deciding(root), "data": fingerprint,
                                   "versions": [v for method in self._methods for v in versions(method)]}
        if (self._compared and not self.attack) or ("weights" in self.model and (self._compared or self.attack)):
            content["clean_models"] = 2  # 1 compared with the audited model itself, or with one from the same weights
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _lasting(kind: str, reference: Reference | None) -> Reference:
    """A reference without the parameters that came later and have their defaults; empty for None."""
    known = registry.parameters(kind, reference["name"]) if reference else {}
    return {k: v for k, v in (reference or {}).items()
            if k not in known or not came_later(known[k][0]) or v != registry.plain(known[k][1])}


_REFERENCES = ("data", "model", "attack", "defense", "surrogate", "task")


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {f.name: getattr(recipe, f.name) for f in fields(recipe)}


def _pipeline(given: Any) -> Reference | tuple[Reference, ...]:
    """One defence, or several one after another; a list of one is that one."""
    if not isinstance(given, list | tuple):
        return _full("defense", given)
    if not given:
        raise ConfigError("defense = [] given; expected a defence or a list of some, or none at all")
    steps = tuple(_full("defense", each) for each in given)
    return steps if len(steps) > 1 else steps[0]


def _words(stage: Stage) -> str:
    return str(stage).replace("_", " ")


def _full(kind: str, given: Any) -> Reference:
    """A reference with all parameters; weights are checked and hashed."""
    if isinstance(given, Attack | Defense):
        return registry.reference(kind, registry.plain(given))
    given = dict(given) if isinstance(given, Mapping) else given
    extra: dict[str, Any] = {}
    if kind == "model" and isinstance(given, dict):
        given, weights = zoo.separate(given)
        extra = weights.plain() if weights else {}
    try:
        written = json.dumps(given)
    except (TypeError, ValueError):  # instances of methods, or what no specification can hold
        return _filled(kind, given) | extra
    return json.loads(_filled_text(kind, written)) | extra  # type: ignore[no-any-return]


def _filled(kind: str, given: Any) -> Reference:
    full = registry.reference(kind, given)
    # Bounds and goals are checked by the constructor; a task's classes are known only with the data.
    if kind in ("attack", "defense"):
        registry.make(kind, full)
    return full


@functools.lru_cache(maxsize=4096)
def _filled_text(kind: str, given: str) -> str:
    """A reference in full, as text: a grid has few in very many cells."""
    return json.dumps(_filled(kind, json.loads(given)))


@functools.lru_cache(maxsize=4096)
def _method(kind: str, reference: str) -> Any:
    """A method to read parameters from; those that are run are made anew."""
    return registry.make(kind, json.loads(reference))


def read(path: Path, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """A TOML file as a table, with `key.path=value` settings applied.

    Raises:
        ConfigError: no such file, not TOML, or a setting that is none.
    """
    try:
        table = tomllib.loads(opening.read(path, _LIMIT).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or an integer longer than Python reads
        raise ConfigError(f"{path} is not TOML: {error}") from error
    _set(table, settings, "--set", "attack.rate=0.05")
    if _deeper(table, _DEPTH):
        raise ConfigError(f"{path} has tables or lists more than {_DEPTH} deep in each other; expected a few")
    return table


def recipe_of(settings: Sequence[str]) -> Recipe:
    """A recipe from `key=value` settings alone.

    Raises:
        ConfigError: an unknown key, or a value that it cannot have.
    """
    return _make_recipe(settings_of(settings, "--recipe", "epochs=10"))


def settings_of(settings: Sequence[str], option: str, example: str) -> dict[str, Any]:
    """The table of `key=value` settings of an option.

    Raises:
        ConfigError: one that is not of this form; the message has the example.
    """
    table: dict[str, Any] = {}
    _set(table, settings, option, example)
    return table


def _set(table: dict[str, Any], settings: Sequence[str], option: str, example: str) -> None:
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not _encodable(setting):
            raise ConfigError(f"{option} {setting!a} given; expected KEY=VALUE such as {example}, in UTF-8")
        _assign(table, name.strip(), _value(value.strip()))


def _encodable(text: str) -> bool:
    """Whether a record can hold a text: a path that is not UTF-8 comes with halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_deeper(item, depth - 1) for item in inner)


def _value(text: str) -> Any:
    """A TOML value; bare words are text."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):  # not TOML, or an integer longer than Python reads
        return text


def _assign(table: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted key. `attack.rate` also works where the attack is given by its name alone."""
    *parents, last = name.split(".")
    for parent in parents:
        child = table.setdefault(parent, {})
        if isinstance(child, str):
            child = table[parent] = {"name": child}
        if not isinstance(child, dict):
            raise ConfigError(f"{name}: {parent} is {child!r}, which has no {last}")
        table = child
    table[last] = value


def cells(table: Mapping[str, Any], classes: Classes | None = None) -> list[Spec]:
    """The cells of a run file: the attack without a defence, then with each of `defenses`.

    Args:
        classes: the names of the data's classes; None: only numbers of classes may be given.

    Raises:
        ConfigError: an unknown key or value, or methods that do not suit each other.
    """
    found = _cells(table, classes)
    for spec in found:
        spec.check()
    return found


def _cells(table: Mapping[str, Any], classes: Classes | None) -> list[Spec]:
    """The cells of a run file, each once, whether or not their methods suit each other."""
    values = copy.deepcopy(numbered(table, classes) if classes else dict(table))
    defenses = _defenses(values)
    tier_of(values)
    values.pop("tier", None)
    if "recipe" in values:
        values["recipe"] = _make_recipe(values["recipe"])
    names = {f.name for f in fields(Spec)}
    for name in values:
        if name not in names:
            raise unknown("key", name, [*names, "defenses", "tier"])
    for name in ("data", "model"):
        if name not in values:
            raise ConfigError(f"the specification has no `{name}`")
    first = Spec(**{k: registry.convert(hints(Spec)[k], v, k) for k, v in values.items()})
    return _once([first, *(replace(first, defense=defense) for defense in defenses)])


def tier_of(table: Mapping[str, Any]) -> str:
    """The size of a benchmark that a file is for, which is part of no result; empty if it says none.

    Raises:
        ConfigError: it is no text.
    """
    tier = table.get("tier", "")
    if not isinstance(tier, str):
        raise ConfigError(f"tier = {tier!r} given; expected a word such as \"small\"")
    return tier


def _once(specs: Iterable[Spec]) -> list[Spec]:
    """Each specification where it first comes."""
    found: dict[str, Spec] = {}
    for spec in specs:
        found.setdefault(json.dumps(spec.to_json(), sort_keys=True), spec)
    return list(found.values())


def _defenses(values: dict[str, Any]) -> list[Any]:
    """The list of defences, taken out of a run file's table."""
    defenses = values.pop("defenses", [])
    if not isinstance(defenses, list):
        raise ConfigError(f"defenses = {defenses!r} given; expected a list of names or tables")
    return defenses


def _make_recipe(given: Any) -> Recipe:
    if not isinstance(given, dict):
        raise ConfigError(f"recipe = {given!r} given; expected a table such as [recipe] epochs = 10")
    declared = hints(Recipe)
    for name in given:
        if name not in declared:
            raise unknown("parameter of recipe", name, declared)
    return Recipe(**{k: registry.convert(declared[k], v, f"recipe.{k}") for k, v in given.items()})


def grid(table: Mapping[str, Any], classes: Classes | None = None) -> list[Spec]:
    """The cells of a sweep file, each once: a run file with a table `[grid]` of lists, crossed; or with several
    `[[grid]]`, the cells of each.

    Cells whose methods do not suit each other are among them; a sweep records why instead of running them.

    A key of the grid is a dotted key of the run file, such as `seed`, `attack` or `"attack.rate"`.

    Args:
        classes: as in `cells`.

    Raises:
        ConfigError: the grid is missing, empty or without a cell whose methods suit each other, or a value is unknown.
    """
    given = table.get("grid")
    grids: list[Any] = given if isinstance(given, list) and given else [given]
    if not all(isinstance(axes, dict) and all(isinstance(v, list) and v for v in axes.values()) for axes in grids):
        raise ConfigError('a sweep file needs a table [grid] of non-empty lists, such as seed = [0, 1, 2]')
    found = _once(spec for axes in grids for point in _points(table, axes) for spec in _cells(point, classes))
    if all(spec.refusal() for spec in found):
        raise ConfigError(f"no cell of the grid makes sense: {found[0].refusal()}")
    return found


def _points(table: Mapping[str, Any], axes: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """A run file's table for each combination of values."""
    for values in itertools.product(*axes.values()):
        point = copy.deepcopy({k: v for k, v in table.items() if k != "grid"})
        for name, value in zip(axes, copy.deepcopy(values), strict=True):
            _assign(point, name, value)
        yield point
