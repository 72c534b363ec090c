"""Contracts of triggers, goals and attacks."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sidedoor import registry
from sidedoor.attacks.base import Attack
from sidedoor.backdoor.base import Access, AttackerRun, Backdoor, Planted
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.core.checkpoint import Shelf
from sidedoor.data.base import Dataset, stored
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Door, Goal, ImageGoal, Perturbed
from sidedoor.goals.secret_labels import SecretLabels
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.restoration import Restoration
from sidedoor.tasks.task import Task
from sidedoor.testing.ground import (
    CLASSES,
    Ground,
    check_per_sample,
    check_stateless,
    check_value,
    drawing,
    equal_states,
    failing,
    grounds,
    guarded,
    images,
    require,
    same,
)
from sidedoor.testing.tags import check_tags, keeps_labels
from sidedoor.testing.tracking import check_response_goal
from sidedoor.triggers.base import Trigger, stamp
from sidedoor.types import PHOTO, Space

Shape = tuple[int, int, int]


def check_trigger(trigger: Trigger, shape: Shape, space: Space = PHOTO) -> None:
    """A trigger keeps shape and type, writes into nothing, treats each sample alone, survives storage, and is a value.

    Args:
        trigger: left as it is.
        shape: (channels, height, width) of the images it is for.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"trigger {type(trigger).__name__}"
    require(isinstance(trigger, Trigger), who, "is no Trigger")
    trigger = copy.deepcopy(trigger).eval()
    x = images(shape) * (space.high - space.low) + space.low if space.levels else images(shape)
    index = torch.tensor([3, 0, 17, 4, 4001, 5])
    _check_state(who, trigger)
    kept = copy.deepcopy(trigger)
    raw = check_per_sample(who, trigger, x, index)
    require(equal_states([trigger, kept]), who, "changed its own state while stamping in evaluation mode")
    require(raw.shape == x.shape, who, f"made {tuple(raw.shape)} of {tuple(x.shape)}; a stamped image keeps its shape")
    require(raw.dtype == x.dtype, who, f"gave {raw.dtype}, expected {x.dtype}")
    require(raw.isfinite().all(), who, "gave values that are not finite")
    with torch.no_grad():
        _check_stored(who, x, stamp(trigger, x, index, space), space)
        _check_copies(who, trigger, x, index, raw)


def _check_state(who: str, trigger: Trigger) -> None:
    """Tensors are buffers or parameters: others stay on the CPU and are lost with the state dict."""
    for name, module in trigger.named_modules():
        for key, value in vars(module).items():
            if key not in ("_buffers", "_parameters", "_modules"):
                require(not _tensors_in(value), who, f"keeps a tensor in `{f'{name}.{key}'.lstrip('.')}`, which is "
                                                     "neither moved nor saved with it; use register_buffer")


def _tensors_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_tensors_in, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_tensors_in, value))
    return isinstance(value, Tensor) or type(value).__module__ == "numpy"


def _check_stored(who: str, x: Tensor, stamped: Tensor, space: Space) -> None:
    require(bool((stamped >= space.low).all() and (stamped <= space.high).all()), who, "left the space when stamped")
    if space.levels is None:
        require(not torch.equal(stamped, x), who, "changes no value of any image")
        return
    steps = (stamped - space.low) / (space.high - space.low) * space.levels
    require((steps - steps.round()).abs().max() < 1e-2, who, "was stamped between the levels that storage keeps")
    require(not torch.equal(stored(stamped, space), stored(x, space)), who,
            f"is invisible: rounded to {space.levels + 1} levels, no pixel of any image differs; make it stronger")


