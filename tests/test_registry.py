"""Names, references and plug-ins."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidedoor import registry
from sidedoor.attacks.poisoning import badnets
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.bench.spec import Spec
from sidedoor.errors import ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.method import Count, bounds_of
from sidedoor.tasks.classification import Classification

BADNETS = "sidedoor.attacks.poisoning.badnets"


def script(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that sees installed packages in `paths`."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)])}
    return subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=False)


# listing


def test_names_are_unique_across_kinds_and_sorted_within_one() -> None:
    names = [entry.name for entry in registry.entries()]
    assert len(set(names)) == len(names)
    attacks = [entry.name for entry in registry.entries() if entry.kind == "attack"]
    assert attacks == sorted(attacks)
    assert "badnets" in attacks


def test_an_entry_says_what_its_docstring_says() -> None:
    entry = registry.find("badnets")
    assert (entry.kind, entry.origin, entry.target) == ("attack", "sidedoor", BADNETS)
    assert entry.summary == inspect.getdoc(badnets).split("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]
    assert entry.paper.startswith("Gu, Dolan-Gavitt, Garg,")
    assert entry.paper.endswith("arXiv:1708.06733.")


def test_listing_imports_neither_torch_nor_any_method() -> None:
    done = script("import json, sys; from sidedoor import registry; names = [e.name for e in registry.entries()]\n"
                  "print(json.dumps([names, sorted(sys.modules)]))")
    assert done.returncode == 0, done.stderr
    names, modules = json.loads(done.stdout)
    assert "badnets" in names
    assert not {"torch", "numpy", "lightning_fabric", "sidedoor.types", BADNETS} & set(modules)


def test_every_name_loads_and_says_what_it_is() -> None:
    for entry in registry.entries():
        loaded = registry.load(entry.kind, entry.name)
        assert callable(loaded), entry
        assert entry.summary, entry
        assert registry.parameters(entry.kind, entry.name) is not None


# finding


def test_an_integer_says_its_bounds_unless_it_is_a_seed() -> None:
    def unbounded(hint: Any) -> bool:
        arguments = typing.get_args(hint)
        return hint is int or (bounds_of(hint) is None and typing.get_origin(hint) is not typing.Literal
                               and any(map(unbounded, arguments)))

    found = [f"{entry.name}.{name}" for entry in registry.entries() if entry.kind != "trigger"
             for name, (hint, _) in registry.parameters(entry.kind, entry.name).items()
             if "seed" not in name and unbounded(hint)]
    assert found == []


def test_an_unknown_name_is_met_with_the_nearest_of_its_kind() -> None:
    with pytest.raises(ConfigError, match=r"^unknown attack 'badnet'; did you mean badnets"):
        registry.find("badnet", "attack")
    with pytest.raises(ConfigError, match=r"^unknown name 'shrinkpad'; did you mean shrink_pad"):
        registry.find("shrinkpad")


def test_a_name_that_is_like_no_other_is_met_with_all_of_its_kind() -> None:
    with pytest.raises(ConfigError, match=r"^unknown task 'qqq'; known: .*classification") as error:
        registry.find("qqq", "task")
    assert "badnets" not in str(error.value)


def test_a_name_of_another_kind_is_told_apart() -> None:
    with pytest.raises(ConfigError, match="'badnets' is of the kind attack, not defense"):
        registry.find("badnets", "defense")
    with pytest.raises(ConfigError, match=r"unknown kind 'atack'; did you mean attack"):
        registry.find("badnets", "atack")


def test_what_source_says_is_what_the_class_says() -> None:
    """Access, stage and tasks are read from source; the classes themselves are the truth."""
    tasks = {e.name: registry.load("task", e.name) for e in registry.entries() if e.kind == "task"}
    for entry in registry.entries():
        if entry.kind in ("attack", "defense"):
            loaded = registry.load(entry.kind, entry.name)
            assert set(entry.tasks) == {n for n, task in tasks.items() if issubclass(task, loaded.tasks)}, entry
            assert entry.access == loaded.access.value if entry.kind == "attack" else \
                entry.stage == loaded.stage.name, entry
        elif entry.kind == "goal":
            output = registry.load("goal", entry.name).output
            assert set(entry.tasks) == {n for n, task in tasks.items() if task.output == output}, entry
        elif entry.kind == "model":
            taken = registry.leading("model", entry.name)
            given = {"labels": "classes", "image": "scale", "response": "crop"}
            assert set(entry.tasks) == {n for n, task in tasks.items() if given[task.output] in taken}, entry


def test_kinds_have_names_of_their_own() -> None:
    names = [name for kind in registry.KINDS for name in kind.names]
    assert len(set(names)) == len(names)
    assert {"detector", "design", "operator"} <= set(names)


def test_former_names_of_kinds_are_accepted() -> None:
    for former, kind, name in (("design", "trigger_design", "uap"), ("operator", "forward_operator", "identity"),
                               ("detector", "object_detector", "tiny_yolo")):
        assert registry.find(name, former) == registry.find(name, kind)
        assert registry.find(name).kind == kind
        assert registry.load(former, name) is registry.load(kind, name)
        assert registry.reference(former, name) == registry.reference(kind, name)


def test_a_former_name_of_a_method_means_the_method_and_is_written_no_more() -> None:
    assert registry.find("latent") == registry.find("subnet_replacement")
    full = registry.reference("attack", {"name": "latent", "width": 2})
    assert full["name"] == "subnet_replacement"
    assert registry.plain(registry.make("attack", {"name": "latent", "width": 2})) == full
    assert "latent" not in [entry.name for entry in registry.entries()]
    with pytest.raises(ConfigError, match="'latent' is of the kind attack, not goal"):
        registry.find("latent", "goal")


def test_keys_outlive_a_new_name() -> None:
    """Hexadecimal digits as they were when subnet_replacement was called latent."""
    for given in ("latent", "subnet_replacement"):
        assert Spec(data="digits", model="small_cnn", attack=given).key("f") == "030bafadcaea675c"
        assert Spec(data="digits", model="small_cnn", attack={"name": given, "width": 2},
                    defense="fine_tuning").key("f") == "f6b016d44aa564e1"


# references


def test_a_reference_in_full_names_every_parameter() -> None:
    full = registry.reference("attack", "badnets")
    goal = {"name": "all_to_one", "target_class": 0}
    assert full == {"name": "badnets", "goal": goal, "rate": 0.1, "size": 3, "margin": 0, "pattern": "", "picture": ""}
    assert registry.reference("attack", full) == full
    assert registry.reference("attack", {"name": "badnets", "rate": 0.1}) == full
    assert json.loads(json.dumps(full)) == full


def test_integers_and_floats_of_one_value_give_one_reference() -> None:
    one = registry.reference("attack", {"name": "badnets", "rate": 1})
    assert json.dumps(one) == json.dumps(registry.reference("attack", {"name": "badnets", "rate": 1.0}))


def test_nested_goals_are_made_from_names_and_tables() -> None:
    assert registry.make("attack", {"name": "badnets", "goal": {"name": "all_to_one", "target_class": 3}}) == BadNets(
        goal=AllToOne(3))
    many = {"name": "multi_target", "target_classes": [1, 2, 5]}
    made = registry.make("attack", {"name": "badnets", "goal": many})
    assert made.goal == MultiTarget((1, 2, 5))
    assert registry.plain(made)["goal"] == many
    assert registry.make("attack", {"name": "badnets", "goal": "multi_target"}).goal == MultiTarget()
    assert registry.make("attack", registry.plain(made)) == made


@pytest.mark.parametrize(("given", "message"), [
    ({"name": "badnets", "rat": 0.1}, "unknown parameter of badnets 'rat'; did you mean rate"),
    ({"name": "badnets", "rate": 2}, r"rate = 2.* given; expected between 0 and 1"),
    ({"name": "badnets", "size": "3"}, r"badnets.size = '3' given; expected int"),
    ({"name": "badnets", "goal": {"name": "all_to_one", "target": 1}}, "unknown parameter of all_to_one 'target'; did"),
    ({"name": "badnets", "goal": {"name": "all_to_one", "target_class": -1}}, "target_class = -1 given; expected at"),
    ({"name": "badnets", "goal": "badnets"}, "'badnets' is of the kind attack, not goal"),
    ({"rate": 0.1}, "expected a name or a table with a `name`"),
    (["badnets"], "expected a name or a table with a `name`"),
    ({"name": 3}, "expected a name or a table with a `name`"),
    ("", "unknown attack ''"),
])
def test_a_reference_that_cannot_mean_anything_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.reference("attack", given)


def test_what_stands_behind_a_colon_is_the_first_parameter() -> None:
    first = next(iter(registry.parameters("goal", "all_to_one")))
    assert first == "target_class"
    with pytest.raises(ConfigError, match="target_class = '3' given; expected int"):
        registry.reference("goal", "all_to_one:3")  # what is written as text stays text
    name = next((e.name for e in registry.entries() if e.kind == "goal"
                 and not registry.parameters("goal", e.name)), None)
    if name is not None:
        with pytest.raises(ConfigError, match="takes no argument"):
            registry.reference("goal", f"{name}:3")


def test_the_house_passes_what_a_method_takes_of_its_own_arguments() -> None:
    assert "classes" not in registry.parameters("task", "classification")
    assert registry.make("task", "classification", classes=7, shape=(1, 2, 3)) == Classification(7)


def test_a_model_is_made_as_a_builder() -> None:
    build = registry.make("model", {"name": "small_cnn", "width": 4}, classes=3, shape=(1, 8, 8))
    assert build.keywords == {"width": 4, "classes": 3, "shape": (1, 8, 8)}
    assert sum(p.numel() for p in build().parameters()) > 0


# conversion


@pytest.mark.parametrize(("hint", "value", "converted"), [
    (tuple[int, ...], [1, 2], (1, 2)), (tuple[float, ...], [1, 2.5], (1.0, 2.5)),
    (tuple[tuple[int, int], ...], [[1, 2]], ((1, 2),)), (tuple[int, str], [1, "a"], (1, "a")),
    (float, 3, 3.0), (float, True, True), (Count, 3, 3), (tuple[int, ...] | None, [1], (1,)), (int | None, None, None),
    (tuple[int, ...], 5, 5), (str, "a", "a"),
])
def test_conversion_to_the_declared_type(hint: Any, value: Any, converted: Any) -> None:
    made = registry.convert(hint, value, "x")
    assert made == converted
    assert type(made) is type(converted)


def test_a_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x = \[1\] given; expected 2 entries"):
        registry.convert(tuple[int, int], [1], "x")


def test_plain_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ConfigError, match="of type object given"):
        registry.plain({"a": object()}["a"])


def test_the_name_of_a_method() -> None:
    @dataclass(frozen=True)
    class Own(AllToOne):
        pass

    assert registry.name_of(BadNets()) == "badnets"
    assert registry.name_of(Own()) == "Own"


# plug-ins


PLUGIN = '''"""A dummy."""
from dataclasses import dataclass
from typing import ClassVar
from sidedoor import Access, Attack, Backdoor, Share

@dataclass(frozen=True)
class Dummy(Attack):
    access: ClassVar[Access] = Access.DATA
    rate: Share = 0.25
    def plan(self, train, task, surrogate, run):
        return Backdoor(())
'''


def install(folder: Path, name: str, entry_points: str, module: str = PLUGIN) -> Path:
    """A package as an installer leaves it in site-packages."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    (folder / f"{name.replace('-', '_')}.py").write_text(module)
    return folder


