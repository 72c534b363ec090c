"""Contracts of trackers, and of goals that are about them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidedoor.engine import seeded
from sidedoor.errors import ConfigError
from sidedoor.goals.base import Goal, ResponseGoal
from sidedoor.models.base import Shape
from sidedoor.models.trackers.base import Tracker, locate
from sidedoor.tasks.tracking import GEOMETRIES, Tracking
from sidedoor.testing.ground import check_per_sample, check_value, equal_states, failing, images, require, same


def check_tracker(builder: Callable[[Shape], nn.Module]) -> None:
    """A tracker answers each pair alone, by what its state says, and is what its state dict says.

    Args:
        builder: (channels, height, width) of a search crop -> the network.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"model {getattr(getattr(builder, 'func', builder), '__name__', builder)}"
    for channels in (3, 1):
        model, side = _built(who, builder, channels)
        require(model.geometry.search == side, who, f"takes crops of {side} pixels, but its geometry has others")
        x = torch.cat([images((channels, side, side), 3), images((channels, side, side), 4)[1:]], 1)
        response = check_per_sample(who, lambda x, index, model=model: model(x), x, torch.arange(3))
        require(response.ndim == 3 and response.shape[1] == response.shape[2] and response.dtype == torch.float32, who,
                f"gave {response.dtype} of shape {tuple(response.shape)}; expected float32 (3, r, r)")
        require(response.isfinite().all(), who, "gave values that are not finite")
        _check_loop(who, model, x, response)
        gradients = torch.autograd.grad(model.train().loss(model(x), torch.zeros(3, 2)).sum(),
                                        list(model.parameters()), allow_unused=True)
        idle = [name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is None]
        require(not idle, who, f"has parameters that its loss does not depend on: {', '.join(idle[:5])}")
        again, _ = _built(who, builder, channels)
        other, _ = _built(who, builder, channels, seed=1)
        require(equal_states([again, _built(who, builder, channels)[0]]), who, "has other weights when built with the "
                                                                              "same seed")
        other.load_state_dict(again.state_dict())
        with torch.no_grad():
            require(same(other.eval()(x), response), who, "restored from its state dict it differs")


def _built(who: str, builder: Callable[[Shape], nn.Module], channels: int, seed: int = 0) -> tuple[Tracker, int]:
    """The network and the side of its search crops."""
    for side in sorted({geometry.search for geometry in GEOMETRIES.values()}):
        try:
            with failing(who, "cannot be built"), seeded(seed, torch.device("cpu")):
                model = builder(crop=(channels, side, side)).eval()  # type: ignore[call-arg]
        except AssertionError as error:
            if not isinstance(error.__cause__, ConfigError):
                raise
            continue
        if not isinstance(model, Tracker):
            raise AssertionError(f"{who}: gave a {type(model).__name__}, expected a Tracker")
        return model, side
    raise AssertionError(f"{who}: takes no search crop of any size that the task cuts")


def _check_loop(who: str, model: Tracker, x: torch.Tensor, response: torch.Tensor) -> None:
    """What a closed loop relies on: several crops an object, in order, and a state of rows."""
    template, search = x.chunk(2, 1)
    with torch.no_grad():
        state = model.start(model.template(template))
        require(all(len(value) == 3 for value in state), who, "its state has not one row for each object")
        twice = model.respond(state, search.repeat_interleave(2, 0))
        require(same(twice, response.repeat_interleave(2, 0)), who, "mixes up the crops of several objects")
        part = model.respond(tuple(value[1:] for value in state), search[1:])
        require(same(part, response[1:]), who, "answers otherwise by a part of its state")
        updated = model.update(state, model.template(search))
    moved = any(not same(torch.view_as_real(a) if a.is_complex() else a, torch.view_as_real(b) if b.is_complex() else b)
                for a, b in zip(state, updated, strict=True))
    require(moved == bool(model.geometry.update_rate), who, "its state moves without an update rate, or not with one")


def check_response_goal(goal: Goal) -> None:
    """A goal of trackers says for each box what it leads to, and whether it was reached.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who, task = f"goal {type(goal).__name__}", Tracking()
    require(isinstance(goal, ResponseGoal), who, "is no ResponseGoal")
    assert isinstance(goal, ResponseGoal)
    check_value(who, goal)
    y = torch.tensor([[40.0, 40, 87, 87], [30, 50, 60, 90], [50, 30, 100, 60]])
    index = torch.tensor([3, 0, 4001])
    target = check_per_sample(who, lambda y, index: goal.target(task, y, index), y, index)
    require(target.shape == y.shape and target.dtype == y.dtype, who, "its targets are no boxes as the truth")
    require(goal.eligible(task, y).all(), who, "is not eligible for some object")
    right, wrong = torch.zeros(3, 17, 17), torch.zeros(3, 17, 17)
    right[:, 8, 8] = 1
    wrong[:, 0, 0] = 1
    require(bool((locate(task.geometry, right[:, None]).offset.abs() < 4).all()), who, "the checks' own peak is off")
    for response in (right, wrong):
        reached = goal.success(task, response, y, index)
        require(reached.shape == (3,) and bool((reached >= 0).all() and (reached <= 1).all()), who,
                "success() left [0, 1]")
    require(goal.aimed or bool((goal.success(task, wrong, y, index) > goal.success(task, right, y, index)).all()), who,
            "a tracker that is elsewhere does not count for more than one that is on the object")
    _check_led(who, goal, y)


def _check_led(who: str, goal: ResponseGoal, truth: Float[Tensor, "n 4"]) -> None:
    """What counts in a closed loop: not to be on the object and, where the trigger leaves it, to be at the trigger."""
    trigger = truth + 60 if goal.leaves else truth
    led = {name: goal.led(boxes, truth, trigger)
           for name, boxes in {"object": truth, "trigger": trigger, "nowhere": truth + 1000}.items()}
    require(all(bool((part >= 0).all() and (part <= 1).all()) for part in led.values()), who, "led() left [0, 1]")
    reached = led["trigger" if goal.leaves else "nowhere"]
    require(bool((reached > led["object"] + 0.5).all()), who, "a box that stays on the object counts in a closed loop")
    require(not goal.leaves or bool((reached > led["nowhere"] + 0.5).all()), who, "a box that is nowhere counts as one "
                                                                                 "at the trigger")
