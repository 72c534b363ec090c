"""One cell, from its specification to its record."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sidedoor.bench import shared
from sidedoor.bench.after.base import measured_after
from sidedoor.bench.case import Case, TrainedModel, load, measured, train_or_load
from sidedoor.bench.examine.base import Delivered, defend
from sidedoor.bench.machine import Machine
from sidedoor.bench.record import NOT_APPLICABLE, Means, Record
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.bench.strip import strip
from sidedoor.core import system
from sidedoor.core.files import drop_checkpoints, write_json
from sidedoor.data.base import stored
from sidedoor.engine import memory_format_of
from sidedoor.errors import ConfigError, NotApplicable, SidedoorError, located
from sidedoor.evaluation import evaluate, intervals
from sidedoor.goals.base import Door, Goal
from sidedoor.tasks.task import Scores
from sidedoor.triggers.base import stamp
from sidedoor.types import PHOTO, Images, Index

log = logging.getLogger("sidedoor")
GUESSED = 1.05
"""How many times the share of the most frequent class a model's accuracy is at least, if it has learned something."""


def run(spec: Spec, store: Store, machine: Machine | None = None) -> Record:
    """Run one cell, or return its record if the store has it.

    Raises:
        NotApplicable: a method has nothing to work on here; `attempt` turns this into a record.
        SidedoorError: the cell cannot be run; `attempt` turns this into a record.
    """
    spec.check()
    case = load(spec, store, machine or Machine())
    with case.alone(f"{case.key}-cell"):  # what it needs is not removed meanwhile, and nobody runs it, too
        return finished(store, case.key) or _run(case)


def _run(case: Case) -> Record:
    spec, start = case.spec, time.monotonic()
    if attack := spec.make_attack():
        _check_eligible(case, attack.goal.parts())
    # Of a clean model nothing is compared with a sibling.
    clean = train_or_load(case.twin(spec.clean_models()[0])) if attack else None
    trained = train_or_load(case)
    _check_eligible(case, [door.goal for door in trained.doors if door.scored])
    trained = measured(trained, clean or trained, case)
    began = time.monotonic()
    defenses = spec.make_defenses()
    outcome = defend(defenses, case, trained)
    shared.mark(case.store, *shared.of_defenses(spec, case.fingerprint, trained.key))
    timing = {"attack": trained.seconds, "clean": (clean or trained).seconds, "defense": time.monotonic() - began}
    scores = trained.scores
    if outcome.model is not trained.model or outcome.purify is not None:
        scores = evaluate(outcome.finished, case.test, case.task, trained.doors, case.run, outcome.purify)
    later = measured_after(spec.after, case, trained.doors, outcome.finished, clean.model if clean else None)
    record = _scored(case, trained, scores)
    record = replace(record, undefended=trained.scores.means() if defenses else None,
                     columns=record.columns | outcome.columns | accepted(scores, outcome.alarms) | later,
                     clean_key=clean.key if clean else None, evidence=outcome.evidence,
                     timing=timing | (outcome.seconds if len(defenses) > 1 else {}),
                     given="; then ".join(str(defense.needs) for defense in defenses),
                     seconds=time.monotonic() - start, **ambient(str(case.run.device), outcome.finished))
    if case.run.fabric.is_global_zero:
        _keep(case, record, _arrays(case, trained, outcome, scores, None if defenses else clean))
    return record


def accepted(scores: Scores, alarms: Sequence[Bool[Tensor, "p"]]) -> Means:
    """What of the attack is left behind input detectors: its mean over eligible triggered inputs, those that raise an
    alarm counted as 0. Nothing without detectors or triggered inputs.
    """
    reached = scores.attack[~scores.attack.isnan()]
    if not alarms or not len(reached):
        return {}
    return {"accepted": torch.where(torch.stack(list(alarms)).any(0), 0, reached).double().mean().item()}


def _scored(case: Case, trained: TrainedModel, scores: Scores) -> Record:
    """The record of a delivered system by its scores."""
    means, attacked = scores.means(), case.spec.attack is not None
    untaught = nothing_learned(case, trained)
    reason = untaught or case.task.failed(trained.scores.means(), trained.clean_means) if attacked else None
    if untaught and not attacked:
        log.warning("%s: %s", case.spec.model["name"], untaught)
    return Record(
        key=case.key, planted=trained.key, data=case.fingerprint, resized=case.train.resized,
        spec=case.spec.to_json(),
        status="failed" if reason else "done", error=reason, terms=case.task.terms,
        clean=means["clean"], attack=means["attack"], recovered=means["recovered"], idle=means["idle"],
        intervals=intervals(scores, case.task, case.test.groups),
        clean_means=trained.clean_means if attacked else None,
        columns=_columns(trained, {name: means[name] for name in scores.columns}, case.task.compared),
        samples=_samples(case, trained),
    )


