"""A specification means one result: canonical keys, and errors that name what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from sidedoor import registry
from sidedoor.attacks.poisoning import badnets
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.bench import spec as spec_module
from sidedoor.bench.record import half_of
from sidedoor.bench.spec import Refused, Spec, cells, grid, read, tier_of
from sidedoor.bench.store import Store
from sidedoor.bench.sweep import sweep
from sidedoor.engine import Recipe
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.method import LATER
from sidedoor.models import small_cnn as plain_cnn

TABLE: dict[str, Any] = {"data": "digits", "model": "small_cnn", "attack": "badnets"}
names = st.text("abcdefgh_", min_size=1, max_size=8)


def spec(**changes: Any) -> Spec:
    return Spec(**(TABLE | changes))


def key(**changes: Any) -> str:
    return spec(**changes).key("f")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "start.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    return path


@pytest.mark.parametrize("attack", [
    {"name": "badnets"}, {"name": "badnets", "rate": 0.1}, {"rate": 0.1, "size": 3, "name": "badnets"},
    {"name": "badnets", "goal": {"target_class": 0, "name": "all_to_one"}}, {"name": "badnets", "goal": "all_to_one"},
    BadNets(), BadNets(rate=0.1),
])
def test_every_way_to_write_an_attack_has_one_key(attack: Any) -> None:
    assert key(attack=attack) == key()


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"attack": {"name": "badnets", "rate": 0.11}}, {"attack": "blended"}, {"attack": None},
    {"defense": "strip"}, {"model": "resnet18"}, {"model": {"name": "small_cnn", "width": 8}}, {"data": "toy"},
    {"surrogate": "small_cnn"}, {"recipe": Recipe(epochs=9)}, {"augment": ("flip",)}, {"train_samples": 100},
    {"test_samples": 100}, {"defender_share": 0.1}, {"defender_seed": 1}, {"assumed_rate": 0.2}, {"references": 3},
    {"task": {"name": "classification", "least_attack": 0.6}},
    {"attack": {"name": "badnets", "goal": {"name": "all_to_one", "target_class": 1}}},
], ids=str)
def test_the_key_changes_with_what_changes_the_result(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_the_key_changes_with_the_data_and_the_version_of_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    before, undefended = key(), key(attack=None)
    assert spec().key("g") != before
    monkeypatch.setattr(BadNets, "version", 2)
    assert key() != before
    assert key(attack=None) == undefended


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put something else under a name of a module, as an upgrade does between two processes."""
    def upgraded(module: ModuleType, name: str, value: Any) -> None:
        monkeypatch.setattr(module, name, value)
        forget()

    yield upgraded
    forget()


def forget() -> None:
    """What one process remembers of references."""
    spec_module._filled_text.cache_clear()
    spec_module._method.cache_clear()


def test_a_parameter_that_came_later_leaves_the_keys_of_before_as_they_are(upgrade: Callable[..., None]) -> None:
    around = {"name": "physical", "attack": "badnets"}
    before, nested = key(), key(attack=around)
    grown = make_dataclass("BadNets", [("slant", Annotated[float, LATER], 0.0)], bases=(BadNets,), frozen=True,
                           namespace={"__module__": badnets.__name__})
    upgrade(badnets, "BadNets", grown)
    assert spec().to_json()["attack"]["slant"] == 0.0
    assert key() == key(attack={"name": "badnets", "slant": 0.0}) == before
    assert key(attack={"name": "badnets", "slant": 1.0}) != before
    assert key(attack=around) == nested
    assert key(attack=around | {"attack": {"name": "badnets", "slant": 1.0}}) != nested


def test_a_parameter_that_a_network_got_later_leaves_keys_as_they_are(upgrade: Callable[..., None]) -> None:
    def small_cnn(classes: int, shape: tuple[int, int, int], width: int = 32,
                  slant: Annotated[int, LATER] = 0) -> nn.Module:
        return built(classes, shape, width)

    built, before, surrogate = plain_cnn.small_cnn, key(), key(surrogate="small_cnn")
    upgrade(plain_cnn, "small_cnn", small_cnn)
    assert key() == key(model={"name": "small_cnn", "slant": 0}) == before
    assert key(surrogate="small_cnn") == surrogate
    assert len({before, surrogate, key(model={"name": "small_cnn", "slant": 1}),
                key(surrogate={"name": "small_cnn", "slant": 1})}) == 4


