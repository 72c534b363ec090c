"""Whether explanations of a stored model point at its trigger: the table, the checks it rests on, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from sidedoor import evidence, registry
from sidedoor.apps.stored import attacked_case
from sidedoor.bench.case import train_or_load
from sidedoor.bench.machine import Machine
from sidedoor.bench.store import Store
from sidedoor.data.base import Dataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.explain.base import Explainer
from sidedoor.explain.evaluation import Row, evaluate_explainers
from sidedoor.explain.faithful import chance
from sidedoor.explain.generalisation import Deletion, Rung, deletion, generalisation, ladder
from sidedoor.explain.triggered import Triggered, triggered_images
from sidedoor.goals.base import Door
from sidedoor.tasks.task import Task


@dataclass(frozen=True)
class Explained:
    """What explainers say of the triggered images of a model.

    Args:
        key: of the result; empty for a model of one's own.
        attack: its name, and `seed`, the result's.
        images: that were explained.
        rows: of the table: explainers on the model and on its clean sibling, and baselines.
        chance: standardised IoU of a map that knows nothing.
        deletion: whether the trigger is the reason, without which the table means nothing.
        rungs: patterns unlike the trigger and their success; empty where the trigger has no pattern to change.
        reason: then, why.
    """

    key: str
    attack: str
    seed: int
    images: Triggered = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)
    chance: float
    deletion: Deletion
    rungs: tuple[Rung, ...] = ()
    reason: str = ""

    @property
    def generalisation(self) -> float | None:
        """Area under success against distance of patterns unlike the trigger, in [0, 1]."""
        return generalisation(self.rungs) if self.rungs else None

    def to_json(self) -> dict[str, Any]:
        """All figures, without maps."""
        rows = [{"name": row.name, "of": row.of, "reason": row.reason,
                 "found": evidence.to_json(row.found) if row.found else None} for row in self.rows]
        return {"key": self.key, "attack": self.attack, "seed": self.seed, "images": len(self.images),
                "pixels": self.images.pixels, "shape": list(self.images.x.shape[1:]), "chance": self.chance,
                "rows": rows, "deletion": asdict(self.deletion), "ladder": [asdict(rung) for rung in self.rungs],
                "generalisation": self.generalisation, "ladder_not_applicable": self.reason}


def explain_model(store: Store, key: str, methods: Sequence[str] = (), images: int = 100,
                  machine: Machine | None = None, door: int = 0) -> Explained:
    """Explain triggered images of the attacked model behind a result, and of its clean sibling, without defences.

    Args:
        methods: names of explainers; all that are registered if none are given.
        images: test images at most, on which the trigger works.
        door: which of the scored triggers, from 0.

    Raises:
        ConfigError: no finished result of an attacked model has the key, or a name or trigger is unknown.
        NotApplicable: the trigger covers the image, or works on no test image.
        CannotComplete: code or data are others than the result's, or a package that a method needs is not installed.
    """
    explainers = explainers_of(methods)
    case = attacked_case(store, key, machine or Machine())
    if case.task.output != "labels":
        raise NotApplicable(f"a model whose outputs are {case.task.output}s given; explainers explain a class")
    attacked, clean = train_or_load(case), train_or_load(case.twin(case.spec.clean_models()[0]))
    scored = [each for each in attacked.doors if each.scored]
    if not 0 <= door < len(scored):
        raise ConfigError(f"trigger {door} given; the model has triggers 0 to {len(scored) - 1}")
    return explain(explainers, attacked.model, clean.model, case.test, case.task, scored[door], images, case.run,
                   names=(key, case.spec.attack_name, case.spec.seed))


def explain(explainers: dict[str, Explainer], model: nn.Module, sibling: nn.Module | None, test: Dataset, task: Task,
            door: Door, images: int, run: Run, names: tuple[str, str, int] = ("", "", 0)) -> Explained:
    """The same of a model at hand.

    Args:
        explainers: by name.
        sibling: the same network trained without the poison; None: no such rows.
        names: key, attack and seed.
    """
    run = run.within("explain/")
    model = run.frozen(model)
    chosen = triggered_images(model, test, task, door, images, run)
    rows = evaluate_explainers(explainers, model, sibling, chosen, task, run)
    rungs: tuple[Rung, ...] = ()
    reason = ""
    try:
        rungs = ladder(model, chosen, run)
    except NotApplicable as error:
        reason = str(error)
    return Explained(*names, chosen, rows, chance(chosen.area.cpu()).mean().item(), deletion(model, chosen, run), rungs,
                     reason)


def explainers_of(methods: Sequence[str]) -> dict[str, Explainer]:
    """Explainers of these names, with their defaults; all that are registered for none.

    Raises:
        ConfigError: a name is unknown.
    """
    known = [entry.name for entry in registry.entries() if entry.kind == "explainer"]
    return {name: registry.make("explainer", name) for name in dict.fromkeys(methods or known)}
