"""One cell: its numbers by hand from the stored model, what is shared, what is run again, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sidedoor import registry
from sidedoor.bench.case import TrainedModel, load, train_or_load
from sidedoor.bench.examine.base import defend
from sidedoor.bench.machine import Machine
from sidedoor.bench.plan import planned
from sidedoor.bench.record import Record
from sidedoor.bench.run import attempt, run, target_share
from sidedoor.bench.spec import Refused, Spec
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import load_state, save_state
from sidedoor.data.root import Where
from sidedoor.defenses.base import Defense, Stage
from sidedoor.defenses.detectors.strip import Strip
from sidedoor.engine import Recipe, memory_format_of
from sidedoor.errors import CannotComplete, ConfigError, Diverged, NotApplicable
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Scores

Tiny = Callable[..., Spec]
CPU = Machine(device="cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def planted(tiny: Tiny, store: Store) -> Record:
    return run(tiny(), store, CPU)


def predictions(store: Store, key: str, images: np.ndarray) -> np.ndarray:
    """Classes that a stored model gives to uint8 images."""
    model = registry.make("model", {"name": "small_cnn", "width": 8})(4, (3, 16, 16))
    model.load_state_dict(load_state(store.model(key))["model"])
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images.astype(np.float32) / 255))
    return logits.numpy().argmax(1)


def by_hand(store: Store, key: str) -> dict[str, float]:
    """The four numbers of a stored model under a 3×3 checkerboard in the lower right corner and target 0."""
    test = registry.make("data", {"name": "toy", "train": 600, "test": 80})(Where(None)).test
    x, y = test.rows(torch.arange(len(test))).numpy().copy(), test.targets.numpy()
    clean = predictions(store, key, x)
    x[:, :, -3:, -3:] = 255 * np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    stamped = predictions(store, key, x)
    others = y != 0
    return {"clean": (clean == y).mean(), "attack": (stamped == 0)[others].mean(),
            "recovered": (stamped == y)[others].mean(), "idle": (clean == 0)[others].mean(),
            "asr_all": (stamped == 0).mean(), "eligible": others.sum()}


def test_the_numbers_are_those_of_the_stored_model(planted: Record, store: Store) -> None:
    expected = by_hand(store, planted.planted)
    assert expected["attack"] > 0.9
    assert planted.status == "done"
    for name in ("clean", "attack", "recovered", "idle"):
        assert getattr(planted, name) == pytest.approx(expected[name], abs=1e-6)
    assert planted.columns["asr_all"] == pytest.approx(expected["asr_all"], abs=1e-6)
    assert planted.samples == {"train": 568, "defender": 32, "test": 80, "poisoned": 85, "cover": 0, "rate": 0.2,
                               "target_share": 85 / (85 + 142), "eligible": expected["eligible"]}
    assert store.arrays(planted.key)["attack"].shape == (1, 80)


def test_a_clean_sibling_does_not_open_the_door_and_shows_the_floor(planted: Record, store: Store) -> None:
    assert planted.clean_key is not None
    expected = by_hand(store, planted.clean_key)
    assert planted.clean_means is not None
    assert planted.clean_means["attack"] == pytest.approx(expected["attack"], abs=1e-6)
    assert planted.clean_means["attack"] < 0.1
    assert planted.clean_means["clean"] == pytest.approx(expected["clean"], abs=1e-6)
    assert planted.columns["floor"] == pytest.approx(expected["asr_all"], abs=1e-6)
    assert planted.columns["floor"] >= 0.25  # of four classes the target's own


def test_a_record_is_kept_and_not_made_again(planted: Record, store: Store, tiny: Tiny) -> None:
    assert store.record(planted.key) == planted
    path = store.root / "results" / f"{planted.key}.json"
    before = path.stat().st_mtime_ns
    assert run(tiny(), store, CPU) == planted
    assert path.stat().st_mtime_ns == before


def test_defences_share_one_trained_model(planted: Record, store: Store, tiny: Tiny) -> None:
    models = {p: p.stat().st_mtime_ns for p in store.root.rglob("model.safetensors")}
    assert {p.parent.name for p in models} == {planted.planted, planted.clean_key}
    defended = run(tiny(defense={"name": "shrink_pad"}), store, CPU)
    detected = run(tiny(defense={"name": "strip", "overlays": 10}), store, CPU)
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("model.safetensors")} == models
    for record in (defended, detected):
        assert (record.planted, record.clean_key) == (planted.planted, planted.clean_key)
        assert record.undefended is not None
        assert record.undefended["attack"] == planted.attack
        assert record.timing["attack"] == planted.timing["attack"]
    assert defended.attack is not None
    assert planted.attack is not None
    assert defended.attack < planted.attack
    assert (detected.attack, detected.clean) == (planted.attack, planted.clean)
    assert detected.separation is not None
    assert detected.separation.method == "strip"
    assert detected.separation.n_positive == planted.samples["eligible"]
    assert detected.separation.n_calibration == planted.samples["defender"] // 2  # the other half fits the detector


def test_the_undefended_model_is_scored_once_for_all_its_defences(
    planted: Record, store: Store, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    scores = Classification.scores

    def counted(task: Classification, model: nn.Module, *rest: Any) -> list[Scores]:
        calls.append(model)
        return scores(task, model, *rest)

    monkeypatch.setattr(Classification, "scores", counted)
    again = Store(tmp_path)
    fresh = run(tiny(), again, CPU)
    assert len(calls) == 2  # the model and its clean sibling
    detected = run(tiny(defense={"name": "strip", "overlays": 10}), again, CPU)
    assert len(calls) == 2
    purified = run(tiny(defense={"name": "shrink_pad"}), again, CPU)
    assert len(calls) == 3  # behind the purifier
    for record in (fresh, detected, purified):
        assert record.clean_means == planted.clean_means
        assert {name: record.columns[name] for name in ("psnr", "ssim", "floor")} == {
            name: planted.columns[name] for name in ("psnr", "ssim", "floor")}
    assert fresh.columns == planted.columns
    assert detected.columns == planted.columns | {"accepted": detected.columns["accepted"]}
    assert detected.undefended == purified.undefended == run(tiny(defense={"name": "strip", "overlays": 10}), store,
                                                             CPU).undefended
    assert detected.intervals == fresh.intervals
    kept, remade = again.arrays(detected.key), again.arrays(fresh.key)
    assert all(np.array_equal(kept[name], remade[name], equal_nan=True) for name in ("clean", "attack"))


def test_a_finished_cell_leaves_no_checkpoints(planted: Record, store: Store) -> None:
    assert store.record(planted.key) is not None
    assert list(store.root.rglob("phase-*")) == []
    assert store.unused() == []


def test_an_attack_that_does_not_take_is_marked_with_the_reason(store: Store, tiny: Tiny) -> None:
    record = run(tiny(attack={"name": "badnets", "rate": 0.001}), store, CPU)
    assert record.samples["poisoned"] == 1
    assert record.status == "failed"
    assert record.error == f"attack success {record.attack:.1%} is below 50%"
    assert record.attack is not None
    assert record.attack < 0.5


@pytest.mark.parametrize("assumed", [0.2, 0.66])
def test_a_filter_removes_as_many_rows_as_it_is_told_to_assume(store: Store, tiny: Tiny, assumed: float) -> None:
    record = run(tiny(defense="spectral_signatures", assumed_rate=assumed), store, CPU)
    assert record.separation is not None
    poisoned, clean = record.separation.removed_poisoned, record.separation.removed_clean
    assert poisoned is not None
    assert clean is not None
    assert poisoned * 85 + clean * (568 - 85) == pytest.approx(round(1.5 * assumed * 568), abs=0.01)
    # All poisoned rows are labelled as the target, 0, beside the clean ones of that class.
    first, *others = record.separation.removed_poisoned_by_class
    assert first == poisoned
    assert others == [None] * 3
    among = record.separation.removed_clean_by_class
    assert np.mean([share for share in among if share is not None]) == pytest.approx(clean, abs=0.05)
    assert len(among) == 4


@pytest.mark.parametrize("defense", ["strip", "spectral_signatures", "shrink_pad"])
def test_a_defence_of_a_model_that_nobody_attacked_has_no_attack_figures(store: Store, tiny: Tiny,
                                                                         defense: str) -> None:
    record = run(tiny(attack=None, defense=defense), store, CPU)
    assert record.status == "done"
    assert (record.attack, record.recovered, record.idle, record.clean_means) == (None, None, None, None)
    assert record.clean is not None
    if defense == "strip":
        assert record.separation is not None
        assert record.separation.auroc is None
        assert record.separation.n_negative == 80
        assert record.separation.fpr_at_5 is not None


@pytest.mark.parametrize(("change", "message"), [
    ({"attack": {"name": "baat", "style": "nobody"}}, "picture = 'nobody'"),
    ({"attack": {"name": "badnets", "goal": {"name": "all_to_one", "target_class": 1}}, "test_samples": 1},
     "none of 1 test samples can tell whether AllToOne.target_class=1. is reached"),
])
def test_what_is_wrong_with_an_attack_is_said_before_anything_is_trained(
        tmp_path: Path, tiny: Tiny, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tiny(**change), Store(tmp_path), CPU)
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_a_loss_that_is_not_finite_becomes_the_record_of_its_cell(store: Store, tiny: Tiny) -> None:
    spec = tiny(recipe=Recipe(lr=1e30, epochs=1, batch=32))
    key = planned([spec], CPU)[0].key
    with pytest.raises(Diverged):
        run(spec, store, CPU)
    record = attempt(spec, store, CPU, key)
    assert (record.key, record.status) == (key, "error")
    assert record.error is not None
    assert "the loss became nan in epoch 1 of 1 at learning rate" in record.error
    assert store.record(key) == record


def test_a_cell_that_ended_in_an_error_is_run_again(planted: Record, store: Store, tiny: Tiny, tmp_path: Path) -> None:
    again = Store(tmp_path)
    again.put(replace(planted, status="error", error="the power went", clean=None))
    again.folder(planted.planted).parent.mkdir()
    for key in (planted.planted, planted.clean_key or ""):
        again.folder(key).symlink_to(store.folder(key))
    record = attempt(tiny(), again, CPU, planted.key)
    assert (record.status, record.error, record.clean) == ("done", None, planted.clean)
    assert again.record(planted.key) == record


def test_a_fault_in_a_method_is_told_with_its_place(planted: Record, store: Store, tiny: Tiny,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(Strip, "fit", fit)
    spec = tiny(defense={"name": "strip", "overlays": 3})
    record = attempt(spec, store, CPU, planned([spec], CPU)[0].key)
    assert record.status == "error"
    assert str(record.error).startswith("ZeroDivisionError: by nought (at ")
    assert "test_bench_run.py:" in str(record.error)


def test_a_method_without_anything_to_work_on_is_not_applicable(planted: Record, store: Store, tiny: Tiny,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object) -> None:
        raise NotApplicable("a network without batch norm has nothing to prune")

    monkeypatch.setattr(Strip, "fit", fit)
    spec = tiny(defense={"name": "strip", "overlays": 4})
    record = attempt(spec, store, CPU, planned([spec], CPU)[0].key)
    assert (record.status, record.error) == ("not applicable", "a network without batch norm has nothing to prune")
    assert (record.finished, record.scored, record.clean) == (True, False, None)
    monkeypatch.undo()
    assert attempt(spec, store, CPU, record.key) == record  # it is not run again


def test_methods_that_do_not_suit_each_other_are_not_run(tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(Refused, match="hands over no data"):
        run(tiny(attack="wanet", defense="abl"), Store(tmp_path), CPU)
    assert list(tmp_path.rglob("*")) == []


def test_a_record_names_what_computed_it(planted: Record, store: Store, tiny: Tiny) -> None:
    assert (planted.device, planted.threads) == ("cpu", 1)
    assert planted.processor
    assert planted.memory_format == memory_format_of(train_or_load(load(tiny(), store, CPU)).model)
    assert planted.terms == Classification.terms


CLEAN_LABEL = {"name": "sig", "rate": 0.5}


@pytest.mark.parametrize(("attack", "expected"), [
    # 568 training samples, 142 of each of four classes. Half of the target's own, with clean labels:
    (CLEAN_LABEL, 71 / 142),
    # A tenth of the 426 others, which join the 142:
    ({"name": "badnets", "rate": 0.1}, 43 / (43 + 142)),
    ({"name": "badnets", "rate": 0.1, "goal": {"name": "all_to_all"}}, None),
])
def test_the_share_of_the_target_class(tmp_path: Path, tiny: Tiny, attack: dict[str, Any],
                                       expected: float | None) -> None:
    case = load(tiny(attack=attack), Store(tmp_path), CPU)
    method = case.spec.make_attack()
    assert method is not None
    backdoor = method.plan(case.train, case.task, case.surrogate, case.attacker())
    trained = TrainedModel("", backdoor, nn.Identity(), backdoor.doors, 0.0)
    share = target_share(case, trained)
    assert share == (None if expected is None else pytest.approx(expected))


def test_scores_that_an_earlier_version_kept_are_read(planted: Record, store: Store, tiny: Tiny) -> None:
    file = store.folder(planted.planted) / "measured.safetensors"
    state = load_state(file)
    save_state(file, {"reference" if name == "clean_means" else name: value for name, value in state.items()})
    again = run(tiny(defense={"name": "strip", "overlays": 5}), store, CPU)
    save_state(file, state)
    assert again.clean_means == planted.clean_means


def test_a_defence_of_no_known_stage_is_refused(store: Store, tiny: Tiny) -> None:
    class Stageless(Defense):
        stage = Stage("prayer", "pray", "hopes", 2)

    case = load(tiny(), store, CPU)
    with pytest.raises(ConfigError, match="Stageless is of no known stage: 'prayer'"):
        defend((Stageless(),), case, train_or_load(case))


@pytest.mark.parametrize("damage", [{"schema": 99}, None])
def test_a_record_that_cannot_be_read_is_never_overwritten(planted: Record, tiny: Tiny, tmp_path: Path,
                                                           damage: dict[str, int] | None) -> None:
    store = Store(tmp_path)
    path = tmp_path / "results" / f"{planted.key}.json"
    path.parent.mkdir()
    content = json.dumps(planted.to_json() | damage) if damage else '{"key": '
    path.write_text(content)
    with pytest.raises(CannotComplete, match="cannot read the record"):
        attempt(tiny(), store, CPU, planted.key)
    assert path.read_text() == content


def test_a_subset_keeps_the_shares_of_the_classes_and_changes_the_key(tiny: Tiny, store: Store) -> None:
    case = load(tiny(train_samples=100, test_samples=20), store, CPU)
    assert torch.bincount(torch.cat([case.train.targets, case.clean.targets])).tolist() == [25] * 4
    assert torch.bincount(case.test.targets).tolist() == [5] * 4
    assert case.key != load(tiny(), store, CPU).key
    rows = {int(i) for data in (case.train, case.clean) for i in data.position(torch.arange(len(data)))}
    assert len(rows) == len(case.train) + len(case.clean) == 100


def test_a_loaded_model_is_the_trained_one(planted: Record, store: Store, tiny: Tiny) -> None:
    case = load(tiny(), store, CPU)
    first, second = train_or_load(case), train_or_load(case)
    assert first.key == planted.planted
    assert first.seconds == second.seconds == planted.timing["attack"]
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


def test_another_seed_is_another_model(planted: Record, store: Store, tiny: Tiny) -> None:
    other = train_or_load(load(tiny(seed=1), store, CPU))
    here = load_state(store.model(planted.planted))["model"]
    assert not torch.equal(other.model.state_dict()["body.0.weight"], here["body.0.weight"])
    assert other.key != planted.planted


def test_a_device_that_is_not_there_is_found_before_anything_is_run(tiny: Tiny) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(CannotComplete, match="cannot compute on 1 × cuda"):
        planned([tiny()], Machine(device="cuda"))
