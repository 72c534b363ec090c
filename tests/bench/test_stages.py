"""What each stage of defence is handed and what is made of it, one after another: recording stubs, nothing trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sidedoor.backdoor.dataset import PoisonedDataset, Sealed
from sidedoor.bench.case import Case, TrainedModel, load
from sidedoor.bench.examine.audit import _Told
from sidedoor.bench.examine.base import Delivered, composed, defend
from sidedoor.bench.labels import labels
from sidedoor.bench.machine import Machine
from sidedoor.bench.run import accepted, nothing_learned, run
from sidedoor.bench.spec import Spec, cells
from sidedoor.bench.store import Store
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.detectors.base import InputDetector
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.repair.base import Repair
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NothingFound
from sidedoor.evaluation import evaluate
from sidedoor.evidence import Calibrated, Finding, Separation
from sidedoor.tasks.task import Scores, Task

Tiny = Callable[..., Spec]
CPU = Machine(device="cpu")


@dataclass
class Trainings:
    """What the loop was asked to train, instead of training it."""

    asked: list[tuple[str, Dataset]] = field(default_factory=list)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings()

    def fit(self: Run, model: nn.Module, data: Dataset, objective: object, *, name: str, **_: Any) -> nn.Module:
        found.asked.append((self.scope + name, data))
        return model.eval()

    monkeypatch.setattr(Run, "fit", fit)
    return found


@pytest.fixture
def given(tiny: Tiny, tmp_path: Path) -> tuple[Case, TrainedModel]:
    """A case with poisoned rows, and a model that nobody has trained."""
    case = load(tiny(), Store(tmp_path), CPU)
    attack = case.spec.make_attack()
    assert attack is not None
    backdoor = attack.plan(case.train, case.task, case.surrogate, case.attacker())
    model = case.run.build(case.build).eval()
    scores = evaluate(model, case.test, case.task, backdoor.doors, case.run)
    return case, TrainedModel("0" * 16, backdoor, model, backdoor.doors, 0.0, scores=scores)


def darkness(data: Dataset) -> Tensor:
    return -data.fetch(torch.arange(len(data))).x.mean((1, 2, 3))


@dataclass(frozen=True)
class Shade(DataFilter):
    """Suspects what is dark."""

    seen: list[Any] = field(default_factory=list)

    def score(self, train: Dataset, task: Task, build: Any, run: Run) -> Tensor:
        self.seen.append((train, run.scope))
        return darkness(train)


@dataclass(frozen=True)
class Trainer(TrainingDefense):
    seen: list[Any] = field(default_factory=list)

    def train(self, train: Dataset, task: Task, build: Any, run: Run) -> nn.Module:
        self.seen.append((train, run.scope))
        return run.build(build).eval()


@dataclass(frozen=True)
class Mender(Repair):
    seen: list[Any] = field(default_factory=list)

    def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
        self.seen.append((model, run.scope))
        return nn.Sequential(model)


@dataclass(frozen=True)
class Inspector(ModelAudit):
    needs = Mender.needs

    seen: list[Any] = field(default_factory=list)

    def inspect(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Finding:
        self.seen.append((model, run.scope))
        return Finding(score=1.0, suspected=())


@dataclass(frozen=True)
class Guard(InputDetector):
    needs = Mender.needs

    seen: list[Any] = field(default_factory=list)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        self.seen.append((model, run.scope))
        return lambda x, index: x[:, :, -3:, -3:].std((1, 2, 3))  # where the checkerboard is


@dataclass(frozen=True)
class Shift(Purifier):
    needs = Mender.needs

    by: float = 0.0
    seen: list[Any] = field(default_factory=list)

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Any:
        self.seen.append((model, run.scope))
        return lambda x, index: (x * 2 + self.by, lambda output: output * 10 + self.by)


def rows_of(data: Dataset) -> set[bytes]:
    return {row.numpy().tobytes() for row in data.rows(torch.arange(len(data)))}


def test_a_filter_removes_the_most_suspicious_rows_of_a_sealed_view_and_the_rest_is_trained_on_once(
        given: tuple[Case, TrainedModel], trainings: Trainings) -> None:
    case, trained = given
    shade = Shade()
    found = defend((shade,), case, trained)
    ((seen, scope),) = shade.seen
    poisoned = PoisonedDataset(case.train, trained.backdoor, case.task)
    assert (type(seen), scope, len(seen)) == (Sealed, "", len(poisoned))
    ((name, left),) = trainings.asked
    count = round(1.5 * case.spec.assumed_rate * len(seen))
    assert (name, len(left)) == ("retrain", len(seen) - count)
    assert darkness(left).max() <= darkness(seen).sort().values[-count]
    assert found.model is not trained.model
    (evidence,) = found.evidence
    assert isinstance(evidence, Separation)
    truth = torch.from_numpy(found.arrays["filter_truth"])
    assert (truth == 1).sum() == len(trained.backdoor.poison.index)
    removed = torch.from_numpy(found.arrays["filter_score"]).argsort(descending=True)[:count]
    assert evidence.removed_poisoned == pytest.approx((truth[removed] == 1).sum() / (truth == 1).sum())
    assert torch.equal(truth, poisoned.is_poisoned())


def test_filters_work_one_behind_the_other_and_a_training_defence_on_what_they_leave(
        given: tuple[Case, TrainedModel], trainings: Trainings) -> None:
    case, trained = given
    first, second, trainer = Shade(), Shade(), Trainer()
    found = defend((first, second, trainer), case, trained)
    assert trainings.asked == []
    (whole, _), (rest, scope), (last, _) = first.seen[0], second.seen[0], trainer.seen[0]
    assert rows_of(last) < rows_of(rest) < rows_of(whole)
    assert (scope, trainer.seen[0][1]) == ("1-Shade/", "2-Trainer/")
    assert [e.method for e in found.evidence] == ["Shade", "Shade"]
    assert {len(found.arrays[f"filter_{what}{n}"]) for what in ("score", "truth") for n in ("", "_2")} == \
        {len(whole), len(rest)}
    assert len(found.arrays["filter_truth_2"]) == len(rest)
    assert found.truth is not None
    assert len(found.truth) == len(last)


def test_a_training_defence_gets_a_sealed_view(given: tuple[Case, TrainedModel], trainings: Trainings) -> None:
    case, trained = given
    trainer = Trainer()
    found = defend((trainer,), case, trained)
    assert [type(train) for train, _ in trainer.seen] == [Sealed]
    assert found.model is not trained.model
    assert trainings.asked == []


def test_after_filters_a_model_is_trained_once_before_the_first_defence_that_looks_at_one(
        given: tuple[Case, TrainedModel], trainings: Trainings) -> None:
    case, trained = given
    mender, guard, shift = Mender(), Guard(), Shift()
    found = defend((Shade(), mender, guard, shift), case, trained)
    assert [name for name, _ in trainings.asked] == ["retrain"]
    assert mender.seen[0][0] is not trained.model
    assert isinstance(found.model, nn.Sequential)
    assert found.model[0] is mender.seen[0][0]
    assert all(model is found.model for model, _ in (*guard.seen, *shift.seen))
    assert found.seconds.keys() == {"Shade", "Mender", "Guard", "Shift"}


def test_a_repair_that_finds_nothing_leaves_the_model_and_counts(given: tuple[Case, TrainedModel]) -> None:
    @dataclass(frozen=True)
    class Blind(Repair):
        def repair(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> nn.Module:
            raise NothingFound("no trigger")

    case, trained = given
    assert defend((Blind(),), case, trained).finished is trained.model


def test_an_audit_inspects_the_repaired_model_and_leaves_it(given: tuple[Case, TrainedModel],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    case, trained = given
    monkeypatch.setattr("sidedoor.bench.examine.audit._of_clean", lambda *_: _Told(0.0, ()))
    inspector = Inspector()
    found = defend((Mender(), inspector), case, trained)
    assert inspector.seen[0][0] is found.model
    (evidence,) = found.evidence
    assert isinstance(evidence, Calibrated)
    assert (evidence.method, evidence.finding.method) == ("Inspector", "Inspector")


def test_no_defence_delivers_the_model_as_it_is(given: tuple[Case, TrainedModel]) -> None:
    case, trained = given
    assert defend((), case, trained) == Delivered(trained.model)


def test_purifiers_work_in_order_and_are_undone_in_the_opposite_one(given: tuple[Case, TrainedModel]) -> None:
    case, trained = given
    purify = composed([Shift(by).fit(trained.model, case.clean, case.task, case.run) for by in (1.0, 5.0)])
    x, back = purify(torch.full((1, 1, 1, 1), 3.0), torch.zeros(1, dtype=torch.int64))
    assert x.item() == (3 * 2 + 1) * 2 + 5
    assert back(torch.tensor(7.0)).item() == (7 * 10 + 5) * 10 + 1


def test_what_is_accepted_is_what_raises_no_alarm_and_reaches_the_goal(given: tuple[Case, TrainedModel]) -> None:
    case, trained = given
    missing = trained.scores.attack.isnan()
    some = torch.where(missing, torch.nan, (torch.arange(len(missing)) % 3 == 0).float())
    trained = replace(trained, scores=replace(trained.scores, attack=some))
    found = defend((Guard(),), case, trained)
    (alarms,) = found.alarms
    threshold = torch.from_numpy(found.arrays["calibration"]).sort().values[-1]
    assert len(found.arrays["calibration"]) <= 20  # so few that a rate of 5 % is the largest of them
    assert torch.equal(alarms, torch.from_numpy(found.arrays["suspicious"]) > threshold)
    assert alarms.float().mean() > 0.5
    reached = trained.scores.attack[~trained.scores.attack.isnan()]
    assert 0 < reached.sum() < len(reached)
    assert torch.equal(torch.from_numpy(found.arrays["worked"]), reached == 1)
    nan = torch.nan
    scores = Scores(torch.ones(5), torch.tensor([1.0, nan, 1, 0, 1]), torch.ones(5), torch.ones(5))
    one, other = torch.tensor([True, False, False, False]), torch.tensor([False, False, True, False])
    assert accepted(scores, [one]) == {"accepted": 0.5}
    assert accepted(scores, [one, other]) == {"accepted": 0.5}
    assert accepted(scores, [other]) == {"accepted": 0.75}
    assert accepted(scores, []) == {}


@pytest.mark.parametrize(("defenses", "message"), [
    (["strip", "fine_pruning"], r"fine_pruning \(repair\) cannot come after strip \(input detector\)"),
    (["fine_pruning", "spectral_signatures"], r"spectral_signatures \(filter\) cannot come after fine_pruning"),
    (["abl", "abl"], r"abl \(training\) cannot come after abl \(training\)"),
    (["jpeg", "strip"], r"strip \(input detector\) cannot come after jpeg \(purifier\)"),
    (["spectral_signatures", "spectral_signatures", "abl", "fine_pruning", "fine_pruning", "neural_cleanse", "strip",
      "jpeg", "flip"], None),
])
def test_a_pipeline_has_one_order(tiny: Tiny, defenses: list[str], message: str | None) -> None:
    reason = replace(tiny(), defense=tuple({"name": name} for name in defenses)).refusal()
    if message is None:
        assert reason is None
    else:
        assert reason is not None
        assert reason.startswith(message.replace("\\", ""))


def test_what_one_defence_cannot_do_no_pipeline_with_it_can(tiny: Tiny) -> None:
    reason = tiny(attack="wanet", defense=["spectral_signatures", "fine_pruning"]).refusal()
    assert reason is not None
    assert reason.startswith("defence spectral_signatures works on poisoned training data")


def test_a_run_file_lists_pipelines_among_defences() -> None:
    table = {"data": "toy", "model": "small_cnn", "attack": "badnets",
             "defenses": ["strip", ["spectral_signatures", {"name": "fine_pruning", "epochs": 3}], ["strip"]]}
    found = cells(table)
    assert [spec.defense_name for spec in found] == ["none", "strip", "spectral_signatures+fine_pruning"]
    assert found[2].make_defenses()[1].epochs == 3
    again = Spec(**json.loads(json.dumps(found[2].to_json() | {"recipe": None})) | {
        "recipe": found[2].recipe, "augment": ()})
    assert again == found[2]
    assert again.key("f") == found[2].key("f")
    assert len({spec.key("f") for spec in found}) == 3
    assert labels([spec.to_json() for spec in found])[2].defense == "spectral_signatures+fine_pruning"
    changed = cells(table | {"defenses": [["spectral_signatures", {"name": "fine_pruning", "epochs": 4}]]})
    several = labels([spec.to_json() for spec in (found[2], changed[1])])
    assert several[0].defense == "spectral_signatures+fine_pruning (fine_pruning.epochs=3)"
    assert changed[1].key("f") != found[2].key("f")
    with pytest.raises(ConfigError, match=r"defense = \[\] given"):
        cells(table | {"defenses": [[]]})


def test_a_pipelines_record_says_what_each_was_given_and_what_is_left(tiny: Tiny, tmp_path: Path) -> None:
    record = run(tiny(defense=[{"name": "fine_pruning", "epochs": 1}, {"name": "strip", "overlays": 5}, "flip"]),
                 Store(tmp_path), CPU)
    assert record.defense_name == "fine_pruning+strip+flip"
    assert record.given == ("the model, labelled clean images; then the model's probabilities, clean images; then "
                            "inputs only")
    assert record.timing.keys() == {"attack", "clean", "defense", "fine_pruning", "strip", "flip"}
    assert record.columns["accepted"] is not None
    assert record.attack is not None
    assert record.columns["accepted"] <= record.attack
    assert [value.method for value in record.evidence] == ["strip"]
    assert record == Store(tmp_path).record(record.key)


@pytest.mark.parametrize(("right", "learned"), [(20, False), (21, False), (22, True)])
def test_a_model_that_is_no_better_than_a_guess_has_learned_nothing(given: tuple[Case, TrainedModel], right: int,
                                                                    learned: bool) -> None:
    case, trained = given
    assert torch.bincount(case.test.targets).tolist() == [20] * 4
    scores = replace(trained.scores, clean=(torch.arange(80) < right).float())
    reason = nothing_learned(case, replace(trained, scores=scores))
    assert reason == (None if learned else f"the model has learned nothing: it is right on {right / 80:.1%} of test "
                                           "images, of which 25.0% are one class")


@pytest.mark.parametrize("attack", [None, "badnets"])
def test_what_has_learned_nothing_is_named(tiny: Tiny, tmp_path: Path, attack: str | None,
                                           monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert run(tiny(attack=attack), Store(tmp_path / "as it is"), CPU).status == "done"
    assert caplog.text == ""
    monkeypatch.setattr("sidedoor.bench.run.GUESSED", 5)
    record = run(tiny(attack=attack), Store(tmp_path), CPU)
    said = "the model has learned nothing"
    assert (record.status, said in str(record.error), said in caplog.text) == (
        ("failed", True, False) if attack else ("done", False, True))


def test_an_attack_has_failed_by_the_undefended_model_alone(tiny: Tiny, tmp_path: Path) -> None:
    record = run(tiny(defense="flip"), Store(tmp_path), CPU)  # the trigger is in a corner
    assert record.attack is not None
    assert record.attack < 0.5
    assert record.status == "done"


def test_a_repairs_strength_is_the_defenders_choice_and_the_oracles_stands_apart(tiny: Tiny, tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = run(tiny(defense={"name": "fine_pruning", "epochs": 1, "grid": 4}), store, CPU)
    strength, accuracy, clean, attack = store.arrays(record.key)["strength_curve"].T
    assert len(strength) == 5
    undefended = record.undefended
    assert undefended is not None
    assert (clean[0], attack[0]) == pytest.approx((undefended["clean"], undefended["attack"]))
    assert record.columns["strength"] == strength[accuracy >= accuracy[0] - 0.1].max()
    near = clean >= clean[0] - 0.1
    best = record.columns["oracle_strength"]
    assert attack[near].min() == attack[near & (strength == best)].min()
    # The same strength finished by other streams.
    assert record.columns["oracle_attack"] is not None
    alone = run(tiny(attack=None, defense={"name": "fine_pruning", "epochs": 1, "grid": 4}), store, CPU)
    assert "oracle_attack" not in alone.columns
    assert "fine-tune" in store.history(record.key)
    assert not any("oracle" in phase for phase in store.history(record.key))
