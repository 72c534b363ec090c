"""What is tried with a delivered model afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sidedoor.bench.after import known, repaired_sibling, retuning, search
from sidedoor.bench.case import Case, TrainedModel, load, train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import run
from sidedoor.bench.spec import Refused, Spec
from sidedoor.bench.store import Store
from sidedoor.errors import ConfigError
from sidedoor.triggers.base import stamp

Tiny = Callable[..., Spec]
CPU = Machine(device="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def victim(tiny: Tiny, store: Store) -> tuple[Case, TrainedModel]:
    case = load(tiny(), store, CPU)
    return case, train_or_load(case)


def test_what_is_remembered_comes_back_faster_than_it_is_learned(tiny: Tiny, store: Store) -> None:
    """A model that no defence has changed remembers all; its sibling learns the trigger from many images alone."""
    columns = run(tiny(after=("retuning",)), store, CPU).columns
    assert min(columns[f"retuned_{count}"] or 0 for count in (1, 5, 20)) > 0.9
    assert max(columns[f"relearned_{count}"] or 0 for count in (1, 5, 20)) < 0.2
    assert set(run(tiny(attack=None, after=("retuning",)), store, CPU).columns) & {"retuned_1", "relearned_1"} == set()


def test_whoever_trains_longer_learns_it(victim: tuple[Case, TrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    case, trained = victim
    monkeypatch.setattr(retuning, "IMAGES", (20,))
    monkeypatch.setattr(retuning, "STEPS", 100)
    monkeypatch.setattr(retuning, "SLOWER", 1.0)
    clean = train_or_load(case.twin(case.spec.clean_models()[0])).model
    before = {name: value.clone() for name, value in clean.state_dict().items()}
    assert (retuning.measure(case, trained.doors, trained.model, clean)["relearned_20"] or 0) > 0.5
    assert all(torch.equal(value, before[name]) for name, value in clean.state_dict().items())


def test_the_search_finds_a_trigger_near_the_old_one(victim: tuple[Case, TrainedModel],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is blind to the trigger's own values, but not to neighbouring ones, is opened again; nobody has
    closed another network's door.
    """
    case, trained = victim
    door = trained.doors[0]
    corner = stamp(door.trigger, torch.zeros(1, *case.train.shape), torch.zeros(1, dtype=torch.int64),
                   case.train.space)[0, :, -3:, -3:]

    class Blind(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = x.clone()
            exact = ((x[:, :, -3:, -3:] - corner).abs().amax((1, 2, 3)) < 0.01)[:, None, None, None]
            seen[:, :, -3:, -3:] = torch.where(exact, 0.5, x[:, :, -3:, -3:])
            logits: torch.Tensor = trained.model(seen)
            return logits

    monkeypatch.setattr(search, "QUERIES", 40)
    clean = train_or_load(case.twin(case.spec.clean_models()[0])).model
    columns = search.measure(case, trained.doors, Blind(), clean)
    assert (columns["searched"] or 0) > 0.9
    assert (columns["searched_clean"] or 0) < 0.5
    delta = search.found(case, door, Blind())
    assert 0 < delta.abs().max() <= search.BOUND + 1e-6


REPAIR = {"name": "fine_tuning", "epochs": 2}


def test_a_repaired_sibling_gets_the_same_rows_and_the_same_search(tiny: Tiny, store: Store,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERIES", 10)
    monkeypatch.setattr(retuning, "IMAGES", (5,))
    once, twice = (run(tiny(defense=REPAIR, after=after), store, CPU).columns
                   for after in (("retuning",), ("retuning", "search", "repaired_sibling")))
    assert {name for name in twice if "repaired" in name} == {"repaired_relearned_5", "repaired_searched"}
    assert not any("repaired" in name for name in once)
    assert twice["retuned_5"] == once["retuned_5"] > 0.9, "the attacked model remembers behind this repair"
    assert max(twice["repaired_relearned_5"] or 0, twice["repaired_searched"] or 0) < 0.5


def test_the_sibling_goes_through_what_changes_a_model(tiny: Tiny, store: Store) -> None:
    audited = [REPAIR, {"name": "head_norms"}]
    case = load(tiny(defense=audited, after=("retuning", "repaired_sibling")), store, CPU)
    sibling = train_or_load(case.twin(case.spec.clean_models()[0])).model
    repaired = repaired_sibling.never_attacked(case)
    assert repaired is not None
    assert any((repaired.state_dict()[name] != value).any() for name, value in sibling.state_dict().items())
    assert case.spec.defended_sibling() == tiny(defense=REPAIR, attack=None)
    assert tiny(defense="head_norms").defended_sibling() is None
    undefended = load(tiny(after=("retuning", "repaired_sibling")), store, CPU)
    assert repaired_sibling.measure(undefended, (), sibling, sibling) == {}


def test_deployed_forms_behave_nearly_the_same(tiny: Tiny, store: Store) -> None:
    record = run(tiny(after=("int8", "bf16")), store, CPU)
    for form, name in (("int8", "clean"), ("bf16", "clean"), ("bf16", "attack")):
        assert record.columns[f"{form}_{name}"] == pytest.approx(getattr(record, name), abs=0.05)
    assert record.columns["int8_attack"] is not None


def test_a_key_knows_what_is_tried_only_where_something_is(tiny: Tiny) -> None:
    assert tiny().key("f") == tiny(after=()).key("f") != tiny(after=("int8",)).key("f")
    assert tiny(after=("int8",)).attack_half() == tiny().attack_half()
    with pytest.raises(ConfigError, match="did you mean int8"):
        tiny(after=("int-8",))
    assert known() == ["bf16", "int8", "repaired_sibling", "retuning", "search"]
    with pytest.raises(ConfigError, match="control of retuning and search; list one"):
        tiny(after=("int8", "repaired_sibling"))


def test_images_out_are_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": {"name": "photos"}, "model": "dncnn", "task": "restoration"}
    with pytest.raises(Refused, match="is about classifiers"):
        Spec(**given, after=("int8",)).check()
