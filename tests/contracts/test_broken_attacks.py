"""The contracts of triggers, goals and attacks catch methods that break them; each here breaks one rule."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidedoor.attacks.base import Attack
from sidedoor.attacks.poisoning.badnets import BadNets
from sidedoor.attacks.poisoning.tact import TaCT
from sidedoor.backdoor.base import Access, Backdoor, Planted
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.goals.all_to_one import AllToOne
from sidedoor.goals.base import Door, Goal
from sidedoor.goals.multi_target import MultiTarget
from sidedoor.tasks.task import Supervised, Task
from sidedoor.testing import attack as contracts
from sidedoor.testing import check_attack, check_goal, check_trigger
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.patch import Patch
from sidedoor.types import PHOTO, Build, Images, Index, Space

SHAPE = (3, 16, 16)


class Bright(Trigger):
    """Keeps every rule; the broken ones change a little of it."""

    def forward(self, x: Images, index: Index) -> Images:
        return x + 0.3


def bright(forward: Callable[[Any, Images, Index], Any]) -> type[Trigger]:
    """A trigger with another forward, found by its name in this module as pickling demands."""
    name = f"trigger_{forward.__name__}"
    made: type[Trigger] = type(name, (Bright,), {"forward": forward, "__module__": __name__})
    globals()[name] = made
    return made


def writes_into_x(self: Any, x: Images, index: Index) -> Images:
    x[..., :3, :3] = 1
    return x


def writes_into_index(self: Any, x: Images, index: Index) -> Images:
    index += 1
    return x + 0.3


def looks_at_neighbours(self: Any, x: Images, index: Index) -> Images:
    return x + 0.3 * x.mean(0)


def looks_at_the_place(self: Any, x: Images, index: Index) -> Images:
    return x + 0.1 * torch.arange(len(x))[:, None, None, None]


def draws_anew(self: Any, x: Images, index: Index) -> Images:
    return x + 0.3 * torch.rand_like(x)


def shrinks(self: Any, x: Images, index: Index) -> Images:
    return x[..., 1:]


def doubles(self: Any, x: Images, index: Index) -> Images:
    return x.double() + 0.3


def overflows(self: Any, x: Images, index: Index) -> Images:
    return x / 0


def whispers(self: Any, x: Images, index: Index) -> Images:
    return x + 0.001


class Hidden(Bright):
    def __init__(self) -> None:
        super().__init__()
        self.patterns = [torch.ones(3)]


class Counting(Bright):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Images, index: Index) -> Images:
        self.calls += 1
        return x + 0.3


class Forgetful(Bright):
    strength: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("strength", torch.tensor(0.3), persistent=False)

    def forward(self, x: Images, index: Index) -> Images:
        return x + self.strength


class Unpicklable(Bright):
    def __init__(self) -> None:
        super().__init__()
        self.curve = lambda x: x


TRIGGERS = [
    (bright(writes_into_x), "wrote into its input"),
    (bright(writes_into_index), "wrote into its input"),
    (bright(looks_at_neighbours), "by its neighbours"),
    (bright(looks_at_the_place), "by its place in the batch"),
    (bright(draws_anew), "something else the second time"),
    (bright(shrinks), "keeps its shape"),
    (bright(doubles), "float64"),
    (bright(overflows), "not finite"),
    (bright(whispers), "invisible"),
    (Hidden, "keeps a tensor in `patterns`"),
    (Counting, "changed its own state"),
    (Forgetful, "not persistent"),
    (Unpicklable, "cannot be pickled"),
]


def test_the_trigger_that_the_broken_ones_change_is_sound() -> None:
    check_trigger(Bright(), SHAPE)


@pytest.mark.parametrize(("trigger", "message"), TRIGGERS, ids=[trigger.__name__ for trigger, _ in TRIGGERS])
def test_a_broken_trigger_is_caught(trigger: type[Trigger], message: str) -> None:
    with pytest.raises(AssertionError, match=f"trigger {trigger.__name__}: .*{message}"):
        check_trigger(trigger(), SHAPE)


@pytest.mark.parametrize(("stamp", "message"), [
    (lambda trigger, x, index, space: trigger(x, index), "left the space"),
    (lambda trigger, x, index, space: trigger(x, index).clamp(0, 1) * 0.999, "between the levels"),
])
def test_a_broken_stamp_is_caught(stamp: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contracts, "stamp", stamp)
    with pytest.raises(AssertionError, match=message):
        check_trigger(Bright(), SHAPE)


def test_a_trigger_for_measurements_need_not_fall_on_levels() -> None:
    check_trigger(bright(whispers)(), SHAPE, Space(float("-inf"), float("inf"), None))
    with pytest.raises(AssertionError, match="invisible"):
        check_trigger(bright(whispers)(), SHAPE, PHOTO)


@dataclass(frozen=True)
class Aim(AllToOne):
    """Keeps every rule."""


class Loose(Goal):
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        return torch.zeros_like(y)

    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return y != 0


class Everyone(Aim):
    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)


class Nobody(Aim):
    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return torch.zeros_like(y, dtype=torch.bool)


class Weighted(Aim):
    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return (y != 0).float()


class Beyond(Aim):
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        return torch.full_like(y, task.classes)


class Single(Aim):
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        return torch.tensor(0)


class Wavering(Aim):
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        return (y + 1 + torch.arange(len(y)) % 2) % task.classes

    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)


class Overwriting(Aim):
    def target(self, task: Task, y: Tensor, index: Index) -> Tensor:
        return y.fill_(0)


class Hopeless(Aim):
    def success(self, task: Task, output: Any, y: Tensor, index: Index) -> Tensor:
        return super().success(task, output, y, index) * 0.5


class Easy(Aim):
    def success(self, task: Task, output: Any, y: Tensor, index: Index) -> Tensor:
        return torch.ones(len(y))


class Percent(Aim):
    def success(self, task: Task, output: Any, y: Tensor, index: Index) -> Tensor:
        return super().success(task, output, y, index) * 100


class Mean(Aim):
    def success(self, task: Task, output: Any, y: Tensor, index: Index) -> Tensor:
        return super().success(task, output, y, index).mean()


class Listed(Aim):
    def parts(self) -> Any:
        return [self]


class Wider(MultiTarget):
    def eligible(self, task: Task, y: Tensor) -> Tensor:
        return y != 0


GOALS = [
    (Loose, "no frozen dataclass"), (Everyone, "of the target class already"), (Nobody, "eligible for none"),
    (Weighted, r"expected bool"), (Beyond, "targets from 4 to 4 for 4 classes"), (Single, r"expected int64"),
    (Wavering, "elsewhere in another batch"), (Overwriting, "wrote into the labels"),
    (Hopeless, "does not count as success 1"), (Easy, "does not count as success 0"), (Percent, r"left \[0, 1\]"),
    (Mean, "expected floats"), (Listed, "expected a tuple"), (Wider, "where none of its parts is"),
]


def test_the_goal_that_the_broken_ones_change_is_sound() -> None:
    check_goal(Aim())


@pytest.mark.parametrize(("goal", "message"), GOALS, ids=[goal.__name__ for goal, _ in GOALS])
def test_a_broken_goal_is_caught(goal: type[Goal], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_goal(goal())


@dataclass(frozen=True)
class Sound(BadNets):
    """Keeps every rule; `spoil` changes what it planned."""

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        return self.spoil(super().plan(train, task, surrogate, run), train, run)

    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return backdoor


class OneMore(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        p = backdoor.poison
        free = next(i for i in range(len(train)) if i not in p.index and train.targets[i] != 0)
        index = torch.cat([p.index, torch.tensor([free])]).sort().values
        more = replace(p, index=index, door=torch.zeros_like(index), cover=torch.zeros(len(index), dtype=torch.bool))
        return replace(backdoor, poison=more)


class Ineligible(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        index = torch.nonzero(train.targets == 0)[: len(backdoor.poison.index), 0]
        return replace(backdoor, poison=replace(backdoor.poison, index=index))


class OtherRate(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, poison=replace(backdoor.poison, rate=0.5))


class Descending(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, poison=replace(backdoor.poison, index=backdoor.poison.index.flip(0)))


class Outside(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, poison=replace(backdoor.poison, index=backdoor.poison.index + 10**6))


class WrongDoor(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, poison=replace(backdoor.poison, door=backdoor.poison.door + 1))


class Idle(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return Backdoor(backdoor.doors)


class NoChange(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, poison=replace(backdoor.poison, images=train.rows(backdoor.poison.index)))


class NoClass(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        targets = torch.full_like(backdoor.poison.index, 99)
        return replace(backdoor, poison=replace(backdoor.poison, targets=targets))


class Relabeller(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        train.targets[5] = 3 - train.targets[5]
        return backdoor


class Peeking(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        assert train.base is not None  # type: ignore[attr-defined]
        return backdoor


class Furtive(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        with contextlib.suppress(AssertionError):
            vars(train)
        return backdoor


class GlobalDraw(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        torch.rand(1)
        return backdoor


calls = itertools.count()


class Whimsical(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        door = Door(Patch(torch.ones(1, 2 + next(calls) % 2, 2)), self.goal)
        return replace(backdoor, doors=(door,) * len(backdoor.doors))


class Stubborn(Sound):
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        return super().plan(train, task, surrogate, replace(run, seed=0))


class Remembering(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        object.__setattr__(self, "planned", backdoor)
        return backdoor


class OneDoorMore(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, doors=backdoor.doors * 2)


class ColourOnly(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        doors = tuple(replace(door, trigger=Patch(torch.ones(3, 3, 3))) for door in backdoor.doors)
        return replace(backdoor, doors=doors)


class Faint(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, doors=tuple(replace(d, trigger=bright(whispers)()) for d in backdoor.doors))


class TrainsAnyway(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        return replace(backdoor, train=lambda *_: None)


class Speechless(Sound):
    goals: ClassVar[tuple[type[Goal], ...]] = (AllToOne,)


class Crashing(Sound):
    def spoil(self, backdoor: Backdoor, train: Dataset, run: Run) -> Backdoor:
        if not isinstance(self.goal, AllToOne):
            raise NotImplementedError("some goals")
        return backdoor


class Undeclared(Sound):
    access = None  # type: ignore[assignment]


class NotAPlan(Sound):
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Any:
        return super().plan(train, task, surrogate, run).poison


class BadCover(TaCT):
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        backdoor = super().plan(train, task, surrogate, run)
        zeros = torch.zeros_like(backdoor.poison.index)
        return replace(backdoor, poison=replace(backdoor.poison, targets=zeros))


ATTACKS = [
    (OneMore, r"poisons 16 rows; a rate of 0.1 of 150 eligible samples is 15"), (Ineligible, "not eligible for"),
    (OtherRate, "rate = 0.1 was asked for, the poison says 0.5"),
    (Descending, "refused: .*ascending"), (Outside, "refused: .*0 to 199"),
    (WrongDoor, "refused: .*doors"), (Idle, "poisons no row"), (NoChange, "every poisoned image as it was"),
    (NoClass, "refused: .*targets from 99"),
    (Relabeller, "changed the data set"), (Peeking, "read `base`"), (Furtive, "read __dict__"),
    (GlobalDraw, "default generator of torch"), (Whimsical, "something else with the same seed"),
    (Stubborn, "the same with another seed"), (Remembering, "keeps planned on the instance"),
    (OneDoorMore, "2 scored doors for a goal of 1 parts"), (ColourOnly, "its door to AllToOne"), (Faint, "invisible"),
    (TrainsAnyway, "plan.. must leave `train`"), (Speechless, "without a reason"),
    (Crashing, "neither pursued nor refused.*NotImplementedError: some goals"), (Undeclared, "declares no `access`"),
    (NotAPlan, "expected a Backdoor"), (BadCover, "labels of cover rows"),
]


def test_the_attack_that_the_broken_ones_change_is_sound() -> None:
    check_attack(Sound())


@pytest.mark.parametrize(("attack", "message"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_a_broken_attack_is_caught(attack: type[Attack], message: str) -> None:
    with pytest.raises(AssertionError, match=f"attack {attack.__name__}: .*{message}"):
        check_attack(attack())


def test_a_poisoned_set_that_changes_more_than_it_says_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spilling(PoisonedDataset):
        def rows(self, index: Tensor) -> Tensor:
            rows = super().rows(index)
            free = [i for i, row in enumerate(index.tolist()) if row not in self.rows_at]
            rows[free[:1]] = 0
            return rows

    monkeypatch.setattr(contracts, "PoisonedDataset", Spilling)
    with pytest.raises(AssertionError, match="rows that it does not declare"):
        check_attack(Sound())


@dataclass(frozen=True)
class Trainer(Attack):
    """An honest trainer with a door, who keeps every rule; `spoil` changes what he delivers."""

    access: ClassVar[Access] = Access.TRAINING

    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        doors = tuple(Door(Patch(torch.ones(1, 3 + k, 3)), goal) for k, goal in enumerate(self.goal.parts()))
        return Backdoor(doors, train=Delivery(self, doors))

    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        return planted


@dataclass(frozen=True)
class Delivery:
    attack: Trainer
    doors: tuple[Door, ...]

    def __call__(self, data: Dataset, task: Task, build: Build, run: Run) -> Planted:
        model = run.fit(run.build(build), data, Supervised(task), name="victim")
        return self.attack.spoil(Planted(model, self.doors), data, build, run)


class FewerDoors(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        return replace(planted, doors=())


class OtherDoors(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        return replace(planted, doors=tuple(replace(d, trigger=Patch(torch.ones(1, 9, 9))) for d in planted.doors))


class Untrained(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        return replace(planted, model=run.build(build))


class Burst(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        next(planted.model.parameters()).data.fill_(torch.nan)
        return planted


class OtherNetwork(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        return replace(planted, model=run.build(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4))))


class Drifting(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Planted:
        next(planted.model.parameters()).data.add_(next(calls) + 1)
        return planted


class ModelOnly(Trainer):
    def spoil(self, planted: Planted, data: Dataset, build: Build, run: Run) -> Any:
        return planted.model


class NobodyTrains(Trainer):
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        return replace(super().plan(train, task, surrogate, run), train=None)


class InnerFunction(Trainer):
    def plan(self, train: Dataset, task: Task, surrogate: Build, run: Run) -> Backdoor:
        backdoor = super().plan(train, task, surrogate, run)
        return replace(backdoor, train=lambda *given: Delivery(self, backdoor.doors)(*given))


TRAINERS = [
    (FewerDoors, "doors that differ"), (OtherDoors, "doors that differ"), (Untrained, "nothing was trained"),
    (Burst, "not finite"), (OtherNetwork, "not that of `build`"), (Drifting, "something else with the same seed"),
    (ModelOnly, "expected a Planted"), (NobodyTrains, "must give `train`"), (InnerFunction, "cannot be pickled"),
]


def test_the_trainer_that_the_broken_ones_change_is_sound() -> None:
    check_attack(Trainer())


@pytest.mark.parametrize(("attack", "message"), TRAINERS, ids=[attack.__name__ for attack, _ in TRAINERS])
def test_a_broken_trainer_is_caught(attack: type[Attack], message: str) -> None:
    with pytest.raises(AssertionError, match=f"attack {attack.__name__}: .*{message}"):
        check_attack(attack())
