"""The schema of specifications takes what sidedoor takes, and refuses what an editor should underline."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator

from sidedoor.bench.spec import Spec
from sidedoor.cli import specification
from sidedoor.cli.schema import of, schema
from sidedoor.engine import Recipe
from sidedoor.method import Count, Positive, Share
from sidedoor.zoo import Weights

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").rglob("*.toml"))
GOOD: dict[str, Any] = {"data": "digits", "model": "small_cnn"}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    made = json.loads(json.dumps(schema(), allow_nan=False))
    Draft202012Validator.check_schema(made)
    return Draft202012Validator(made)


def test_there_are_experiments() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_every_experiment_is_valid(validator: Draft202012Validator, file: Path) -> None:
    assert [error.message for error in validator.iter_errors(tomllib.loads(file.read_text()))] == []


def test_specifications_of_records_are_valid(validator: Draft202012Validator) -> None:
    lines = (ROOT / "docs" / "results" / "poison_ink.jsonl").read_text().splitlines()
    assert [line for line in lines if not validator.is_valid(json.loads(line)["spec"])] == []


@pytest.mark.parametrize("table", [
    {}, {"model": "torchvision:resnet50"}, {"attack": {"name": "badnets", "rate": 0.1}}, {"attack": "latent"},
    {"defenses": ["strip", {"name": "jpeg"}]}, {"recipe": {"epochs": 1, "schedule": "cosine"}},
    {"grid": {"seed": [0, 1]}}, {"grid": [{"seed": [0]}, {"attack": ["badnets"]}]}, {"tier": "ci"},
    {"augment": ["crop"]}, {"surrogate": "resnet18"},
    {"model": {"name": "resnet18", "weights": "x.pth", "mean": 0.5, "std": [0.5, 0.5, 0.5], "head": "new", "width": 4}},
], ids=str)
def test_what_sidedoor_takes_is_valid(validator: Draft202012Validator, table: dict[str, Any]) -> None:
    assert validator.is_valid(GOOD | table)


@pytest.mark.parametrize("table", [
    {"atack": "badnets"}, {"attack": "badnet"}, {"attack": "strip"}, {"attack": {"rate": 0.1}}, {"data": 3},
    {"seed": "one"}, {"seed": 0.5}, {"defender_share": 1.5}, {"train_samples": -1}, {"augment": "flip"},
    {"defenses": "strip"}, {"defenses": ["badnets"]}, {"recipe": {"epoch": 1}}, {"recipe": {"epochs": 0}},
    {"recipe": {"lr": 0}}, {"recipe": {"schedule": "linear"}}, {"recipe": 3}, {"grid": {"seed": []}}, {"grid": {}},
    {"model": {"name": "resnet18", "head": "old"}}, {"model": {"name": "resnet18", "mean": "x"}},
    {"model": {"name": "resnet18", "weights": 3}}, {"grid": {"seed": 1}}, {"surrogate": "badnets"},
    {"grid": []}, {"grid": [{"seed": []}]}, {"tier": 1},
    {"task": "resnet18"},
], ids=str)
def test_what_sidedoor_refuses_is_not(validator: Draft202012Validator, table: dict[str, Any]) -> None:
    assert validator.is_valid(GOOD)
    assert not validator.is_valid(GOOD | table)


def test_data_and_model_are_needed_unless_a_grid_has_them(validator: Draft202012Validator) -> None:
    assert not validator.is_valid({"data": "digits"})
    assert validator.is_valid({"model": "small_cnn", "grid": {"data": ["digits"]}})


@pytest.mark.parametrize(("hint", "expected"), [
    (Share, {"type": "number", "minimum": 0.0, "maximum": 1.0}), (Count, {"type": "integer", "minimum": 1}),
    (Positive, {"type": "number", "exclusiveMinimum": 0}), (Literal["a", "b"], {"enum": ["a", "b"]}),
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}), (bool, {"type": "boolean"}),
    (tuple[str, ...], {"type": "array", "items": {"type": "string"}}), (Annotated[str, "x"], {"type": "string"}),
    (tuple[int, str], {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2,
                       "maxItems": 2}),
])
def test_the_schema_of_a_type(hint: Any, expected: dict[str, Any]) -> None:
    assert of(hint) == expected


@pytest.mark.parametrize(("keys", "cls"), [
    (specification.spec_keys, Spec), (specification.recipe_keys, Recipe), (specification.weights_keys, Weights)])
def test_keys_that_are_read_from_source_are_those_of_the_class(keys: Any, cls: type) -> None:
    found = {key.name: key for key in keys() if key.name not in ("defenses", "grid", "tier")}
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(cls)}
    assert list(found) == list(fields)
    for name, key in found.items():
        assert key.meaning, f"the docstring of {cls.__name__} does not say what {name} means"
        if key.default and fields[name].default_factory is not dataclasses.MISSING:
            assert key.default[0] == fields[name].default_factory()
        elif key.default:
            assert key.default[0] == fields[name].default
        assert key.required == (fields[name].default is fields[name].default_factory is dataclasses.MISSING)
