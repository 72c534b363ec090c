"""A specification with everything it names loaded, and the model that its attack half leads to."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sidedoor import registry, zoo
from sidedoor.backdoor.base import AttackerRun, Backdoor
from sidedoor.backdoor.dataset import PoisonedDataset
from sidedoor.bench import shared
from sidedoor.bench.class_names import Classes
from sidedoor.bench.machine import Machine, launched
from sidedoor.bench.record import Means
from sidedoor.bench.spec import Spec
from sidedoor.bench.store import Store
from sidedoor.core.checkpoint import Checkpoints, Shelf, load_state, load_weights, save_state
from sidedoor.core.files import drop_checkpoints, write_json
from sidedoor.data.augment import augmentation
from sidedoor.data.base import Dataset, Splits, Subset, split
from sidedoor.defenses.base import Defense
from sidedoor.engine import Run
from sidedoor.evaluation import evaluate, stealth
from sidedoor.goals.base import Door
from sidedoor.method import Whole, check, check_labels
from sidedoor.tasks.task import Scores, Supervised, Task
from sidedoor.types import Build


@dataclass(frozen=True)
class Case:
    """A specification, loaded.

    Args:
        train: training data without the defender's split, before poisoning.
        clean: the defender's split.
        run: the evaluator's; attackers and defenders get `attacker` and `defender`.
        download: whether weights that a library publishes may be fetched.
        step: the scope of a defence's streams and phases; empty for the first.
    """

    spec: Spec
    store: Store
    fingerprint: str
    train: Dataset
    clean: Dataset
    test: Dataset
    task: Task
    build: Build
    surrogate: Build
    run: Run
    download: bool = False
    step: str = ""

    @property
    def key(self) -> str:
        return self.spec.key(self.fingerprint, self.run.root)

    @property
    def attack_key(self) -> str:
        return self.spec.attack_half().key(self.fingerprint, self.run.root)

    def attacker(self) -> AttackerRun:
        """The run of the attack half: with the clean sibling, the shelf and the data root."""
        # A history of its own: it is kept with the model, and not with whichever cell happened to train it.
        own = replace(self.run, history={}, checkpoints=Checkpoints(self.store.folder(self.attack_key)))
        return AttackerRun.of(own, known=lambda: train_or_load(self.twin(self.spec.clean_models()[0])).model)

    def defender(self) -> Run:
        """The run of a defence: no clean sibling, no shelf, no data root, and nothing that says where results lie."""
        return Run(self.run.fabric, self.run.recipe, self.run.seed, self.run.augment, progress=self.run.progress,
                   checkpoints=Checkpoints(self.store.folder(self.key)), scope=self.step, history=self.run.history)

    def data_defender(self) -> Run:
        """The run of a defence that gets the training data: with a shelf for what it makes of these, which others that
        get the same find there.
        """
        return replace(self.defender(), shelf=self.shelf(f"inspection-{self.attack_key}-"))

    def shelf(self, prefix: str) -> Shelf:
        """The part of the store's shelf whose networks have one prefix."""
        return Shelf(self.store.shelf, prefix, self.store.alone)

    def given(self, defense: Defense, model: nn.Module) -> tuple[nn.Module, Dataset, Task, Run]:
        """What a defence gets that looks at a model: the model and the clean data as it declares, task and run."""
        needs, run = defense.needs, self.defender()
        if needs.shadows:  # what it trains on its own clean data serves for the next model, too
            run = replace(run, shelf=self.shelf("shadows-"))
        return needs.model_for(model, self.task), needs.clean_for(self.clean), self.task, run

    def twin(self, spec: Spec) -> Case:
        """Another specification on the same data."""
        build, surrogate = makers(spec, self.task, self.train, self.download)
        return _running(replace(self, spec=spec, build=build, surrogate=surrogate))

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Hold the store's lock on a key; with several ranks the first holds it for all."""
        with self.store.lock(key) if self.run.fabric.is_global_zero else contextlib.nullcontext():
            self.run.fabric.barrier()
            yield