def _check_copies(who: str, trigger: Trigger, x: Tensor, index: Tensor, raw: Tensor) -> None:
    """A state dict, or a pickle, is all there is to a trigger."""
    state = {key: value.clone() for key, value in trigger.state_dict().items()}
    blank = copy.deepcopy(trigger)
    for tensor in (*blank.parameters(), *blank.buffers()):
        tensor.zero_()
    blank.load_state_dict(state)
    require(same(blank(x, index), raw), who, "restored from its state dict it stamps otherwise; a buffer is not "
                                             "persistent")
    with failing(who, "cannot be pickled"):
        # Our own bytes of a moment ago.
        require(same(pickle.loads(pickle.dumps(trigger))(x, index), raw), who, "pickled and loaded it stamps otherwise")


def check_goal(goal: Goal, task: Task | None = None) -> None:
    """A goal says for each sample what it leads to, whether that means anything, and whether it was reached.

    Args:
        task: a classification, by default of four classes; for a goal of images a restoration; none for one of
            trackers.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"goal {type(goal).__name__}"
    require(isinstance(goal, Goal), who, "is no Goal")
    check_value(who, goal)
    if goal.output == "response":
        check_response_goal(goal)
    elif isinstance(goal, ImageGoal):
        _check_image_goal(who, goal, task or Restoration())
    else:
        _check_class_goal(who, goal, task or Classification(CLASSES))


def _check_image_goal(who: str, goal: Goal, task: Task) -> None:
    # A pattern of one shape is a goal for images of that shape.
    for shape in (goal.shape,) if isinstance(goal, Perturbed) else ((3, 16, 16), (1, 12, 20)):
        y, index = images(shape), torch.tensor([3, 0, 17, 4, 4001, 5])
        target = check_per_sample(who, lambda y, index: goal.target(task, y, index), y, index)
        require(target.shape == y.shape and target.dtype == y.dtype, who,
                f"target() gave {target.dtype} of shape {tuple(target.shape)}; expected {tuple(y.shape)} as the truth")
        require(bool((target >= 0).all() and (target <= 1).all()), who, "its targets leave [0, 1]")
        require((target != y).flatten(1).any(1).all(), who, "leads a sample to the truth, which is no attack")
        require(bool(goal.eligible(task, y).all()), who, "is not eligible for some image")
        reached = goal.success(task, target, y, index)
        missed = goal.success(task, 1 - y, y, index)
        require(reached.shape == (len(y),) and bool((missed >= 0).all() and (missed <= 1).all()), who,
                "success() left [0, 1]")


def _check_class_goal(who: str, goal: Goal, task: Task) -> None:
    y = torch.arange(task.classes).repeat(3)
    index = torch.arange(len(y)) * 7
    parts = goal.parts()
    require(isinstance(parts, tuple) and len(parts) > 0 and all(isinstance(part, Goal) for part in parts), who,
            f"parts() gave {parts!r}; expected a tuple of goals")
    for part in parts:
        require(part.parts() == (part,), who, f"its part {part} has parts of its own")
        _check_part(who, part, task, y, index)
    anywhere = torch.stack([part.eligible(task, y) for part in parts]).any(0)
    require(torch.equal(goal.eligible(task, y), anywhere), who, "is eligible where none of its parts is, or the other "
                                                                "way round")


def _check_part(who: str, goal: Goal, task: Task, y: Tensor, index: Tensor) -> None:
    kept = y.clone()
    eligible, target = goal.eligible(task, y), goal.target(task, y, index)
    require(torch.equal(y, kept), who, "wrote into the labels it was given")
    require(eligible.shape == y.shape and eligible.dtype == torch.bool, who,
            f"eligible() gave {eligible.dtype} of shape {tuple(eligible.shape)}; expected bool ({len(y)},)")
    require(eligible.any(), who, f"is eligible for none of {task.classes} classes")
    require(target.shape == y.shape and target.dtype == torch.int64, who,
            f"target() gave {target.dtype} of shape {tuple(target.shape)}; expected int64 ({len(y)},)")
    require(bool((target >= 0).all() and (target < task.classes).all()), who,
            f"targets from {target.min()} to {target.max()} for {task.classes} classes")
    own = target == y
    require(not (goal.aimed and (eligible & own).any()), who, "calls samples eligible that are of the target class "
                                                       "already, which counts a clean model's right answers as attacks")
    order = torch.arange(len(y)).flip(0)
    with drawing(1):
        require(torch.equal(goal.target(task, y[order], index[order]), target[order]), who,
                "leads a sample elsewhere in another batch; key randomness by (seed, index)")
    reached = goal.success(task, _certain(target, task), y, index)
    missed = goal.success(task, _certain(y, task), y, index)
    require(reached.shape == y.shape and reached.is_floating_point(), who,
            f"success() gave {reached.dtype} of shape {tuple(reached.shape)}; expected floats ({len(y)},)")
    require(bool((torch.cat([reached, missed]) >= 0).all() and (torch.cat([reached, missed]) <= 1).all()), who,
            "success() left [0, 1]")
    require((reached[eligible & ~own] == 1).all(), who, "an output that is its target does not count as success 1")
    require((missed[eligible] == 0).all(), who, "an output that is the truth does not count as success 0")


def _certain(label: Tensor, task: Task) -> Tensor:
    return functional.one_hot(label, task.classes).float()


def check_attack(attack: Attack, tags: Collection[str] | None = None) -> None:
    """An attack is a value whose plan is reproducible, changes exactly the rows it says, and peeks at nothing.

    Args:
        tags: that the registry has of it, compared with what it does; None: it is not registered, or has another goal.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"attack {type(attack).__name__}"
    require(isinstance(attack, Attack), who, "is no Attack")
    check_value(who, attack)
    require(isinstance(getattr(attack, "access", None), Access), who, "declares no `access`: what the attacker touches")
    for here in (place for channels in (3, 1) for place in grounds(attack.tasks, channels)):
        backdoor = _planned(who, attack, here)
        check_stateless(who, attack)
        _check_doors(who, attack, backdoor, here)
        _check_rows(who, attack, backdoor, here)
        _check_seeds(who, attack, backdoor, here)
        _check_pickle(who, backdoor)
    for here in grounds(attack.tasks):
        _check_goals(who, attack, here)
        delivered = check_training(who, attack, here) if attack.access is not Access.DATA else None
        if tags is not None:
            backdoor = attack.plan(here.train, here.task, here.build, here.attacker)
            check_tags(who, tags, attack, backdoor, delivered or backdoor.doors, here)