def test_where_files_lie_does_not_change_the_key(weights: Path, tmp_path: Path) -> None:
    assert key(data={"name": "folder", "path": "/a"}) == key(data={"name": "folder", "path": "/b"})
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    first = key(model={"name": "small_cnn", "weights": str(weights)})
    assert key(model={"name": "small_cnn", "weights": str(moved)}) == first != key()
    save_file({"a": torch.ones(1)}, moved)
    assert key(model={"name": "small_cnn", "weights": str(moved)}) != first


def test_the_key_is_the_same_after_a_trip_through_json() -> None:
    original = spec(defense="strip", augment=("crop", "flip"), recipe=Recipe(epochs=3))
    table = json.loads(json.dumps(original.to_json()))
    table["augment"] = tuple(table["augment"])
    again = Spec(**table | {"recipe": Recipe(**table["recipe"])})
    assert again == original
    assert again.key("f") == original.key("f")


def test_all_defences_share_the_attack_half_and_all_attacks_the_clean_sibling() -> None:
    halves = {spec(defense=d, references=r).attack_half().key("f")
              for d, r in ((None, 2), ("strip", 2), ("neural_cleanse", 5), ("abl", 2))}
    assert len(halves) == 1
    siblings = {spec(attack=a, defense=d, surrogate=s).clean_models()[0].key("f")
                for a, d, s in (("badnets", None, None), ("blended", "strip", "small_cnn"),
                                ("badnets", "neural_cleanse", None))}
    assert len(siblings) == 1
    assert siblings.isdisjoint(halves)
    assert siblings == {spec(attack=None).attack_half().key("f")}


@pytest.mark.parametrize(("table", "message"), [
    ({"atack": "badnets"}, r"unknown key 'atack'; did you mean attack"),
    ({"attack": "badnet"}, "did you mean badnets"),
    ({"attack": {"name": "badnets", "rat": 0.1}}, "parameter of badnets 'rat'; did you mean rate"),
    ({"attack": "strip"}, "'strip' is .*defense, not .*attack"),
    ({"attack": {"rate": 0.1}}, "name"),
    ({"attack": 5}, "expected a name or a table"),
    ({"attack": {"name": "badnets", "rate": 1.5}}, "between 0 and 1"),
    ({"attack": {"name": "badnets", "rate": "0.1"}}, "expected float"),
    ({"attack": {"name": "badnets", "rate": float("nan")}}, "between 0 and 1"),
    ({"attack": {"name": "badnets", "goal": "strip"}}, "'strip' is .*defense, not .*goal"),
    ({"attack": {"name": "badnets", "size": True}}, "expected int"),
    ({"seed": "one"}, "seed = 'one' given; expected int"),
    ({"seed": True}, "expected int"),
    ({"augment": "flip"}, "augment = 'flip' given; expected a"),
    ({"augment": ["flop"]}, "did you mean flip"),
    ({"defender_share": "half"}, "defender_share = 'half' given; expected float"),
    ({"defender_share": 1}, "more than 0 and less than 1"),
    ({"assumed_rate": float("nan")}, "expected between 0 and 1"),
    ({"defense": "spectral_signatures", "assumed_rate": 2 / 3}, "removes 1.5 times as many rows.*less than 2/3"),
    ({"defenses": ["spectral_signatures"], "assumed_rate": 0.9}, "removes 1.5 times as many rows.*less than 2/3"),
    ({"train_samples": -1}, "train_samples = -1 given; expected at least 0"),
    ({"defense": "neural_cleanse", "references": 0}, "at least one clean reference"),
    ({"recipe": {"epoch": 1}}, "parameter of recipe 'epoch'; did you mean epochs"),
    ({"recipe": 3}, "expected a table"),
    ({"recipe": {"epochs": 0}}, "at least 1"),
    ({"recipe": {"epochs": 1.5}}, "expected int"),
    ({"recipe": {"lr": float("nan")}}, "a positive number"),
    ({"recipe": {"lr": float("inf")}}, "Recipe.lr = inf given; expected a finite number"),
    ({"defenses": "strip"}, "expected a list"),
    ({"model": {"name": "small_cnn", "weights": 3}}, "model.weights = 3 given"),
    ({"model": {"name": "small_cnn", "sha256": "00"}}, "but no weights"),
    ({"model": {"width": 8}}, "model = .* expected a name"),
    ({"model": "torchvision"}, "needs the parameter"),
], ids=str)
def test_a_table_that_means_nothing_is_refused_with_what_was_expected(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cells(TABLE | table)


@pytest.mark.parametrize("missing", ["data", "model"])
def test_data_and_model_are_needed(missing: str) -> None:
    with pytest.raises(ConfigError, match=f"no `{missing}`"):
        cells({k: v for k, v in TABLE.items() if k != missing})


def test_weights_are_hashed_and_compared(weights: Path) -> None:
    model = {"name": "small_cnn", "weights": str(weights)}
    digest = spec(model=model).model["sha256"]
    assert spec(model=model | {"sha256": digest}) == spec(model=model)
    with pytest.raises(CannotComplete, match=f"{digest}.*expects 00ff"):
        spec(model=model | {"sha256": "00ff"})
    with pytest.raises(CannotComplete, match="no weights at"):
        spec(model=model | {"weights": f"{weights}-elsewhere"})


def test_other_files_are_refused_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"anything")
    with pytest.raises(CannotComplete, match=r"expected safetensors, or what torch\.save writes"):
        spec(model={"name": "small_cnn", "weights": str(path)})