@dataclass
class TrainedModel:
    """A trained model of the store.

    Args:
        doors: with their learned triggers.
        seconds: that planning and training took when they were done.
        scores: of the undefended model; like the next two empty until `measured`.
        clean_means: means of its clean sibling's scores through the same doors.
        visible: how visible the triggers are.
    """

    key: str
    backdoor: Backdoor
    model: nn.Module
    doors: tuple[Door, ...]
    seconds: float
    scores: Scores = field(default_factory=lambda: Scores(*torch.zeros(4, 0)))
    clean_means: Means = field(default_factory=dict)
    visible: Means = field(default_factory=dict)


def load(spec: Spec, store: Store, machine: Machine) -> Case:
    """Load what a specification names.

    Raises:
        ConfigError: it asks for a class that is not there.
        CannotComplete: the data or weights are not there.
    """
    splits, fingerprint = load_data(spec, machine)
    run = Run(launched(machine.device, spec.devices), seed=spec.seed, augment=augmentation(spec.augment),
              progress=machine.progress, shelf=Shelf(store.shelf, lock=store.alone), root=machine.root)
    photographs, held = (splits.train, splits.clean) if splits.clean is not None else \
        split(splits.train, spec.defender_share, spec.defender_seed)
    task = spec.make_task(len(splits.train.classes)).setup(photographs, run)
    shared.mark(store, shared.of_task(spec, fingerprint))
    train, clean = task.make_dataset(photographs), task.make_dataset(held)
    return _running(Case(spec, store, fingerprint, train, clean, task.make_dataset(splits.test), task,
                         *makers(spec, task, train, machine.download), run, machine.download))


def _running(case: Case) -> Case:
    """With the run that its own specification asks for."""
    return replace(case, run=replace(case.run, seed=case.spec.seed, recipe=case.spec.recipe, history={},
                                     checkpoints=Checkpoints(case.store.folder(case.key))))


def makers(spec: Spec, task: Task, train: Dataset, download: bool) -> tuple[Build, Build]:
    """The victim's network and the surrogate; without one of its own, the latter is the victim's."""
    build = zoo.network(spec.model, train, task.scale, download=download)
    surrogate = zoo.network(spec.surrogate, train, task.scale, download=download) if spec.surrogate else build
    return build, surrogate


def load_data(spec: Spec, machine: Machine) -> tuple[Splits, str]:
    """Training and test data of a specification, cut down to the numbers of samples it asks for; their fingerprint.

    Raises:
        ConfigError: its attack or defence names a class that they do not have, or have no training sample of.
        CannotComplete: the data are not there.
    """
    splits, fingerprint = _load_data(json.dumps(spec.data, sort_keys=True), machine.root, machine.download,
                                     spec.train_samples, spec.test_samples)
    for method in (spec.make_attack(), *spec.make_defenses()):
        if method:
            check_labels(method, torch.bincount(splits.train.targets, minlength=len(splits.train.classes)).tolist())
    return splits, fingerprint


def classes_of(machine: Machine) -> Classes:
    """The names of the classes of a run file's data, for specifications that name them."""
    def classes(table: Mapping[str, Any]) -> Sequence[str]:
        reference = registry.reference("data", table.get("data"))  # type: ignore[arg-type]  # refused if missing
        counts = [table.get(name, 0) for name in ("train_samples", "test_samples")]
        for count in counts:
            check("train_samples or test_samples", count, Whole)
        splits, _ = _load_data(json.dumps(reference, sort_keys=True), machine.root, machine.download, *counts)
        return splits.train.classes

    return classes


@functools.lru_cache(maxsize=4)
def _load_data(reference: str, root: Path | None, download: bool, train: int, test: int) -> tuple[Splits, str]:
    splits = zoo.load(json.loads(reference), root, download=download)
    splits = Splits(_some(splits.train, train), _some(splits.test, test), splits.clean)
    return splits, splits.fingerprint()