def _planned(who: str, attack: Attack, here: Ground) -> Backdoor:
    with failing(who, f"cannot plan for images of shape {here.train.shape}"), guarded(who, here.train) as train:
        backdoor = attack.plan(train, here.task, here.build, here.attacker)
    require(isinstance(backdoor, Backdoor), who, f"plan() gave a {type(backdoor).__name__}, expected a Backdoor")
    return backdoor


def _check_doors(who: str, attack: Attack, backdoor: Backdoor, here: Ground) -> None:
    doors, scored = backdoor.doors, [door for door in backdoor.doors if door.scored]
    require(isinstance(doors, tuple) and all(isinstance(door, Door) for door in doors), who,
            "doors are no tuple of Door")
    require(len(scored) == len(attack.goal.parts()), who,
            f"{len(scored)} scored doors for a goal of {len(attack.goal.parts())} parts; expected one each")
    for door in doors:
        with failing(who, f"its door to {door.goal}"):
            check_trigger(door.trigger, here.train.shape, here.train.space)
            check_goal(door.goal, here.task)


def _check_rows(who: str, attack: Attack, backdoor: Backdoor, here: Ground) -> None:
    """The poisoned rows are as many as declared, and nothing else changes."""
    poison = backdoor.poison
    by_data = attack.access is Access.DATA
    require((backdoor.train is None) == by_data, who,
            f"access is {attack.access.name}, so plan() must {'leave' if by_data else 'give'} `train`"
            f"{' to the victim' if by_data else ''}")
    if not by_data:
        return
    require(len(poison.index) > 0, who, "poisons no row, though its access is DATA")
    with failing(who, "its poison is refused"):
        data = PoisonedDataset(here.train, backdoor, here.task)
    _check_count(who, attack, backdoor, here)
    _check_changes(who, backdoor, data, here.train)