def test_keys_about_weights_change_the_key_only_where_they_are_given(weights: Path) -> None:
    model = {"name": "small_cnn", "weights": str(weights)}
    assert spec(model=model).model.keys() == {"name", "width", "weights", "sha256"}
    assert key(model=model | {"head": "given", "mean": []}) == key(model=model)
    for more in ({"head": "new"}, {"mean": 0.5, "std": [1.0]}, {"normalize": "none"}, {"weights_key": "net"}):
        assert key(model=model | more) != key(model=model)
        assert spec(model=spec(model=model | more).model) == spec(model=model | more)


@pytest.mark.parametrize("defense", ["abl", "spectral_signatures"])
def test_a_defence_of_data_is_refused_where_the_attacker_trains(defense: str) -> None:
    with pytest.raises(Refused, match="the attacker trains the model and hands over no data"):
        cells(TABLE | {"attack": "wanet", "defenses": [defense]})
    assert "hands over no data" in str(spec(attack="wanet", defense=defense).refusal())
    assert spec(attack="wanet", defense="strip").refusal() is None


def test_cells_are_the_attack_alone_and_then_each_defence() -> None:
    found = cells(TABLE | {"defenses": ["strip", {"name": "fine_pruning", "epochs": 2}], "recipe": {"epochs": 4}})
    assert [c.defense_name for c in found] == ["none", "strip", "fine_pruning"]
    assert found[2].defense is not None
    assert found[2].defense["epochs"] == 2
    assert {c.recipe for c in found} == {Recipe(epochs=4)}
    assert len({c.attack_half().key("f") for c in found}) == 1


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return path


def test_settings_reach_nested_tables_and_methods_given_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, 'data = "digits"\nattack = "badnets"\n[recipe]\nepochs = 3\nlr = 0.1\n')
    table = read(path, ("attack.rate=0.05", "recipe.epochs = 7", "model=small_cnn", "attack.goal.target_class=2",
                        "attack.goal.name=all_to_one", "augment=['flip']", "defenses=[\"strip\"]"))
    bare, strip = cells(table)
    assert bare.make_attack() == BadNets(rate=0.05, goal=AllToOne(2))
    assert bare.recipe == Recipe(epochs=7, lr=0.1)
    assert (bare.augment, strip.defense_name) == (("flip",), "strip")


@pytest.mark.parametrize(("setting", "message"), [
    ("seed", "expected KEY=VALUE"), ("seed.x=1", "seed is 3, which has no x"), ("sed=1", "did you mean seed"),
    ("=1", "unknown key ''"), ("attack.rate=much", "expected float"), (f"seed={'9' * 5000}", "expected int"),
    ("recipe.lr=inf", "finite"), ("attack.name=nothing", "unknown attack"),
])
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    path = written(tmp_path, 'data = "digits"\nmodel = "small_cnn"\nattack = "badnets"\nseed = 3\n')
    with pytest.raises(ConfigError, match=message):
        cells(read(path, (setting,)))


