"""Contracts of the six stages of defence."""

from __future__ import annotations

import copy
from functools import singledispatch

import torch
from torch import Tensor, nn

from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import Defense
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.filters.base import DataFilter
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.repair.base import Repair
from sidedoor.defenses.training.base import TrainingDefense
from sidedoor.evaluate import suspicion
from sidedoor.evidence import Exhibit, Finding
from sidedoor.metrics.statistics import auroc
from sidedoor.testing.ground import (
    CLASSES,
    Ground,
    check_per_sample,
    check_stateless,
    check_value,
    drawing,
    equal_states,
    grounds,
    guarded,
    require,
    same,
    sealed,
)
from sidedoor.types import Purify


def check_defense(defense: Defense, channels: int = 3) -> None:
    """A defence is a value that uses what its signature names, leaves it alone, and answers in its stage's form.

    An input detector is also run against a plain backdoor, a white square in a corner that leads to one class: stamped
    inputs must score above clean ones in more than half of the pairs, so that one of the wrong sign is found. The sign
    of a data filter is not checked, because what it needs to work differs too much.

    Args:
        channels: of the images it is tried on, 3 or 1.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"defence {type(defense).__name__}"
    require(isinstance(defense, Defense), who, "is no Defense")
    check_value(who, defense)
    for here in grounds(defense.tasks, channels):
        _check_stage(defense, who, here)
    check_stateless(who, defense)


@singledispatch
def _check_stage(defense: Defense, who: str, here: Ground) -> None:
    require(False, who, f"is of no known stage: {defense.stage!r}; derive it from the class of one")


@_check_stage.register
def _(defense: DataFilter, who: str, here: Ground) -> None:
    poisoned = here.poisoned()
    with guarded(who, sealed(poisoned)) as train:
        score = defense.score(train, here.task, here.build, here.run)
    require(isinstance(score, Tensor) and score.shape == (len(poisoned),) and score.is_floating_point(), who,
            f"expected floats ({len(poisoned)},), one score a row, given {_described(score)}")
    require(score.isfinite().all(), who, "gave scores that are not finite")
    with drawing(99):
        again = defense.score(sealed(poisoned), here.task, here.build, here.run)
    require(same(score, again), who, "scored otherwise with the same seed; draw from run.rng(name)")


@_check_stage.register
def _(defense: TrainingDefense, who: str, here: Ground) -> None:
    poisoned = here.poisoned()
    with guarded(who, sealed(poisoned)) as train:
        model = defense.train(train, here.task, here.build, here.run)
    _check_model(who, model, here)
    require(not equal_states([model, here.run.build(here.build)]), who, "delivers the initial weights: nothing was "
                                                                        "trained")
    with drawing(99):
        again = defense.train(sealed(poisoned), here.task, here.build, here.run)
    require(equal_states([model, again]), who, "trained something else with the same seed; draw from run.rng(name)")


@_check_stage.register
def _(defense: Repair, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        model = defense.repair(victim, clean, here.task, here.run)
    require(model is not victim, who, "gave back the model it was given; expected a new one")
    _check_model(who, model, here)
    ours = {value.data_ptr() for value in victim.state_dict().values()}
    require(not any(value.data_ptr() in ours for value in model.state_dict().values()), who,
            "gave a model that shares weights with the one it was given; copy it deeply")
    with drawing(99):
        again = defense.repair(_unusual(here.victim()), here.clean, here.task, here.run)
    require(equal_states([model, again]), who, "repaired otherwise with the same seed; draw from run.rng(name)")


@_check_stage.register
def _(defense: ModelAudit, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        finding = defense.inspect(victim, clean, here.task, here.run)
    _check_finding(who, finding, here.clean)
    with drawing(99):
        again = defense.inspect(_unusual(here.victim()), here.clean, here.task, here.run)
    require(abs(again.score - finding.score) < 1e-3 * (1 + abs(finding.score)), who,
            f"found {finding.score}, then {again.score} with the same seed; draw from run.rng(name)")


@_check_stage.register
def _(defense: InputDetector, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        detect = defense.fit(victim, clean, here.task, here.run)
        x, _, index = here.test.fetch(torch.arange(8))
        score = check_per_sample(who, detect, x, index)
    require(score.shape == (len(x),) and score.is_floating_point(), who,
            f"expected floats ({len(x)},), one score an input, given {_described(score)}")
    require(score.isfinite().all(), who, "gave scores that are not finite")
    with drawing(99), torch.no_grad():
        again: Detect = defense.fit(here.victim(), here.clean, here.task, here.run)
        require(same(again(x, index), score), who, "fitted again with the same seed it scores otherwise; draw from "
                                                   "run.rng(name), and let nothing depend on the model's mode")
    found = suspicion(detect, here.test, [here.door()], here.task, here.run)
    value = auroc(found["suspicious"].numpy(), found["innocent"].numpy())
    require(value is not None and value > 0.5, who,
            f"scores clean inputs above stamped ones (AUROC {value}); higher means more suspicious everywhere")


@_check_stage.register
def _(defense: Purifier, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        purify = defense.fit(victim, clean, here.task, here.run)
        x, _, index = here.test.fetch(torch.arange(8))
        purified = check_per_sample(who, lambda x, index: purify(x, index)[0], x, index)
    low, high, _ = here.test.space
    require(purified.shape == x.shape, who,
            f"made {tuple(purified.shape)} of {tuple(x.shape)}; a purified image keeps its shape")
    require(purified.dtype == x.dtype and purified.isfinite().all(), who, f"gave {purified.dtype} or values that are "
                                                                          "not finite")
    require(bool((purified >= low).all() and (purified <= high).all()), who,
            f"left [{low:g}, {high:g}]: {purified.min():.3g} to {purified.max():.3g}; clamp what it gives")
    _check_undo(who, purify, here)
    with drawing(99), torch.no_grad():
        again: Purify = defense.fit(here.victim(), here.clean, here.task, here.run)
        require(same(again(x, index)[0], purified), who, "fitted again with the same seed it purifies otherwise; draw "
                                                         "from run.rng(name)")


def _check_undo(who: str, purify: Purify, here: Ground) -> None:
    """Outputs that have no place, such as class probabilities, come through `undo` as they are."""
    x, _, index = here.test.fetch(torch.arange(8))
    with torch.no_grad():
        purified, undo = purify(x, index)
        require(callable(undo), who, f"gave {undo!r} beside the images; expected a function that realigns outputs")
        output = here.task.predict(here.victim(), purified)
        require(output.ndim == 4 or same(undo(output), output), who, "its undo changes class probabilities, which "
                                                                     "have no place to realign")
        require(undo(x).shape == x.shape, who, "its undo changes the shape of an output image")


def _check_finding(who: str, finding: Finding, clean: Dataset) -> None:
    require(isinstance(finding, Finding), who, f"gave a {type(finding).__name__}, expected a Finding")
    require(set(finding.suspected) <= set(range(CLASSES)), who,
            f"suspects {finding.suspected}; expected classes from 0 to {CLASSES - 1}")
    require(len(finding.per_class) in (0, CLASSES), who,
            f"per_class is {finding.per_class}; expected a number for each of {CLASSES} classes, or none")
    for exhibit in finding.exhibits:
        _check_exhibit(who, exhibit, clean)


def _check_exhibit(who: str, exhibit: Exhibit, clean: Dataset) -> None:
    """An image of the data's shape in [0, 1], a mask of its height and width in [0, 1], or a curve."""
    values = torch.as_tensor(exhibit.values)
    if exhibit.kind == "curve":
        require(values.ndim == 1 and values.isfinite().all(), who, f"its {exhibit.name} is no curve of finite numbers")
        return
    expected = tuple(clean.shape if exhibit.kind == "picture" else clean.shape[1:])
    require(tuple(values.shape) == expected, who, f"its {exhibit.name} has the shape {tuple(values.shape)}, expected "
                                                  f"{expected}")
    require(bool((values >= 0).all() and (values <= 1).all()), who, f"its {exhibit.name} leaves [0, 1]")


def _check_model(who: str, model: object, here: Ground) -> None:
    """Something that predicts, and that a model file of this architecture can hold."""
    if not isinstance(model, nn.Module):
        raise AssertionError(f"{who}: gave a {type(model).__name__}, expected a model")
    expected, given = here.build().state_dict().keys(), model.state_dict().keys()
    require(expected == given, who, f"its model's state dict differs from the architecture's by "
                                    f"{', '.join(sorted(expected ^ given))}; bake what was added for training")
    x, _, _ = here.test.fetch(torch.arange(8))
    with torch.no_grad():
        output, shape = copy.deepcopy(model).eval()(x), here.build().eval()(x).shape
    require(output.shape == shape and output.isfinite().all(), who,
            f"its model gave {_described(output)}; expected finite outputs {tuple(shape)}")


def _unusual(model: nn.Module) -> nn.Module:
    """In a state that no method sets by itself: training mode, one module excepted, and a frozen parameter."""
    model.train()
    list(model.modules())[-1].eval()
    next(model.parameters()).requires_grad_(False)
    return model


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
