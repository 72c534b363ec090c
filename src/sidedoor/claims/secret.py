"""What an owner keeps of a watermarked release, as one file, and the commitment to it that is published.

The file is canonical JSON (sorted names, no spaces, ASCII), so that the commitment is its SHA-256, as `sha256sum` has
it. 32 random bytes keep anybody from guessing what is committed to. The file holds all that a test needs: triggers,
labels, decoys, the images that a suspect is asked about, and the plan of the test. Whoever changes any of them later
no longer meets the commitment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sidedoor import registry
from sidedoor.backdoor.secret import Secret
from sidedoor.core.files import read_json, replacing
from sidedoor.data.base import ArrayDataset
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import Verifier
from sidedoor.triggers.base import Trigger
from sidedoor.triggers.patch import Patch

FORMAT = 1
"""Of the file."""
LARGEST = 2**26
"""Bytes of a file that can be read again."""


@dataclass(frozen=True)
class Plan:
    """How a suspect will be tested, decided before the release.

    Args:
        test: whose verdict counts.
        beside: tests whose results are shown and decide nothing.
        order: seed of the order of the questions, and of what tests draw.
        power: the probability that a model trained on all of the release is found out, by the owner's trial; None
            where there was none, or where it cannot be said.
    """

    test: Verifier
    beside: tuple[Verifier, ...]
    order: int
    power: float | None


@dataclass(frozen=True)
class Claim:
    """All that an owner keeps.

    Args:
        nonce: 32 random bytes.
        watermark: the attack that planted it, as a reference of the registry.
        secret: its triggers and labels.
        images: labelled, that a suspect is asked about; drawn at random and kept out of the release.
        rows: of the release that are marked, in its order.
        release: hash of the released images and labels.
    """

    nonce: bytes
    watermark: dict[str, Any]
    secret: Secret
    images: ArrayDataset
    plan: Plan
    rows: tuple[int, ...]
    release: str
    tool: str = ""

    def content(self) -> bytes:
        """The file."""
        plan = {"test": registry.plain(self.plan.test), "beside": [registry.plain(each) for each in self.plan.beside],
                "order": self.plan.order, "power": self.plan.power}
        secret = {"triggers": [_patch(trigger) for trigger in self.secret.triggers],
                  "labels": list(self.secret.labels), "decoys": [_patch(decoy) for decoy in self.secret.decoys]}
        images = {"classes": list(self.images.classes), "labels": self.images.targets.tolist(),
                  "pixels": _array(self.images.rows(torch.arange(len(self.images))))}
        tool = self.tool or f"sidedoor {importlib.metadata.version('sidedoor')}"
        return canonical({"sidedoor_secret": FORMAT, "tool": tool, "nonce": self.nonce.hex(), "plan": plan,
                          "watermark": self.watermark, "secret": secret, "images": images, "rows": list(self.rows),
                          "release": self.release})

    @property
    def commitment(self) -> str:
        """What is published before the release: the SHA-256 of the file, in hexadecimal."""
        return hashlib.sha256(self.content()).hexdigest()


def canonical(value: Any) -> bytes:
    """The one form of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def save(claim: Claim, path: Path) -> None:
    """Write the file so that only its owner may read it.

    Raises:
        ConfigError: there is one already, which may be the secret of another release, or the images are too large.
        CannotComplete: it cannot be written.
    """
    if path.exists():
        raise ConfigError(f"{path} exists and may be the secret of another release; give another file")
    content = claim.content()
    if len(content) > LARGEST:
        raise ConfigError(f"a secret of {len(content):,} bytes, most of them {len(claim.images)} images, given; "
                          f"expected at most {LARGEST:,}: ask about fewer images, or release smaller ones")
    with replacing(path) as temporary, \
            open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def load(path: Path, commitment: str) -> Claim:
    """The claim in a file.

    Args:
        commitment: that was published.

    Raises:
        CannotComplete: it cannot be read.
        ConfigError: it is no such file, or not the one that the commitment is for.
    """
    try:
        table = read_json(path)
    except OSError as error:
        raise CannotComplete(f"the secret {path} cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no secret of a release: {error}") from error
    found, given = hashlib.sha256(canonical(table)).hexdigest(), commitment.strip().lower()
    if found != given:
        raise ConfigError(f"the commitment {given or '(none)'} given, but that of {path} is {found}: the secret or its "
                          "plan was changed after the commitment, or the commitment is for another secret. Nothing "
                          "was asked")
    try:
        return _claim(table)
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise ConfigError(f"{path} is no secret of a release that this version reads: {error}") from error


def _claim(table: dict[str, Any]) -> Claim:
    if table["sidedoor_secret"] != FORMAT:
        raise ConfigError(f"a secret of format {table['sidedoor_secret']} given; this version reads format {FORMAT}")
    plan, secret, images = table["plan"], table["secret"], table["images"]
    held = ArrayDataset(_tensor(images["pixels"]), images["labels"], tuple(images["classes"]), "images of the secret")
    triggers, decoys = (tuple(_trigger(each) for each in secret[name]) for name in ("triggers", "decoys"))
    labels = tuple(secret["labels"])
    if not all(type(label) is int and 0 <= label < len(held.classes) for label in labels):
        raise ConfigError(f"secret labels {labels} given; expected classes from 0 to {len(held.classes) - 1}")
    made = Plan(registry.make("verifier", plan["test"]), tuple(registry.make("verifier", t) for t in plan["beside"]),
                plan["order"], plan["power"])
    return Claim(bytes.fromhex(table["nonce"]), table["watermark"], Secret(triggers, labels, decoys), held, made,
                 tuple(table["rows"]), table["release"], table["tool"])


def _patch(trigger: Trigger) -> dict[str, Any]:
    if not isinstance(trigger, Patch) or trigger.place is None or trigger.opacity != 1:
        raise ConfigError(f"a watermark by {type(trigger).__name__} given; only opaque patches at a place can be kept "
                          "in a secret")
    return {"pixels": _array((trigger.pattern * 255).round().to(torch.uint8)), "place": list(trigger.place)}


def _trigger(table: dict[str, Any]) -> Patch:
    top, left = table["place"]
    return Patch(_tensor(table["pixels"]).float() / 255, place=(int(top), int(left)))


def _array(pixels: Tensor) -> dict[str, Any]:
    data = np.ascontiguousarray(pixels.cpu().numpy())
    return {"shape": list(data.shape), "base64": base64.b64encode(data.tobytes()).decode("ascii")}


def _tensor(table: dict[str, Any]) -> Tensor:
    raw = base64.b64decode(table["base64"], validate=True)
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8).reshape(table["shape"]).copy())