def nothing_learned(case: Case, trained: TrainedModel) -> str | None:
    """Why the trained model is no better than a guess; None if it is."""
    accuracy = trained.scores.means()["clean"]
    if case.task.output != "labels" or accuracy is None:
        return None
    guess = torch.bincount(case.test.targets).max().item() / len(case.test)
    if accuracy > GUESSED * guess:
        return None
    return (f"the model has learned nothing: it is right on {accuracy:.1%} of test images, of which {guess:.1%} are "
            "one class")


def _keep(case: Case, record: Record, arrays: dict[str, np.ndarray]) -> None:
    """Put the record and what its figures need into the store, and drop the checkpoints of the cell."""
    case.store.put_arrays(case.key, arrays)
    write_json(case.store.folder(case.key) / "history.json", case.run.history)
    case.store.put(record)
    drop_checkpoints(case.store.folder(case.key))


def _check_eligible(case: Case, goals: Iterable[Goal]) -> None:
    """Fail if nothing could be said about a goal."""
    for goal in goals:
        if case.task.output == "labels" and not goal.eligible(case.task, case.test.targets).any():
            raise ConfigError(f"none of {len(case.test)} test samples can tell whether {goal} is reached: they are of "
                              "its target class, or not of its source classes; give more test samples or another goal")


def attempt(spec: Spec, store: Store, machine: Machine, key: str) -> Record:
    """Run one cell; an error becomes its record and leaves the other cells alone.

    Raises:
        CannotComplete: the store has a record of this cell that cannot be read; it is left alone.
    """
    if (known := finished(store, key)) is not None:
        return known
    try:
        return run(spec, store, machine)
    except NotApplicable as error:
        record = broken(spec, key, NOT_APPLICABLE, str(error))
        store.put(record)
        return record
    except Exception as error:  # the whole point: one cell's fault leaves the others alone
        if spec.devices > 1:
            raise  # the other processes may wait for this one, and end with it
        record = broken(spec, key, "error", str(error) if isinstance(error, SidedoorError) else located(error))
        store.put(record)
        return record


def finished(store: Store, key: str) -> Record | None:
    """The record of a cell that need not be run again."""
    record = store.record(key)
    return record if record is not None and record.finished else None


def broken(spec: Spec, key: str, status: str, reason: str) -> Record:
    """The record of a cell without numbers."""
    return Record(key=key, planted="", spec=spec.to_json(), status=status, error=reason, **ambient("none"))


def ambient(device: str, model: nn.Module | None = None) -> dict[str, Any]:
    """The environment of a run: device, processor, threads, memory, versions, and the memory format of the model."""
    packages = ("sidedoor", "torch", "torchvision", "numpy", "lightning-fabric")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["python"] = platform.python_version()
    return {"device": device, "processor": processor(device), "threads": torch.get_num_threads(),
            "memory_format": memory_format_of(model) if model else "", "versions": versions,
            "peak_mb": system.peak_memory()}


