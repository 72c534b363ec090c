"""Contracts of the six stages of defence."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor, nn

from sidedoor.algorithms.stamped import Stamped
from sidedoor.core.restricted import NotDeclared
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.defenses.base import CLEAN, MODEL, Defense, Needs
from sidedoor.defenses.detectors.base import Detect, InputDetector
from sidedoor.defenses.filters.base import DataFilter, GuidedFilter
from sidedoor.defenses.purifiers.base import Purifier
from sidedoor.defenses.repair.base import Repair
from sidedoor.defenses.training.base import AidedTraining, TrainingDefense
from sidedoor.engine import Run
from sidedoor.errors import NotApplicable
from sidedoor.evaluation import suspicion
from sidedoor.evidence import Exhibit, Finding
from sidedoor.metrics.statistics import auroc
from sidedoor.tasks._tracking_pairs import Pairs
from sidedoor.tasks.task import Task
from sidedoor.testing.ground import (
    CLASSES,
    TOLERANCE,
    Ground,
    check_per_sample,
    check_stateless,
    check_value,
    drawing,
    equal_states,
    failing,
    grounds,
    guarded,
    require,
    same,
    sealed,
)
from sidedoor.types import Purify

FEW = 0.1
"""Of the eligible samples, for filters: a minority of the class that they get."""
SIGN = "higher means more suspicious everywhere; name a test in `sign_tested_in` if these data cannot show it"


def check_defense(defense: Defense, channels: int = 3) -> None:
    """A defence is a value that uses what its signature names, leaves it alone, and answers in its stage's form.

    Filters, audits and input detectors are also run against a plain backdoor, a white square in a corner that leads to
    one class, so that one of the wrong sign is found. Poisoned rows must score above clean ones of the same label, and
    stamped inputs above clean ones, in more than half of the pairs; a backdoored model above a clean one. A method that
    needs more than 200 images of 16×16 to show it names the test that does, `sign_tested_in`.

    Args:
        channels: of the images it is tried on, 3 or 1.

    Raises:
        AssertionError: which rule broke, and how.
    """
    who = f"defence {type(defense).__name__}"
    require(isinstance(defense, Defense), who, "is no Defense")
    require(isinstance(getattr(defense, "needs", None), Needs), who, "declares no `needs`: what it must be given")
    check_value(who, defense)
    for here in grounds(defense.tasks, channels):
        _check_stage(defense, who, here)
    check_stateless(who, defense)


@singledispatch
def _check_stage(defense: Defense, who: str, here: Ground) -> None:
    require(False, who, f"is of no known stage: {defense.stage}; derive it from the class of one")


@_check_stage.register
def _(defense: DataFilter, who: str, here: Ground) -> None:
    _check_filter(who, here, lambda train, clean, run: defense.score(train, here.task, here.build, run), defense)


@_check_stage.register
def _(defense: GuidedFilter, who: str, here: Ground) -> None:
    def score(train: Dataset, clean: Dataset, run: Run) -> Tensor:
        return defense.score(train, clean, here.task, here.build, run)

    whole = _check_filter(who, here, score, defense)
    _check_clean_needs(defense, who, here, defense.score, whole)


def _check_filter(who: str, here: Ground, score_of: Callable[[Dataset, Dataset, Run], Tensor], defense: Defense) \
        -> Tensor:
    poisoned = here.poisoned()
    with guarded(who, sealed(poisoned)) as train, guarded(who, here.clean) as clean:
        score = score_of(train, defense.needs.clean_for(clean), here.run)
    require(isinstance(score, Tensor) and score.shape == (len(poisoned),) and score.is_floating_point(), who,
            f"expected floats ({len(poisoned)},), one score a row, given {_described(score)}")
    require(score.isfinite().all(), who, "gave scores that are not finite")
    with drawing(99):
        again = score_of(sealed(poisoned), defense.needs.clean_for(here.clean), here.run)
    require(same(score, again), who, "scored otherwise with the same seed; draw from run.rng(name)")
    if not defense.sign_tested_in:
        few = here.poisoned(FEW)
        found = score_of(sealed(few), defense.needs.clean_for(here.clean), here.planting)
        truth = few.is_poisoned().bool()
        alike = ~truth & torch.isin(few.targets, few.targets[truth])
        value = auroc(found[truth].numpy(), found[alike].numpy())
        require(value is not None and value > 0.5, who,
                f"scores clean rows above poisoned ones of the same label (AUROC {value}); {SIGN}")
    return score


@_check_stage.register
def _(defense: TrainingDefense, who: str, here: Ground) -> None:
    _check_trained(who, here, lambda train, clean: defense.train(train, here.task, here.build, here.run), defense)


@_check_stage.register
def _(defense: AidedTraining, who: str, here: Ground) -> None:
    def trained(train: Dataset, clean: Dataset) -> nn.Module:
        return defense.train(train, clean, here.task, here.build, here.run)

    whole = _check_trained(who, here, trained, defense)
    _check_clean_needs(defense, who, here, defense.train, whole)


def _check_trained(who: str, here: Ground, trained: Callable[[Dataset, Dataset], nn.Module], defense: Defense) \
        -> nn.Module:
    poisoned = here.poisoned()
    with guarded(who, sealed(poisoned)) as train, guarded(who, here.clean) as clean:
        model = trained(train, defense.needs.clean_for(clean))
    _check_model(who, model, here)
    require(not equal_states([model, here.run.build(here.build)]), who, "delivers the initial weights: nothing was "
                                                                        "trained")
    with drawing(99):
        again = trained(sealed(poisoned), defense.needs.clean_for(here.clean))
    require(equal_states([model, again]), who, "trained something else with the same seed; draw from run.rng(name)")
    return model


def _check_clean_needs(defense: Defense, who: str, here: Ground, verb: Callable[..., object], whole: object) -> None:
    """What gets clean samples beside the training data uses them, and their labels if it says so."""
    def made(model: nn.Module, clean: Dataset, task: Task, run: Run) -> object:
        return verb(sealed(here.poisoned()), clean, task, here.build, run)

    _check_needs(defense, who, here, made, whole)


@_check_stage.register
def _(defense: Repair, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        model = defense.repair(*_given(defense, here, victim, clean))
    require(model is not victim, who, "gave back the model it was given; expected a new one")
    _check_model(who, model, here)
    ours = {value.data_ptr() for value in victim.state_dict().values()}
    require(not any(value.data_ptr() in ours for value in model.state_dict().values()), who,
            "gave a model that shares weights with the one it was given; copy it deeply")
    with drawing(99):
        again = defense.repair(*_given(defense, here, _unusual(here.victim())))
    require(equal_states([model, again]), who, "repaired otherwise with the same seed; draw from run.rng(name)")
    _check_needs(defense, who, here, defense.repair, model)


@_check_stage.register
def _(defense: ModelAudit, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        finding = defense.inspect(*_given(defense, here, victim, clean))
    _check_finding(who, finding, here.clean)
    with drawing(99):
        again = defense.inspect(*_given(defense, here, _unusual(here.victim())))
    require(abs(again.score - finding.score) < 1e-3 * (1 + abs(finding.score)), who,
            f"found {finding.score}, then {again.score} with the same seed; draw from run.rng(name)")
    _check_needs(defense, who, here, lambda *given: _numbers(defense.inspect(*given)), _numbers(finding))
    if not defense.sign_tested_in:
        with failing(who, "says nothing of a clean model"):
            clean_score = defense.inspect(*_given(defense, here, here.clean_model())).score
        require(finding.score > clean_score, who,
                f"scores a clean model ({clean_score}) no lower than a backdoored one ({finding.score}); {SIGN}")


@_check_stage.register
def _(defense: InputDetector, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        detect = defense.fit(*_given(defense, here, victim, clean))
        x, _, index = here.test.fetch(torch.arange(8))
        score = check_per_sample(who, detect, x, index)
    require(score.shape == (len(x),) and score.is_floating_point(), who,
            f"expected floats ({len(x)},), one score an input, given {_described(score)}")
    require(score.isfinite().all(), who, "gave scores that are not finite")
    with drawing(99), torch.no_grad():
        again: Detect = defense.fit(*_given(defense, here, here.victim()))
        require(same(again(x, index), score), who, "fitted again with the same seed it scores otherwise; draw from "
                                                   "run.rng(name), and let nothing depend on the model's mode")
    _check_needs(defense, who, here, lambda *given: torch.no_grad()(defense.fit(*given))(x, index), score)
    if not defense.sign_tested_in:
        found = suspicion((detect, again), here.test, [here.door()], here.task, here.run)
        value = auroc(found["suspicious"].numpy(), found["innocent"].numpy())
        require(value is not None and value > 0.5, who,
                f"scores clean inputs above stamped ones (AUROC {value}); {SIGN}")


@_check_stage.register
def _(defense: Purifier, who: str, here: Ground) -> None:
    victim = _unusual(here.victim())
    with guarded(who, here.clean, victim) as clean:
        purify = defense.fit(*_given(defense, here, victim, clean))
        x, _, index = _purified(here).fetch(torch.arange(8))
        purified = check_per_sample(who, lambda x, index: purify(x, index)[0], x, index)
    low, high, _ = here.test.space
    require(purified.shape == x.shape, who,
            f"made {tuple(purified.shape)} of {tuple(x.shape)}; a purified image keeps its shape")
    require(purified.dtype == x.dtype and purified.isfinite().all(), who, f"gave {purified.dtype} or values that are "
                                                                          "not finite")
    require(bool((purified >= low).all() and (purified <= high).all()), who,
            f"left [{low:g}, {high:g}]: {purified.min():.3g} to {purified.max():.3g}; clamp what it gives")
    _check_undo(defense, who, purify, here)
    with drawing(99), torch.no_grad():
        again: Purify = defense.fit(*_given(defense, here, here.victim()))
        require(same(again(x, index)[0], purified), who, "fitted again with the same seed it purifies otherwise; draw "
                                                         "from run.rng(name)")
    _check_needs(defense, who, here, lambda *given: torch.no_grad()(defense.fit(*given))(x, index)[0], purified)


def _purified(here: Ground) -> Dataset:
    """What purifiers are given: inputs, or of a tracker the frames that it cuts them from."""
    return here.test.clips if isinstance(here.test, Pairs) else here.test


def _check_undo(defense: Purifier, who: str, purify: Purify, here: Ground) -> None:
    """Outputs that have no place, such as class probabilities, come through `undo` as they are, or with their classes
    permuted, alike for all inputs, if the purifier says that it draws other classes.
    """
    x, _, index = _purified(here).fetch(torch.arange(8))
    with torch.no_grad():
        purified, undo = purify(x, index)
        require(callable(undo), who, f"gave {undo!r} beside the images; expected a function that realigns outputs")
        given = here.test.fetch(torch.arange(8)).x if isinstance(here.test, Pairs) else purified
        output = here.task.predict(here.victim(), given)
        if defense.relabels and output.ndim == 2:
            require(_permutes(undo, output), who, "its undo does something else to class probabilities than to permute "
                                                  "the classes, alike for all inputs")
        else:
            require(output.ndim == 4 or same(undo(output), output), who,
                    "its undo changes class probabilities, which have no place to realign")
        require(undo(x).shape == x.shape, who, "its undo changes the shape of an output image")


def _permutes(undo: Callable[[Tensor], Tensor], output: Tensor) -> bool:
    """Whether `undo` multiplies a batch of probabilities by a permutation of the classes, and does nothing else."""
    certain = torch.eye(output.shape[1])
    found = torch.stack([undo(row.expand_as(output)) for row in certain])
    order = found[:, 0]
    return same(found, order[:, None].expand_as(found)) and bool((order >= 0).all()) \
        and same(order @ order.T, certain) and same(undo(output), output @ order)


def _numbers(finding: Finding) -> Tensor:
    return torch.tensor([finding.score, *finding.per_class])


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
    """Something that predicts, and that a model file of this architecture can hold, or of it behind a stamp."""
    if not isinstance(model, nn.Module):
        raise AssertionError(f"{who}: gave a {type(model).__name__}, expected a model")
    network = model.model if isinstance(model, Stamped) else model
    expected, given = here.build().state_dict().keys(), network.state_dict().keys()
    require(expected == given, who, f"its model's state dict differs from the architecture's by "
                                    f"{', '.join(sorted(expected ^ given))}; bake what was added for training")
    x, _, _ = here.test.fetch(torch.arange(8))
    with torch.no_grad():
        output, shape = copy.deepcopy(model).eval()(x), here.build().eval()(x).shape
    require(output.shape == shape and output.isfinite().all(), who,
            f"its model gave {_described(output)}; expected finite outputs {tuple(shape)}")


def _unusual(model: nn.Module) -> nn.Module:
    """In evaluation mode, as every model is handed over, and with a frozen parameter, which methods leave alone."""
    model.eval()
    next(model.parameters()).requires_grad_(False)
    return model


def _given(defense: Defense, here: Ground, model: nn.Module, clean: Dataset | None = None,
           needs: Needs | None = None) -> tuple[nn.Module, Dataset, Task, Run]:
    """What the bench would hand to a defence that looks at a model."""
    needs = needs or defense.needs
    return needs.model_for(model, here.task), needs.clean_for(clean or here.clean), here.task, here.run


def _check_needs(defense: Defense, who: str, here: Ground, made: Callable[..., object], whole: object) -> None:
    """With less than it declares a method fails, or does something else; one that does the same declares too much.

    Args:
        made: what comes of the method, given (model, clean, task, run).
        whole: what came of it with all that it declares.
    """
    needs = defense.needs
    model, clean = MODEL.index(needs.model), CLEAN.index(needs.clean)
    # An output image or a response is an answer as it is: with labels alone there is as much as with probabilities.
    lower = "none" if needs.model == "probabilities" and here.task.output != "labels" else MODEL[max(model - 1, 0)]
    fewer = [replace(needs, model=lower)] if model and not isinstance(defense, Repair) else []
    for less in fewer + ([replace(needs, clean=CLEAN[clean - 1])] if clean else []):
        # Refused, without a result, or stumbling over what is not there: labels of -1, or outputs without a gradient.
        with contextlib.suppress(NotDeclared, NotApplicable, IndexError, RuntimeError):
            other = made(*_given(defense, here, _unusual(here.victim()), needs=less))
            require(not _alike(whole, other), who, f"declares to need {needs}, and does the same with {less}; declare "
                                                   "what it uses")


def _alike(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.allclose(a.float(), b.float(), rtol=TOLERANCE, atol=0)  # relative: entropies may be tiny
    return equal_states([a, b]) if isinstance(a, nn.Module) and isinstance(b, nn.Module) else a == b


def _described(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