def _eligible(backdoor: Backdoor, here: Ground) -> list[Tensor]:
    """Masks of which a share is poisoned: with clean labels each target class, else what any door is eligible for."""
    y, index = here.train.targets, torch.arange(len(here.train))
    used = [backdoor.doors[k] for k in sorted(set(backdoor.poison.door.tolist()))]
    if keeps_labels(backdoor, here.train) and all(door.goal.aimed and not isinstance(door.goal, SecretLabels)
                                                  for door in used):  # the secret is not to show in the rows' classes
        return [door.goal.target(here.task, y, index) == y for door in used]
    return [torch.stack([door.goal.eligible(here.task, y) for door in used]).any(0)]


def _check_count(who: str, attack: Attack, backdoor: Backdoor, here: Ground) -> None:
    poison = backdoor.poison
    declared = getattr(attack, "rate", poison.rate)
    require(poison.rate == declared, who, f"rate = {declared} was asked for, the poison says {poison.rate}")
    masks, (chosen, times) = _eligible(backdoor, here), torch.unique(poison.index[~poison.cover], return_counts=True)
    expected = sum(max(1, round(poison.rate * int(mask.sum()))) for mask in masks)
    require(len(chosen) == expected, who, f"poisons {len(chosen)} rows; a rate of {poison.rate} of "
                                          f"{' + '.join(str(int(mask.sum())) for mask in masks)} eligible samples is "
                                          f"{expected}")
    copies = getattr(attack, "copies", 0)  # of each poisoned image, beside it
    require((times == 1 + copies).all(), who, f"poisons a row {int(times.max())} times; expected {1 + copies}")
    require(torch.stack(masks).any(0)[chosen].all(), who, "poisons rows that its goal is not eligible for")


def _check_changes(who: str, backdoor: Backdoor, data: PoisonedDataset, train: Dataset) -> None:
    poison = backdoor.poison
    everything = torch.arange(len(train))
    kept = torch.ones(len(train), dtype=torch.bool)
    if not poison.append:
        kept[poison.index] = False
    before, after = train.rows(everything), data.rows(everything)
    labels_kept = torch.equal(train.targets[kept], data.targets[: len(train)][kept])
    require(torch.equal(before[kept], after[kept]) and labels_kept, who, "changes rows that it does not declare as "
                                                                         "poisoned")
    changed = (data.rows(data.rows_at) != train.rows(poison.index)).flatten(1).any(1)
    require(changed.any(), who, "leaves every poisoned image as it was")
    truth, labels = train.targets[poison.index], data.targets[data.rows_at]
    require(torch.equal(labels[poison.cover], truth[poison.cover]), who, "changes the labels of cover rows")


def _check_seeds(who: str, attack: Attack, backdoor: Backdoor, here: Ground) -> None:
    with drawing(99):
        again = attack.plan(here.train, here.task, here.build, here.attacker)
    require(_equal(again, backdoor), who, "planned something else with the same seed; draw from run.rng(name)")
    chosen = int((~backdoor.poison.cover).sum())
    if attack.access is Access.DATA and chosen < sum(int(mask.sum()) for mask in _eligible(backdoor, here)):
        other = attack.plan(here.train, here.task, here.build, replace(here.attacker, seed=here.run.seed + 1))
        require(not _equal(other, backdoor), who, "planned the same with another seed; draw from run.rng(name)")


def _check_pickle(who: str, backdoor: Backdoor) -> None:
    with failing(who, "its plan cannot be pickled; use functools.partial of a method, not a lambda or inner function"):
        # Our own bytes of a moment ago.
        require(_equal(pickle.loads(pickle.dumps(backdoor)), backdoor), who, "its plan pickled and loaded is another")