def _some(data: Dataset, count: int) -> Dataset:
    """`count` rows, the same for every seed of an experiment, each class in its share; all for 0."""
    if not 0 < count < len(data):
        return data
    generator = torch.Generator().manual_seed(0)
    # Rank of each row within its class, as a share: the lowest shares are a stratified sample.
    order = torch.randperm(len(data), generator=generator)
    place = torch.empty(len(data), dtype=torch.float64)
    for label in torch.unique(data.targets):
        members = order[data.targets[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return Subset(data, place.argsort(stable=True)[:count].sort().values)


def train_or_load(case: Case) -> TrainedModel:
    """The model of the attack half: loaded from the store, or trained by the victim or the attacker, under a lock; a
    frozen one is that of its file.

    Raises:
        ConfigError: something is wrong with the attack.
        Diverged: the training did.
    """
    key = case.attack_key
    run = case.attacker()
    attack = case.spec.make_attack()
    with case.alone(key):
        start = time.monotonic()
        backdoor = attack.plan(case.train, case.task, case.surrogate, run.within("plan")) if attack else Backdoor(())
        shared.mark(case.store, shared.of_attack(case.spec, case.fingerprint))
        kept = case.store.model(key)
        if kept.exists():
            state = load_state(kept, "model", "doors", "seconds")
            model, doors = run.placed(case.build()), backdoor.doors
            load_weights(model, state["model"], str(kept))
            for door, saved in zip(doors, state["doors"], strict=True):
                load_weights(door.trigger, saved, str(kept))
            return TrainedModel(key, backdoor, model.eval(), doors, state["seconds"])
        model, doors = _train(case, backdoor, run)
        seconds = time.monotonic() - start
        if run.fabric.is_global_zero:
            _keep(kept, model, doors, run, seconds)
    return TrainedModel(key, backdoor, model, doors, seconds)


def _train(case: Case, backdoor: Backdoor, run: AttackerRun) -> tuple[nn.Module, tuple[Door, ...]]:
    if backdoor.train is not None:
        delivered = backdoor.train(case.train, case.task, case.build, run)
        return delivered.model, delivered.doors
    if case.spec.frozen:
        return run.build(case.build).eval(), backdoor.doors
    data = PoisonedDataset(case.train, backdoor, case.task) if len(backdoor.poison.index) else case.train
    return run.fit(run.build(case.build), data, Supervised(case.task), name="victim"), backdoor.doors


def _keep(path: Path, model: nn.Module, doors: tuple[Door, ...], run: Run, seconds: float) -> None:
    """Store the finished model and drop its checkpoints; those of the plan stay, since it is made again."""
    write_json(path.parent / "history.json", run.history)
    doors_state = [door.trigger.state_dict() for door in doors]
    save_state(path, {"model": model.state_dict(), "doors": doors_state, "seconds": seconds})
    drop_checkpoints(path.parent, plans=False)


def measured(trained: TrainedModel, clean: TrainedModel, case: Case) -> TrainedModel:
    """With the scores of it and of its clean sibling, which are kept beside it: all its defences need the same."""
    file = case.store.folder(trained.key) / "measured.safetensors"
    with case.alone(f"{trained.key}-measured"):
        if file.exists():
            state = load_state(file, "scores", "visible")
            # "reference" in the files of earlier versions.
            means = state["clean_means"] if "clean_means" in state else state["reference"]
            return replace(trained, scores=Scores(**state["scores"]), clean_means=means, visible=state["visible"])
        scores, of_clean = (evaluate(model, case.test, case.task, trained.doors, case.run)
                            for model in (trained.model, clean.model))
        found = replace(trained, scores=scores, clean_means=of_clean.means(),
                        visible=stealth(case.test, trained.doors, case.run) if trained.doors else {})
        if case.run.fabric.is_global_zero:
            save_state(file, {"scores": vars(scores), "clean_means": found.clean_means, "visible": found.visible})
    return found
