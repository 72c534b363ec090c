"""Test whether a suspect was trained on a watermarked release, and keep evidence that others can check.

The evidence is a folder: the secret, every question and answer, the verdict, receipts that date the commitment, a page,
and the hashes of all of them. `replay` tests the kept answers again and asks nobody.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from sidedoor import registry
from sidedoor.claims.evidence import LOG, SECRET, VERDICT, check_sums, keep, receipts_of
from sidedoor.claims.result import Tested, Verified
from sidedoor.claims.secret import Claim, load
from sidedoor.claims.suspects import open_suspect
from sidedoor.claims.suspects.base import Known, Opened
from sidedoor.claims.suspects.log import Log, Logged, hashes_of
from sidedoor.core.files import locked, read_json
from sidedoor.core.progress import Progress, Silent
from sidedoor.engine import Run, fabric
from sidedoor.errors import CannotComplete, ConfigError, NotApplicable
from sidedoor.ownership.base import Answers, Suspect, Verifier, pixels, stamped
from sidedoor.ownership.decoys import Decoys
from sidedoor.ownership.keys_sequential import KeysSequential
from sidedoor.tasks.classification import Classification
from sidedoor.vetting.described import environment

OBJECT = 256
"""Images of a call to a suspect that is an object."""


def verify(secret: str | Path, commitment: str, suspect: str | Suspect, out: str | Path, *,
           architecture: str | None = None, normalization: str = "auto", receipts: str | Path | None = None,
           device: str = "auto", variables: Mapping[str, str] | None = None, progress: Progress | None = None) \
        -> Verified:
    """Test a suspect by the plan of a secret; resumes where an earlier run stopped.

    Args:
        secret: the owner's file.
        commitment: that was published before the release, in hexadecimal.
        suspect: "model:FILE" or another `KIND:WHERE`, or an object with a method `answer`.
        out: the folder of the evidence, which holds the secret, too.
        architecture: a registered network, for a file of weights; None to look for one that fits.
        normalization: of a file's inputs; "auto" to look for it.
        receipts: a folder of files that date the commitment; they are copied.
        variables: such as `os.environ`, which the configuration of an endpoint may name.

    Raises:
        ConfigError: the secret does not meet the commitment, was changed, or the folder has other evidence.
        CannotComplete: the suspect cannot be opened, or not all questions were answered; run it again to go on.
    """
    claim, folder = load(Path(secret), commitment), Path(out)
    run = Run(fabric(device), seed=claim.plan.order, progress=progress or Silent())
    kept = receipts_of(receipts)
    if folder.exists() and not (folder.is_dir() and ((folder / LOG).exists() or not any(folder.iterdir()))):
        raise ConfigError(f"{folder} exists and is no folder of evidence; give another")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", seconds=0):
        log = Log(folder / LOG, len(claim.images.classes))
        opened = _opened(suspect, Known(claim.images, run, architecture, normalization, log,
                                         variables or {}))
        log.begin({**opened.facts, "commitment": claim.commitment})
        asked = Logged(opened.suspect, log, opened.at_once)
        if not isinstance(claim.plan.test, KeysSequential):
            ask(asked, claim)
        found = judged(claim, asked, log, opened.facts, run)
        found = replace(found, receipts={name: hashlib.sha256(content).hexdigest() for name, content in kept.items()})
        keep(found, Path(secret), kept, folder)
    return found


def replay(out: str | Path, device: str = "cpu") -> Verified:
    """Test the answers of an evidence folder again, and ask nobody.

    Raises:
        CannotComplete: a file is missing.
        ConfigError: a file was changed, the secret does not meet the commitment, or the verdict is another.
    """
    folder = Path(out)
    check_sums(folder)
    try:
        told = read_json(folder / VERDICT)
    except OSError as error:
        raise CannotComplete(f"{folder} has no verdict that can be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{folder / VERDICT} is no verdict: {error}") from error
    claim = load(folder / SECRET, str(told.get("commitment")))
    log = Log(folder / LOG, len(claim.images.classes))
    log.begin({**told["suspect"], "commitment": claim.commitment})
    run = Run(fabric(device), seed=claim.plan.order)
    found = replace(judged(claim, Recalled(log), log, told["suspect"], run), time=told["time"],
                    environment=told["environment"], receipts=told["receipts"])
    again = found.to_json()
    if changed := sorted(name for name in {*again, *told} if not _same(again.get(name), told.get(name))):
        raise ConfigError(f"the answers in {folder} lead to another result than its verdict says: {', '.join(changed)}")
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether JSON values are equal but for what another processor rounds otherwise."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-300)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@dataclass(frozen=True)
class Recalled:
    """A suspect that is not asked: what it said is read from the log."""

    log: Log

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """What it has said."""
        return self.log.recall(hashes_of(images))


def questions(claim: Claim) -> UInt8[np.ndarray, "n h w c"]:
    """All images of a plan in a random order: as they are, with each trigger, and with each decoy that is needed."""
    decoys = claim.secret.decoys if isinstance(claim.plan.test, Decoys) else ()
    shown = [pixels(claim.images), *(stamped(trigger, claim.images) for trigger in (*claim.secret.triggers, *decoys))]
    every = np.concatenate(shown)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(claim.plan.order))
    mixed: UInt8[np.ndarray, "n h w c"] = every[order.numpy()]
    return mixed


def ask(suspect: Logged, claim: Claim) -> None:
    """Have all questions answered, in an order that tells the suspect nothing."""
    suspect.answer(questions(claim))


def _opened(suspect: str | Suspect, known: Known) -> Opened:
    if isinstance(suspect, str):
        return open_suspect(suspect, known)
    return Opened(suspect, {"kind": "object", "type": type(suspect).__name__}, OBJECT)


def judged(claim: Claim, asked: Logged | Recalled, log: Log, facts: dict[str, Any], run: Run) -> Verified:
    """All tests of the plan; the one that decides first."""
    source: Suspect = asked if isinstance(claim.plan.test, KeysSequential) else Recalled(log)
    tests = [_tested(claim, claim.plan.test, source, run, True)]
    tests += [_tested(claim, each, Recalled(log), run, False) for each in claim.plan.beside]
    contradicted, twice = log.contradictions()
    return Verified(facts, tuple(tests), str(claim.watermark.get("name")), claim.commitment, {}, log.queries,
                    contradicted, twice, len(claim.images.classes), len(claim.secret.labels),
                    datetime.now(UTC).isoformat(timespec="seconds"), environment(run))


def _tested(claim: Claim, test: Verifier, suspect: Suspect, run: Run, decides: bool) -> Tested:
    """A test with no more than it declares; only the one that decides has to apply."""
    images, task = test.needs.clean_for(claim.images), Classification(len(claim.images.classes))
    name = registry.name_of(test)
    try:
        verdict = test.verify(suspect, claim.secret, images, task, run.within(f"{name}/"))
    except NotApplicable as error:
        if decides:
            raise
        return Tested(name, False, test.exact, None, str(error))
    power = claim.plan.power if decides else None
    return Tested(name, decides, test.exact, replace(verdict, method=name, power=power))