def test_an_installed_plug_in_is_listed_loaded_and_made(tmp_path: Path) -> None:
    site = install(tmp_path, "side-dummy", "[sidedoor.attack]\ndummy_attack = side_dummy:Dummy\n")
    done = script("import sys; from sidedoor import registry\n"
                  "entry = registry.find('dummy_attack', 'attack'); print(entry.origin, '|', entry.summary)\n"
                  "print('side_dummy' in sys.modules)\n"
                  "made = registry.make('attack', {'name': 'dummy_attack', 'rate': 0.5})\n"
                  "print(made, registry.name_of(made)); print(registry.plain(made) == "
                  "registry.reference('attack', {'name': 'dummy_attack', 'rate': 0.5}))\n", site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["side-dummy | A dummy.", "False",
                                        "Dummy(goal=AllToOne(target_class=0), rate=0.5) dummy_attack", "True"]


OPERATOR = '''"""Several things.

Paper: A. Nobody, "Halves", 2020.
"""
from dataclasses import dataclass
from sidedoor.forward_operators.base import Operator
from sidedoor.trigger_designs.base import Design

@dataclass(frozen=True)
class Half(Operator):
    """Measure half of it.

    And no more.
    """
    def measure(self, x): ...
    def adjoint(self, y, size): ...

@dataclass(frozen=True)
class Drawn(Design):
    """Draw it by hand."""
    def make(self, setting): ...

def boxes(classes, shape, width: int = 3):
    """Find boxes."""
'''


def test_an_entry_point_of_a_former_group_is_found_too(tmp_path: Path) -> None:
    now, former = ("forward_operator", "trigger_design", "object_detector"), ("operator", "design", "detector")
    points = "".join(
        f"[sidedoor.{group}]\n{name}{end} = side_old:{target}\n" for groups, end in ((now, ""), (former, "_too"))
        for group, name, target in zip(groups, ("half", "drawn", "boxes"), ("Half", "Drawn", "boxes"), strict=True))
    site = install(tmp_path, "side-old", points, OPERATOR)
    done = script("from sidedoor import registry\n"
                  "for end in ('', '_too'):\n"
                  "    for kind, name in (('forward_operator', 'half' + end), ('trigger_design', 'drawn' + end), "
                  "('object_detector', 'boxes' + end)):\n"
                  "        entry = registry.find(name, kind); print(entry.kind, '|', entry.summary, '|', entry.paper)\n"
                  "        print(registry.load(kind, name).__name__, list(registry.parameters(kind, name)))\n", site)
    assert done.returncode == 0, done.stderr
    paper = 'A. Nobody, "Halves", 2020.'
    assert done.stdout.splitlines() == 2 * [
        f"forward_operator | Measure half of it. | {paper}", "Half []",
        f"trigger_design | Draw it by hand. | {paper}", "Drawn []",
        f"object_detector | Find boxes. | {paper}", "boxes ['width']"]


def test_a_plug_in_without_source_is_listed_by_its_package(tmp_path: Path) -> None:
    site = install(tmp_path, "side-dark", "[sidedoor.attack]\ndark = side_nowhere.deep:Dummy\n")
    done = script("from sidedoor import registry; print(registry.find('dark').summary)", site)
    assert (done.returncode, done.stdout) == (0, "plug-in of side-dark\n"), done.stderr


def test_listing_a_plug_in_in_a_package_does_not_run_the_package(tmp_path: Path) -> None:
    site = install(tmp_path, "side-deep", "[sidedoor.attack]\ndeep_dummy = side_pack.inner.one:Dummy\n")
    (site / "side_pack" / "inner").mkdir(parents=True)
    for folder in (site / "side_pack", site / "side_pack" / "inner"):
        (folder / "__init__.py").write_text("raise RuntimeError('was run')\n")
    (site / "side_pack" / "inner" / "one.py").write_text(PLUGIN)
    done = script("from sidedoor import registry; entry = registry.find('deep_dummy')\n"
                  "print(entry.summary, entry.access, entry.tasks, entry.room)", site)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "A dummy. data ('classification',) attacks\n"


def test_a_plug_in_may_not_take_a_former_name(tmp_path: Path) -> None:
    site = install(tmp_path, "side-dummy", "[sidedoor.attack]\nlatent = side_dummy:Dummy\n")
    done = script("from sidedoor import registry; registry.entries()", site)
    assert done.returncode == 1
    assert "the name 'latent' is taken twice" in done.stderr


@pytest.mark.parametrize("group", ["sidedoor.attack", "sidedoor.goal"])
def test_a_plug_in_that_takes_a_taken_name_is_refused_whatever_its_kind(tmp_path: Path, group: str) -> None:
    site = install(tmp_path, "side-dummy", f"[{group}]\nbadnets = side_dummy:Dummy\n")
    done = script("from sidedoor import registry; registry.entries()", site)
    assert done.returncode == 1
    assert f"the name 'badnets' is taken twice: {BADNETS} (sidedoor) and side_dummy:Dummy (side-dummy)" \
        in done.stderr


def test_two_plug_ins_with_one_name_are_refused(tmp_path: Path) -> None:
    sites = [install(tmp_path / name, name, f"[sidedoor.attack]\nmine = {name}:Dummy\n") for name in ("one", "two")]
    done = script("from sidedoor import registry; registry.entries()", *sites)
    assert done.returncode == 1
    assert "the name 'mine' is taken twice" in done.stderr


@pytest.mark.parametrize(("target", "said"), [
    ("side_dummy:Missing", "Missing"), ("side_nowhere:Dummy", "side_nowhere")])
def test_a_broken_plug_in_is_named_when_it_is_used_and_does_not_spoil_the_list(
    tmp_path: Path, target: str, said: str
) -> None:
    site = install(tmp_path, "side-dummy", f"[sidedoor.attack]\nbroken = {target}\n", module="")
    done = script("from sidedoor import registry\nfrom sidedoor.errors import SidedoorError\n"
                  "assert registry.find('badnets')\n"
                  "try:\n    registry.load('attack', 'broken')\n"
                  "except SidedoorError as error:\n    print(error)\n", site)
    assert done.returncode == 0, done.stderr
    assert "side-dummy" in done.stdout
    assert said in done.stdout


def test_an_integer_beyond_real_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"badnets\.rate is an integer of 1,329 bits"):
        registry.reference("attack", {"name": "badnets", "rate": 10**400})