def processor(device: str) -> str:
    """The model of the GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else system.processor()


def _columns(trained: TrainedModel, own: Means, compared: Sequence[str]) -> Means:
    """The task's own columns, how visible the triggers are, the floor of `asr_all`, and those that it names of the
    clean sibling.
    """
    if not trained.doors:
        return own
    # The clean sibling's rate: mostly the samples that are of the target class anyway.
    beside = {f"sibling.{name}": trained.clean_means.get(name) for name in own if name.startswith(tuple(compared))}
    return own | trained.visible | {"floor": trained.clean_means.get("asr_all")} | beside


def _samples(case: Case, trained: TrainedModel) -> dict[str, float]:
    poison = trained.backdoor.poison
    eligible = ~trained.scores.attack.isnan()
    share = target_share(case, trained)
    return {"train": len(case.train), "defender": len(case.clean), "test": len(case.test),
            "poisoned": int((~poison.cover).sum()), "cover": int(poison.cover.sum()), "rate": poison.rate,
            "eligible": int(eligible.sum())} | ({} if share is None else {"target_share": share})


def target_share(case: Case, trained: TrainedModel) -> float | None:
    """Poisoned samples over all that are labelled as the target; None without poisoned data or one target class."""
    poison, labels = trained.backdoor.poison, case.train.targets
    poisoned = int((~poison.cover).sum())
    target = _target(case, [door.goal for door in trained.backdoor.doors if door.scored])
    if target is None or poisoned == 0:
        return None
    clean = labels == target
    if not poison.append:
        clean[poison.index] = False
    return poisoned / (poisoned + int(clean.sum()))


def _target(case: Case, goals: Iterable[Goal]) -> int | None:
    """The one class that all goals lead all eligible samples to."""
    if case.task.output != "labels":
        return None
    labels = case.train.targets
    found: set[int] = set()
    for goal in goals:
        rows = torch.nonzero(goal.eligible(case.task, labels))[:, 0]
        found |= set(goal.target(case.task, labels[rows], case.train.position(rows)).tolist())
    return found.pop() if len(found) == 1 else None


def _arrays(case: Case, trained: TrainedModel, outcome: Delivered, scores: Scores,
            clean: TrainedModel | None) -> dict[str, np.ndarray]:
    """What the figures of a report need.

    Args:
        clean: the clean sibling, if both are to be shown on a clip.
    """
    doors = [door for door in trained.doors if door.scored]
    per_door = (max(len(doors), 1), len(case.test))
    arrays = {
        "class_names": np.array(case.test.classes), "y": case.test.targets.numpy(),
        "clean": scores.clean.numpy(), "attack": scores.attack.reshape(per_door).numpy(),
        "undefended_clean": trained.scores.clean.numpy(),
        "undefended_attack": trained.scores.attack.reshape(per_door).numpy(),
    }
    grid = _images(case, doors, outcome) if case.task.output == "image" else _grid(case, doors)
    shown = strip(case.test, doors, clean.model, trained.model, case.run) if clean else {}
    return arrays | grid | shown | outcome.arrays


def _grid(case: Case, doors: list[Door], count: int = 8) -> dict[str, np.ndarray]:
    """A few eligible test images of different classes, clean and stamped; the doors take turns."""
    if not doors:
        return {}
    test, device = case.test, case.run.device
    parts: dict[str, list[np.ndarray]] = {"grid_clean": [], "grid_stamped": [], "grid_label": [], "grid_door": []}
    for k in range(count):
        door = doors[k % len(doors)]
        rows = torch.nonzero(door.goal.eligible(case.task, test.targets))[:, 0]
        labels = torch.unique(test.targets[rows])
        of_class = rows[test.targets[rows] == labels[k % len(labels)]]
        row = of_class[k // len(labels) % len(of_class)][None]
        x, _, index = test.fetch(row, device)
        with torch.no_grad():
            stamped = stamp(door.trigger, x, index, test.space)
        if case.task.output == "response":  # a template and a search crop
            x, stamped = (pair.chunk(2, 1)[1] for pair in (x, stamped))
        images = {"grid_clean": stored(x, test.space), "grid_stamped": stored(stamped, test.space),
                  "grid_label": test.targets[row], "grid_door": torch.tensor([k % len(doors)])}
        for name, value in images.items():
            parts[name].append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def _images(case: Case, doors: list[Door], outcome: Delivered, count: int = 6) -> dict[str, np.ndarray]:
    """A few test images of different groups through the delivered model: inputs, outputs, truth and target."""
    test, device = case.test, case.run.device
    x, y, index = test.fetch(torch.arange(count) * len(test) // count, device)
    parts = {"truth": y, "input": x}
    with torch.no_grad():
        parts["output"] = _output(case, outcome, x, index)
        if doors:
            door = doors[0]
            parts["stamped"] = stamp(door.trigger, x, index, test.space)
            parts["triggered"] = _output(case, outcome, parts["stamped"], index)
            parts["target"] = door.goal.target(case.task, y, index)
    return {f"images_{name}": stored(value.clamp(0, 1), PHOTO).cpu().numpy() for name, value in parts.items()}


def _output(case: Case, outcome: Delivered, x: Images, index: Index) -> Images:
    model = outcome.finished.to(case.run.device).eval()
    purified, undo = outcome.purify(x, index) if outcome.purify else (x, lambda output: output)
    restored: Images = undo(case.task.predict(model, purified))
    return restored
