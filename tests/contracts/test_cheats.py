"""Ways to read the truth that worked once. Each is tried here, and what stops it is asserted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sidedoor import registry
from sidedoor.backdoor.base import AttackerRun, Backdoor, Poison
from sidedoor.backdoor.dataset import PoisonedDataset, seal
from sidedoor.bench.case import Case, load
from sidedoor.bench.machine import Machine
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core.restricted import NotDeclared
from sidedoor.data.base import ArrayDataset, Dataset, Subset, halves
from sidedoor.defenses.base import Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.filters.base import GuidedFilter
from sidedoor.defenses.purifiers.base import Purifier, in_place
from sidedoor.defenses.training.base import AidedTraining
from sidedoor.engine import Recipe, Run
from sidedoor.errors import ConfigError
from sidedoor.evaluation import evaluate, suspicion
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door
from sidedoor.metrics.statistics import auroc
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised, Task
from sidedoor.testing import check_defense
from sidedoor.testing.ground import ground, sealed
from sidedoor.triggers.patch import Patch
from sidedoor.types import Build, Images, Index, Purify

DOOR = Door(Patch(torch.ones(1, 3, 3)), AllToOne(0))
TASK = Classification(4)
N = 40


def base_set(kind: type[ArrayDataset] = ArrayDataset) -> ArrayDataset:
    pixels = torch.randint(0, 200, (N, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return kind(pixels, torch.arange(N) % 4, 4)


def poisoned(append: bool = False, base: Dataset | None = None) -> PoisonedDataset:
    rows = torch.tensor([1, 5, 6, 22])
    poison = Poison(rows, torch.zeros_like(rows), torch.zeros(4, dtype=torch.bool), append=append)
    return PoisonedDataset(base or base_set(), Backdoor((DOOR,), poison), TASK)


# what a row costs


class Operations(TorchDispatchMode):
    """Notes every operation with the shapes and types that go into it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [(tuple(a.shape), a.dtype) for a in args if isinstance(a, Tensor)]
        self.seen.append(f"{func} {shapes}")
        return func(*args, **(kwargs or {}))


def operations(data: Dataset, row: int, how: str) -> list[str]:
    with Operations() as noted:
        getattr(data, how)(torch.tensor([row]))
    return noted.seen


@pytest.mark.parametrize("how", ["rows", "fetch", "position"])
@pytest.mark.parametrize("append", [False, True])
def test_a_poisoned_row_takes_the_operations_of_a_clean_one(append: bool, how: str) -> None:
    data = poisoned(append)
    view, order = seal(data)
    truth = data.is_poisoned()[order]
    assert truth.sum() == 4
    traces = [operations(view, row, how) for row in range(len(view))]
    assert traces[0]
    assert all(trace == traces[0] for trace in traces)


def test_the_version_counter_of_a_row_does_not_tell() -> None:
    view, _ = seal(poisoned())
    assert {view.rows(torch.tensor([row]))._version for row in range(len(view))} == {0}


class Lazy(ArrayDataset):
    """Counts the rows that it decodes."""

    lazy = True
    decoded: ClassVar[list[int]] = []

    def rows(self, index: Tensor) -> Tensor:
        self.decoded.extend(index.tolist())
        return super().rows(index)


@pytest.mark.parametrize("append", [False, True])
def test_a_replaced_row_is_decoded_all_the_same(append: bool) -> None:
    """Else the time that a row takes tells."""
    data = poisoned(append, base_set(Lazy))
    Lazy.decoded.clear()
    data.rows(data.rows_at)
    assert Lazy.decoded == [1, 5, 6, 22]


def test_the_order_of_appended_rows_cannot_be_guessed_from_their_number() -> None:
    data = poisoned(append=True)
    _, order = seal(data)
    guessed = torch.randperm(len(data), generator=torch.Generator().manual_seed(len(data)))
    assert not torch.equal(order, guessed)
    assert not torch.equal(order, torch.arange(N + 4))
    assert torch.equal(order.sort().values, torch.arange(N + 4))


# what a run leads to


@pytest.fixture
def case(tmp_path: Path) -> Case:
    spec = Spec(data={"name": "toy", "train": 200, "test": 40}, model={"name": "small_cnn", "width": 4},
                attack={"name": "badnets", "rate": 0.2}, recipe=Recipe(epochs=1, batch=32), defender_share=0.2)
    return load(spec, Store(tmp_path), Machine(root=tmp_path, device="cpu"))


def reachable(value: Any, seen: set[int]) -> Iterator[Any]:
    """Attributes and items of a value, and theirs; devices and the display of progress are taken as they are."""
    if id(value) in seen or type(value).__module__.split(".")[0] in ("lightning_fabric", "torch", "rich"):
        return
    seen.add(id(value))
    yield value
    inner = list(vars(value).values()) if hasattr(value, "__dict__") and not callable(value) else []
    inner += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else []
    for part in inner:
        yield from reachable(part, seen)