def test_a_mark_of_byte_order_and_lines_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfdata = 'toy'\r\nseed = 3\r\n")
    assert read(tmp_path / "a.toml") == {"data": "toy", "seed": 3}


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2", b"\xff\xfe", b"[a\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigError, match=f"cannot read {path}"):
            read(path)


@given(path=st.lists(names, min_size=1, max_size=4),
       value=st.one_of(st.booleans(), st.integers(-2**63, 2**63 - 1), st.floats(allow_nan=False),
                       st.lists(st.integers(0, 9)), names.filter(lambda n: n not in ("true", "false", "inf", "nan"))))
def test_a_setting_is_found_where_its_dotted_key_says(tmp_path_factory: pytest.TempPathFactory, path: list[str],
                                                      value: Any) -> None:
    empty = tmp_path_factory.getbasetemp() / "empty.toml"
    empty.touch()
    text = value if isinstance(value, str) else json.dumps(value).replace("Infinity", "inf")
    found: Any = read(empty, (f"{'.'.join(path)}={text}",))
    for part in path:
        assert list(found) == [part]
        found = found[part]
    assert found == value
    assert type(found) is type(value)


@given(setting=st.text(max_size=30))
def test_any_text_is_a_setting_or_refused(tmp_path_factory: pytest.TempPathFactory, setting: str) -> None:
    path = tmp_path_factory.getbasetemp() / "some.toml"
    path.write_text('attack = "badnets"\nseed = 3\n')
    try:
        table = read(path, (setting,))
    except ConfigError:
        return
    with pytest.raises(ConfigError):
        cells(table)


def test_a_grid_is_the_product_of_its_axes() -> None:
    found = grid(TABLE | {"defenses": ["strip"], "grid": {"seed": [0, 1, 2], "attack.rate": [0.1, 0.2]}})
    assert len(found) == 3 * 2 * 2
    assert {(s.seed, (s.attack or {})["rate"], s.defense_name) for s in found} == {
        (seed, rate, defense) for seed in range(3) for rate in (0.1, 0.2) for defense in ("none", "strip")}


def test_a_grid_runs_a_cell_once_however_often_it_is_named() -> None:
    found = grid(TABLE | {"grid": {"attack": ["badnets", {"name": "badnets", "rate": 0.1}], "seed": [0, 0]}})
    assert found == [spec()]


@pytest.mark.parametrize("axis", ["defense", "defenses"])
def test_a_grid_keeps_pairs_that_do_not_suit_each_other(axis: str) -> None:
    attacks = {"attack": ["badnets", "wanet"]}
    given = {"grid": attacks | {"defense": ["abl", "strip"]}} if axis == "defense" else {
        "defenses": ["abl", "strip"], "grid": attacks}
    found = [(s.attack_name, s.defense_name, s.refusal() is None) for s in grid(TABLE | given) if s.defense]
    assert sorted(found) == [("badnets", "abl", True), ("badnets", "strip", True), ("wanet", "abl", False),
                             ("wanet", "strip", True)]


@pytest.mark.parametrize(("table", "message"), [
    ({}, r"table \[grid\] of non-empty lists"), ({"grid": {"seed": []}}, "non-empty"), ({"grid": {"seed": 1}}, "lists"),
    ({"grid": {"sed": [1]}}, "did you mean seed"), ({"grid": {"attack": ["badnet"]}}, "did you mean badnets"),
    ({"grid": {"seed": [0]}, "defenses": "abl"}, "expected a list"),
    ({"grid": {"attack": ["wanet"], "defense": ["abl"]}}, "no cell of the grid makes sense: defence abl works"),
], ids=str)
def test_a_grid_that_means_nothing_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(TABLE | table)


def test_several_grids_are_crossed_each_for_itself_and_their_cells_run_once() -> None:
    both = [{"seed": [0, 1], "defense": ["strip"]}, {"seed": [0], "defense": ["strip", "jpeg"]}]
    found = grid(TABLE | {"grid": both})
    assert [(s.seed, s.defense_name) for s in found] == [(0, "strip"), (1, "strip"), (0, "jpeg")]


