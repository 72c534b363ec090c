"""Which audits a scan makes of a model and of the clean models that it is compared with, and what they say, kept.

Whatever is measured is kept by what it depends on, so that a scan that was interrupted goes on where it stopped, and
models of the same kind share their references.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sidedoor import registry
from sidedoor.bench.versions import identity
from sidedoor.core.checkpoint import load_state, save_state
from sidedoor.data.base import Dataset
from sidedoor.defenses.audits.base import ModelAudit
from sidedoor.engine import Run
from sidedoor.errors import CannotComplete, NotApplicable
from sidedoor.evidence import Exhibit, Finding, from_json, to_json
from sidedoor.tasks.task import Task

VERSION = 1
"""Of the battery: raised when a change of its audits or of what they are given changes scores."""
Role = Literal["required", "further", "note"]


@dataclass(frozen=True)
class Step:
    """An audit of the battery.

    Args:
        audits: the same one with one or several settings. Of several, that one counts whose median over all models,
            the suspect among them, is nearest `aim`: a bound that suits the data separates, others say the same of all.
        role: without what is "required" there is no verdict; a "note" is shown and decides nothing.
        passes: images that each setting shows the network for each class, with a gradient, at most.
    """

    name: str
    audits: tuple[dict[str, Any], ...]
    role: Role = "further"
    passes: int = 0
    aim: float = 0.3


def _inverted(epochs: int, samples: int, name: str = "neural_cleanse") -> dict[str, Any]:
    return {"name": name, "epochs": epochs, "samples": samples, "batch": 32, "margin": 1.25}


_SHORTCUT = Step("shortcut", tuple({"name": "shortcut", "eps": eps} for eps in (8 / 255, 16 / 255, 0.15)),
                 "required", 40 * 32)
_MARGINS = Step("mm_bd", ({"name": "mm_bd", "starts": 5, "steps": 80},), "required", 5 * 80)
_HEAD = Step("head_norms", ({"name": "head_norms"},), "note")
_STANDARD = (_HEAD, _MARGINS, _SHORTCUT, Step("neural_cleanse", (_inverted(80, 96),), "required", 80 * 96))
_DEEPER = (
    Step("k_arm", ({"name": "k_arm", "rounds": 800, "samples": 96},), "required", 80 * 96),
    Step("pixel_inversion", (_inverted(80, 96, "pixel_inversion"),), "further", 80 * 96),
    Step("abs", ({"name": "abs"},), "further", 40 * 200),
    Step("umd", ({"name": "umd"},), "required", 9 * 30 * 16),
    Step("bti_dbf", ({"name": "bti_dbf"},), "required", 2 * 550 * 32 // 10),
    Step("feature_re", ({"name": "feature_re"},), "required", 4 * 120 * 16),
    Step("mesa", ({"name": "mesa"},), "further", 3 * 60 * 12),
    # Measured: it does not tell small networks apart, so it only may show what it sees.
    Step("free_eagle", ({"name": "free_eagle"},), "note", 4 * 1000),
)
"""Passes are of ten classes, twice as many where a generator is trained beside the network. Audits that learn from a
pool of backdoored models are left out: a scan has none.
"""
PROFILES: dict[str, tuple[Step, ...]] = {
    "quick": (_HEAD, _MARGINS, _SHORTCUT, Step("neural_cleanse", (_inverted(30, 96),), "required", 30 * 96)),
    "standard": _STANDARD,
    "deep": (*_STANDARD, *_DEEPER),
}
"""Dense and sparse searches in each: either is blind where the other sees. Deep ones also look in the space of features
and for pairs of classes; who asks for that gets no verdict without it."""


@dataclass(frozen=True)
class Told:
    """What an audit told of a model, or why it told nothing.

    Args:
        arrays: of the finding's exhibits, by name.
    """

    finding: Finding | None
    arrays: dict[str, Tensor]
    seconds: float
    reason: str = ""


class Notebook:
    """What audits told of models, kept in a folder.

    Args:
        images: the clean images that all models are audited with.
        seed: of the audits.
    """

    def __init__(self, folder: Path, images: Dataset, task: Task, run: Run):
        self.folder, self.images, self.task, self.run = folder, images, task, run
        self._fingerprint = images.fingerprint()

    def knows(self, reference: dict[str, Any], model: str) -> bool:
        """Whether this was measured before."""
        return self._file(reference, model).exists()

    def told(self, reference: dict[str, Any], model: str, network: Callable[[], nn.Module]) -> Told:
        """What an audit says of a model.

        Args:
            model: identifies it.
            network: gives it, where it is needed.
        """
        file = self._file(reference, model)
        if file.exists():
            return _read(file)
        audit: ModelAudit = registry.make("defense", reference)
        start = time.monotonic()
        try:
            needs = audit.needs
            own = self.run.within(f"{registry.name_of(audit)}")
            finding = audit.inspect(needs.model_for(network(), self.task), needs.clean_for(self.images), self.task, own)
            told = Told(replace(finding, method=registry.name_of(audit)), _arrays(finding), time.monotonic() - start)
        except NotApplicable as refusal:
            told = Told(None, {}, time.monotonic() - start, str(refusal))
        _write(file, told)
        return told

    def _file(self, reference: dict[str, Any], model: str) -> Path:
        audit = registry.make("defense", reference)
        key = [VERSION, *identity(audit), model, self.run.seed, self._fingerprint]
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{reference['name']}-{name}.safetensors"


def _arrays(finding: Finding) -> dict[str, Tensor]:
    return {exhibit.name: torch.as_tensor(exhibit.values).detach().cpu() for exhibit in finding.exhibits}


def _write(file: Path, told: Told) -> None:
    finding = told.finding and to_json(replace(told.finding, exhibits=tuple(
        replace(exhibit, values=None) for exhibit in told.finding.exhibits)))
    save_state(file, {"finding": finding, "arrays": told.arrays, "seconds": told.seconds, "reason": told.reason})


def _read(file: Path) -> Told:
    state = load_state(file, "finding", "arrays", "seconds", "reason")
    finding = state["finding"] and from_json(state["finding"])
    if finding is not None and not isinstance(finding, Finding):
        raise CannotComplete(f"{file} holds another thing than a finding; delete it to audit the model again")
    return Told(finding, state["arrays"], state["seconds"], state["reason"])


def exhibits(told: Told) -> tuple[Exhibit, ...]:
    """The exhibits of a finding with their values."""
    return tuple(replace(exhibit, values=told.arrays[exhibit.name]) for exhibit in told.finding.exhibits) \
        if told.finding else ()