def test_a_defenders_run_leads_to_no_path_no_clean_model_and_no_shelf_of_others(case: Case) -> None:
    run = case.defender()
    found = list(reachable(run, set()))
    assert run.recipe in found
    assert [value for value in found if isinstance(value, Path)] == []
    assert run.shelf is run.root is None
    assert type(run) is Run
    for name in ("clean_model", "honest", "known", "folder", "store"):
        assert not hasattr(run, name)
    filters = case.data_defender()
    assert [value for value in reachable(filters, set()) if isinstance(value, Path)] == []
    assert filters.shelf is not None
    plain, shadowing = (case.given(registry.make("defense", name), nn.Identity())[3] for name in ("mm_bd", "ulp"))
    assert plain.shelf is None
    assert shadowing.shelf is not None
    assert [value for value in reachable(shadowing, set()) if isinstance(value, Path)] == []
    case.run.shelf.save("net", {}, {})
    assert case.run.shelf.load("net") == {}
    assert filters.shelf.load("net") is shadowing.shelf.load("net") is None
    with pytest.raises(ConfigError, match=r"'\.\./net' of the shelf asked for"):
        filters.shelf.load("../net")
    attackers = case.attacker()
    assert isinstance(attackers, AttackerRun)
    assert attackers.root is not None


# the order of questions


class Standing(InputDetector):
    """Counts the pixels of a batch that are the same in all its images."""

    needs: ClassVar[Needs] = Needs()

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: (x == x[:1]).all(0).float().mean().expand(len(x))


class Calls(InputDetector):
    """Takes every other call for a batch of stamped images."""

    needs: ClassVar[Needs] = Needs()

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        calls: list[int] = []

        def detect(x: Images, index: Index) -> Tensor:
            calls.append(len(calls))
            return torch.full((len(x),), float(len(calls) % 2))

        return detect


class Twins(InputDetector):
    """Remembers every image, and knows the stamped one of a pair by the white corner once it has seen the other."""

    needs: ClassVar[Needs] = Needs()

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        seen: dict[int, Tensor] = {}

        def detect(x: Images, index: Index) -> Tensor:
            scores = []
            for image, at in zip(x, index.tolist(), strict=True):
                other = seen.setdefault(at, image)
                scores.append((image - other).sum())
            return torch.stack(scores)

        return detect


def asked(detector: InputDetector) -> float | None:
    here = ground()
    detect, twin = (detector.fit(here.victim(), here.clean, here.task, here.run) for _ in range(2))
    found = suspicion((detect, twin), here.test, [DOOR], here.task, here.run)
    return auroc(found["suspicious"].numpy(), found["innocent"].numpy())


def test_pixels_that_stand_still_say_nothing() -> None:
    assert asked(Standing()) == 0.5


def test_a_detector_that_counts_calls_is_refused() -> None:
    with pytest.raises(ConfigError, match="scores an input otherwise when it is asked again"):
        asked(Calls())


def test_an_image_never_meets_its_original() -> None:
    assert asked(Twins()) == 0.5


def test_an_honest_detector_is_not(case: Case) -> None:
    class White(InputDetector):
        needs: ClassVar[Needs] = Needs()

        def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
            return lambda x, index: x[:, :, -3:, -3:].mean((1, 2, 3))

    assert asked(White()) == 1.0


@dataclass(frozen=True)
class EveryOther(Purifier):
    """Blanks the corner on every other call, which were the stamped ones."""

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Purify:
        calls: list[int] = []

        def purify(x: Images, index: Index) -> Images:
            calls.append(0)
            return x if len(calls) % 2 else torch.zeros_like(x)

        return in_place(purify)


def test_a_purifier_that_counts_calls_treats_stamped_and_clean_inputs_alike() -> None:
    here = ground()
    model = here.victim()
    clean = evaluate(model, here.test, here.task, (DOOR,), here.run).means()
    purify = EveryOther().fit(model, here.clean, here.task, here.run)
    means = evaluate(model, here.test, here.task, (DOOR,), here.run, purify).means()
    assert clean["attack"] > 0.9
    assert means["attack"] == clean["attack"]


def test_a_detector_is_calibrated_on_other_samples_than_it_is_fitted_on() -> None:
    data = Subset(base_set(), torch.arange(3, 24))
    fitting, calibrating = halves(data, 0)
    both = torch.cat([part.position(torch.arange(len(part))) for part in (fitting, calibrating)])
    assert (len(fitting), len(calibrating)) == (11, 10)
    assert torch.equal(both.sort().values, torch.arange(3, 24))


# needs