@pytest.mark.parametrize("given", [[], [{"seed": [0]}, {"seed": []}], [{"seed": [0]}, 3]], ids=str)
def test_each_of_several_grids_is_checked(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"table \[grid\] of non-empty lists"):
        grid(TABLE | {"grid": given})


def test_a_tier_is_a_word_and_changes_nothing() -> None:
    table = TABLE | {"grid": {"seed": [0, 1]}}
    named = table | {"tier": "small"}
    assert [s.key("data") for s in grid(named)] == [s.key("data") for s in grid(table)]
    assert cells(TABLE | {"tier": "small"}) == cells(TABLE)
    assert (tier_of(named), tier_of(table)) == ("small", "")
    for read_as in (grid, cells):
        with pytest.raises(ConfigError, match="tier = 3 given; expected a word"):
            read_as(table | {"tier": 3} if read_as is grid else TABLE | {"tier": 3})


def test_a_grid_leaves_its_table_alone() -> None:
    table = TABLE | {"defenses": ["strip"], "grid": {"attack.rate": [0.1]}}
    before = json.dumps(table)
    assert grid(table) == grid(table) == cells(TABLE | {"defenses": ["strip"]})
    assert json.dumps(table) == before


def test_a_changed_copy_is_checked_like_a_new_one() -> None:
    with pytest.raises(ConfigError, match="expected at least 0"):
        replace(spec(), train_samples=-1)
    with pytest.raises(Refused):
        replace(spec(defense="abl"), attack="wanet").check()


def test_a_run_file_runs_a_cell_once_however_often_it_is_named() -> None:
    found = cells(TABLE | {"defenses": ["strip", {"name": "strip"}, "shrink_pad", "strip"]})
    assert [c.defense_name for c in found] == ["none", "strip", "shrink_pad"]


def test_several_devices_lead_to_another_model_and_one_is_in_no_key_and_no_record() -> None:
    assert key(devices=2) != key() == key(devices=1)
    assert "devices" not in spec().to_json()
    assert spec(devices=2).to_json()["devices"] == 2
    assert {each.devices for each in spec(devices=2, defense="neural_cleanse").clean_models()} == {2}


def test_a_sweep_computes_on_one_device_a_cell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="devices = 2 given; a sweep computes each cell on one device"):
        sweep([spec(devices=2)], Store(tmp_path))


def test_a_grid_fills_in_and_checks_each_reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred cells have two attacks and two defences; keys make no method anew."""
    forget()
    made: list[str] = []
    make = registry.make

    def counted(kind: str, given: Any, **leading: Any) -> Any:
        made.append(kind)
        return make(kind, given, **leading)

    monkeypatch.setattr(registry, "make", counted)
    specs = grid({"data": "digits", "model": "small_cnn", "defenses": ["strip"],
                  "grid": {"attack": ["badnets", "blended"], "seed": list(range(25))}})
    keys = {each.key("data") for each in specs}
    assert len(keys) == len(specs) == 100
    assert made.count("attack") + made.count("defense") <= 20


def test_what_a_specification_is_told_of_a_reference_is_its_own() -> None:
    first, second = spec(), spec()
    assert first.attack is not None
    first.attack["goal"]["target_class"] = 7
    assert second.attack is not None
    assert spec().attack == second.attack
    assert second.attack["goal"]["target_class"] == 0


def test_the_half_of_a_record_leaves_out_what_the_attack_half_does() -> None:
    one = Spec("digits", "small_cnn", attack="badnets")
    same = [replace(one, defense="jpeg"), replace(one, references=5), replace(one, assumed_rate=0.3),
            replace(one, after=("int8",))]
    others = [replace(one, seed=1), replace(one, defender_share=0.2), replace(one, attack="blended")]
    for other in same:
        assert other.attack_half() == one.attack_half()
        assert half_of(other.to_json()) == half_of(one.to_json())
    for other in others:
        assert other.attack_half() != one.attack_half()
        assert half_of(other.to_json()) != half_of(one.to_json())
    assert half_of(others[0].to_json(), "seed") == half_of(one.to_json(), "seed")