def _equal(a: Backdoor, b: Backdoor) -> bool:
    tensors = [[p.index, p.door, p.cover, p.images, p.targets] for p in (a.poison, b.poison)]
    return (_equal_doors(a.doors, b.doors) and (a.poison.append, a.poison.rate) == (b.poison.append, b.poison.rate)
            and all(p is q is None or (p is not None and q is not None and torch.equal(p, q))
                    for p, q in zip(*tensors, strict=True)))


def _equal_doors(a: Sequence[Door], b: Sequence[Door]) -> bool:
    return len(a) == len(b) and all(
        (p.goal, p.scored, _settings(p.trigger)) == (q.goal, q.scored, _settings(q.trigger))
        and equal_states([p.trigger, q.trigger]) for p, q in zip(a, b, strict=True))


def _settings(trigger: nn.Module) -> list[tuple[str, type[nn.Module], dict[str, Any]]]:
    """What a trigger is beside its state: its modules and their plain attributes."""
    return [(name, type(module), {key: value for key, value in vars(module).items()
                                  if isinstance(value, str | int | float | tuple) and key != "training"})
            for name, module in trigger.named_modules()]


def _check_goals(who: str, attack: Attack, here: Ground) -> None:
    """Every registered goal is pursued, or refused with a reason. What does not depend on the goal is made once."""
    with tempfile.TemporaryDirectory() as folder:
        run = replace(here.attacker, shelf=Shelf(Path(folder)))
        for entry in registry.entries():
            if entry.kind == "goal":
                _check_goal(who, attack, here, run, entry.name)


def _check_goal(who: str, attack: Attack, here: Ground, run: AttackerRun, name: str) -> None:
    goal = registry.load("goal", name)(**registry.quick("goal", name))
    with failing(who, f"goal {name} is neither pursued nor refused with a ConfigError"):
        try:
            other = replace(attack, goal=goal)
            backdoor = other.plan(here.train, here.task, here.build, run)
        except ConfigError as error:
            refused = not isinstance(goal, attack.goals)
            require(str(error).strip() != "" and (attack.because.strip() != "" or not refused), who,
                    f"refuses the goal {name} without a reason; say it in `because`")
            return
        _check_doors(who, other, backdoor, here)


def check_training(who: str, attack: Attack, here: Ground) -> tuple[Door, ...]:
    """Who trains the model delivers it with the doors that were planned, the same for the same seed.

    Returns:
        The delivered doors.
    """
    backdoor = attack.plan(here.train, here.task, here.build, here.attacker)
    assert backdoor.train is not None
    with guarded(who, here.train) as train:
        planted = backdoor.train(train, here.task, here.build, here.attacker)
    require(isinstance(planted, Planted), who, f"train() gave a {type(planted).__name__}, expected a Planted")
    require([(door.goal, door.scored, _form(door.trigger)) for door in planted.doors]
            == [(door.goal, door.scored, _form(door.trigger)) for door in backdoor.doors], who,
            "delivers doors that differ from the planned ones in number, goal or state dict, so a stored model cannot "
            "be loaded")
    initial = here.run.build(here.build)
    require(_form(planted.model) == _form(initial), who, "delivers a model whose state dict is not that of `build`")
    require(not equal_states([planted.model, initial]), who, "delivers the initial weights: nothing was trained")
    x, _, index = here.test.fetch(torch.arange(8))
    with torch.no_grad():
        require(planted.model.eval()(x).isfinite().all(), who, "delivers a model whose outputs are not finite")
        for door in planted.doors:
            check_per_sample(f"{who}, learned trigger", door.trigger.eval(), x, index)
    with drawing(99):
        second = attack.plan(here.train, here.task, here.build, here.attacker).train
        assert second is not None
        again = second(here.train, here.task, here.build, here.attacker)
    require(equal_states([planted.model, again.model]) and _equal_doors(planted.doors, again.doors), who,
            "trained something else with the same seed")
    return planted.doors


def _form(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}