@pytest.mark.parametrize("access", ["none", "labels", "probabilities", "gradients"])
@pytest.mark.parametrize("reach", [
    lambda model: list(model.parameters()), lambda model: model.state_dict(), lambda model: list(model.buffers()),
    lambda model: model.body, lambda model: list(model.named_parameters()),
])
def test_weights_are_out_of_reach_of_who_declares_less(access: Any, reach: Callable[[Any], Any]) -> None:
    here = ground()
    with pytest.raises(NotDeclared, match="declares to need"):
        reach(Needs(model=access).model_for(here.victim(), here.task))


def test_a_model_answers_as_much_as_was_declared() -> None:
    here = ground()
    x = here.test.fetch(torch.arange(8)).x.requires_grad_()
    victim = here.victim()
    logits = victim(x).detach()
    with pytest.raises(NotDeclared, match="no model"):
        Needs().model_for(victim, here.task)(x)
    labels = Needs("labels").model_for(victim, here.task)(x)
    assert torch.equal(labels.softmax(1), nn.functional.one_hot(logits.argmax(1), 4).float())
    said = Needs("probabilities").model_for(victim, here.task)(x)
    assert torch.allclose(said.exp(), logits.softmax(1), atol=1e-6)
    assert not torch.allclose(said, logits)
    assert not labels.requires_grad
    assert not said.requires_grad
    through = Needs("gradients").model_for(victim, here.task)(x)
    (gradient,) = torch.autograd.grad(through[:, 0].sum(), x, retain_graph=True)
    assert gradient.abs().sum() > 0
    through.sum().backward()
    assert all(parameter.grad is None for parameter in victim.parameters())


def test_clean_data_show_as_much_as_was_declared() -> None:
    here = ground()
    images = Needs(clean="images").clean_for(here.clean)
    assert torch.equal(images.rows(torch.arange(3)), here.clean.rows(torch.arange(3)))
    assert images.fetch(torch.arange(3)).y.tolist() == [-1] * 3
    with pytest.raises(NotDeclared, match="images without labels"):
        _ = images.targets
    none = Needs().clean_for(here.clean)
    assert none.shape == here.clean.shape
    for touch in (len, lambda data: data.targets, lambda data: data.fetch(torch.arange(1)), lambda data: data.rows(0)):
        with pytest.raises(NotDeclared, match="no clean images"):
            touch(none)


@dataclass(frozen=True)
class Greedy(InputDetector):
    """Declares the weights and looks at the input alone."""

    needs: ClassVar[Needs] = Needs(model="weights")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        return lambda x, index: x[:, :, -3:, -3:].mean((1, 2, 3))


@dataclass(frozen=True)
class Sly(InputDetector):
    """Declares labels, and reaches for the weights."""

    needs: ClassVar[Needs] = Needs(model="labels")

    def fit(self, model: nn.Module, clean: Dataset, task: Task, run: Run) -> Detect:
        weight = next(model.parameters()).sum()
        return lambda x, index: x[:, :, -3:, -3:].mean((1, 2, 3)) + 0 * weight


def test_the_contract_finds_who_declares_too_much_or_too_little() -> None:
    with pytest.raises(AssertionError, match="declares to need the model, and does the same with gradients"):
        check_defense(Greedy())
    with pytest.raises(AssertionError, match=r"`parameters\(\)` of the model was asked for"):
        check_defense(Sly())


@dataclass(frozen=True)
class NearestClean(GuidedFilter):
    """Distance of each row to the mean clean image of its class."""

    def score(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> Tensor:
        x, y, _ = clean.fetch(torch.arange(len(clean)))
        means = torch.stack([x[y == k].mean(0) for k in range(task.classes)])
        rows = train.fetch(torch.arange(len(train)))
        return (rows.x - means[rows.y]).square().mean((1, 2, 3))


@dataclass(frozen=True)
class CleanOnly(AidedTraining):
    """Trains on the clean samples alone."""

    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        return run.fit(run.build(build), clean, Supervised(task), name="clean")


@dataclass(frozen=True)
class Unaided(AidedTraining):
    """Takes clean samples and leaves them."""

    def train(self, train: Dataset, clean: Dataset, task: Task, build: Build, run: Run) -> nn.Module:
        return run.fit(run.build(build), train, Supervised(task), name="all")


def test_defences_with_clean_samples_beside_the_training_data_have_contracts() -> None:
    check_defense(NearestClean())
    check_defense(CleanOnly())
    with pytest.raises(AssertionError, match="does the same with clean images"):
        check_defense(Unaided())


def test_the_bench_hands_over_what_is_declared(case: Case) -> None:
    model, clean, _, run = case.given(replace(Greedy()), ground().victim())
    assert next(model.parameters()).numel()
    with pytest.raises(NotDeclared):
        len(clean)
    assert type(run) is Run
    model, _, _, _ = case.given(Sly(), ground().victim())
    with pytest.raises(NotDeclared):
        next(model.parameters())


def test_a_sealed_view_has_no_truth() -> None:
    view = sealed(poisoned())
    assert not any(hasattr(view, name) for name in ("poison", "base", "is_poisoned", "rows_at", "truths", "images"))
