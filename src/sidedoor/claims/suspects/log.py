"""What a suspect was asked and what it said: a file that only grows, a line an attempt, `queries.jsonl`.

A line is on the disk before the next request, so that a command that is killed pays for no answer twice. An image is
known by the SHA-256 of the PNG that was sent. Some images are asked about twice: a suspect that contradicts itself is
found out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sidedoor.claims.suspects import png
from sidedoor.core import opening
from sidedoor.core.files import parsed
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import OTHER, Answers, Suspect

REPEATED = 0.05
"""The share of the images that a suspect is asked about twice."""
_LIMIT = 2**28
"""Bytes of the largest log."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Line:
    """One attempt to have an image answered.

    Args:
        sha256: of the PNG.
        attempt: from 1, counted anew when the image is asked about again.
        status: of HTTP, or in words.
        label: the answer, a class or `OTHER`; None where the attempt brought none.
        probabilities: of each class, in [0, 1]; None where the suspect tells labels only.
        said: the name that it gave, or why an answer counts as none of the classes.
        time: in UTC, when the line was made.
    """

    sha256: str
    attempt: int = 1
    status: int | str = "answered"
    label: int | None = None
    probabilities: tuple[float, ...] | None = None
    said: str = ""
    time: str = dataclasses.field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


class Log:
    """All lines about one suspect, and answers by image. Threads may share one; processes must not.

    Args:
        path: of the file; None to keep nothing. A last line that a kill has cut short is left out, and overwritten by
            the next one.
        classes: that answers may name.

    Raises:
        CannotComplete: the file cannot be read.
        ConfigError: it is no such log, or one of other classes.
    """

    def __init__(self, path: Path | None, classes: int) -> None:
        self.classes = classes
        self.queries = 0
        """Attempts, those that brought no answer included."""
        self._path = path
        self._suspect: dict[str, Any] | None = None
        self._answers: dict[str, list[Line]] = defaultdict(list)
        self._lock = threading.Lock()
        content = b"" if path is None else _content(path)
        self._good = content.rfind(b"\n") + 1
        self._size = len(content)
        for number, line in enumerate(content[: self._good].splitlines(), 1):
            try:
                self._take(parsed(line.decode()))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"line {number} of {path} is no line of a log of queries: {error}") from error

    def begin(self, facts: dict[str, Any]) -> None:
        """Say whose answers these are, before the first one.

        Raises:
            ConfigError: the log is of another suspect.
        """
        if self._suspect is None and self.queries == 0:
            self._write({"suspect": facts})
            self._suspect = facts
        elif self._suspect != parsed(json.dumps(facts)):
            raise ConfigError(f"{self._path} has answers of another suspect, or of one that was asked in another way; "
                              "choose a new folder for the evidence")

    def add(self, *lines: Line) -> None:
        """Write lines to the disk, then count them.

        Raises:
            CannotComplete: they cannot be written.
        """
        with self._lock:
            self._write(*(_table(line) for line in lines))
            for line in lines:
                self._count(line)

    def answers(self, sha256: str) -> Sequence[Line]:
        """What was answered about an image, the first answer first."""
        return self._answers.get(sha256, ())

    def contradictions(self) -> tuple[int, int]:
        """Of the images that were answered twice, how many had two labels; and how many there are."""
        twice = [lines for lines in self._answers.values() if len(lines) > 1]
        return sum(lines[0].label != lines[1].label for lines in twice), len(twice)

    def recall(self, images: Sequence[str]) -> Answers:
        """The first answers about images, by their SHA-256.

        Raises:
            CannotComplete: one is not answered.
        """
        if missing := sum(not self.answers(image) for image in images):
            raise CannotComplete(f"{missing:,} of {len(images):,} images are not answered in {self._path}")
        first = [self.answers(image)[0] for image in images]
        labels = np.array([line.label for line in first], dtype=np.int64)
        rows = [line.probabilities for line in first if line.probabilities is not None]
        told = bool(rows) and len(rows) == len(first)
        return Answers(labels, np.array(rows, dtype=np.float32) if told else None)

    def _take(self, table: Any) -> None:
        if not isinstance(table, dict):
            raise ValueError("it is no table")
        if set(table) == {"suspect"} and isinstance(table["suspect"], dict) and self._suspect is None:
            self._suspect = table["suspect"]
            return
        values = dict(table)
        if isinstance(values.get("probabilities"), list):
            values["probabilities"] = tuple(values["probabilities"])
        line = Line(**values)
        _check(line, self.classes)
        self._count(line)

    def _count(self, line: Line) -> None:
        self.queries += 1
        if line.label is not None:
            self._answers[line.sha256].append(line)

    def _write(self, *tables: dict[str, Any]) -> None:
        if self._path is None:
            return
        text = "".join(json.dumps(table, allow_nan=False) + "\n" for table in tables).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            with open(self._path, "r+b", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != self._size:
                    raise CannotComplete(f"another process writes to {self._path}; wait until it has ended")
                file.truncate(self._good)  # a line that was cut short
                file.seek(self._good)
                self._size = self._good + _written(file, text)
                os.fsync(file.fileno())
        except OSError as error:
            raise CannotComplete(f"cannot write {self._path}: {error}") from error
        if self._size != self._good + len(text):
            raise CannotComplete(f"cannot write {self._path}: no room is left on the disk")
        self._good = self._size


def _written(file: io.FileIO, text: bytes) -> int:
    """How many bytes could be written; fewer than all where there is no room."""
    done = 0
    with contextlib.suppress(OSError):
        while done < len(text):
            done += file.write(text[done:]) or 0
    return done


def _content(path: Path) -> bytes:
    try:
        return opening.read(path, _LIMIT)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise CannotComplete(f"{path} cannot be read: {error}") from error


def _table(line: Line) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(line).items() if value not in (None, "")}


def _check(line: Line, classes: int) -> None:
    if not (isinstance(line.sha256, str) and _SHA256.fullmatch(line.sha256)):
        raise ValueError(f"the SHA-256 {line.sha256!r}")
    if not all(isinstance(text, str) for text in (line.said, line.time)):
        raise ValueError("what was said, or when, is no text")
    if not isinstance(line.attempt, int) or not isinstance(line.status, int | str):
        raise ValueError(f"attempt {line.attempt!r} with the status {line.status!r}")
    if line.label is not None and not (type(line.label) is int and OTHER <= line.label < classes):
        raise ValueError(f"the label {line.label!r}; expected {OTHER} to {classes - 1}")
    if line.probabilities is not None:
        check_probabilities(line.probabilities, classes)


def check_probabilities(values: Iterable[Any], classes: int) -> None:
    """Fail unless these are probabilities of so many classes; a suspect may keep a part to itself.

    Raises:
        ValueError: they are not.
    """
    given = list(values)
    if len(given) != classes:
        raise ValueError(f"{len(given):,} scores; expected one for each of {classes:,} classes")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1.001:
            raise ValueError(f"the score {value!r}; expected probabilities, from 0 to 1")
    if sum(given) > 1.01:
        raise ValueError(f"scores with a sum of {sum(given):.4g}; probabilities have 1")


@dataclass(frozen=True)
class Logged:
    """A suspect that is asked once, or twice of some images, and whose answers are read from the log.

    Args:
        at_once: most images of a call, after which its answers are on the disk; None: all.
        repeated: the share of the images of a question that is asked about twice: those with the lowest hashes.
    """

    suspect: Suspect
    log: Log
    at_once: int | None = None
    repeated: float = REPEATED

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """What it says, or has said."""
        hashes = hashes_of(images)
        todo = self._left(hashes)
        step = self.at_once or max(1, len(todo))
        for start in range(0, len(todo), step):
            chunk = todo[start : start + step]
            before = {hashes[i]: len(self.log.answers(hashes[i])) for i in chunk}
            self._keep([hashes[i] for i in chunk], self.suspect.answer(images[chunk]), before)
        return self.log.recall(hashes)

    def cost(self, images: UInt8[np.ndarray, "n h w c"]) -> int:
        """How many queries an answer would still take, without further attempts."""
        return len(self._left(hashes_of(images)))

    def _left(self, hashes: Sequence[str]) -> list[int]:
        """Places of the images to ask about, in their order; those to ask about again come last."""
        places = {image: place for place, image in reversed(list(enumerate(hashes)))}
        ordered = sorted(places.items(), key=lambda item: item[1])
        twice = set(sorted(places)[: round(self.repeated * len(places))])
        return ([place for image, place in ordered if not self.log.answers(image)]
                + [place for image, place in ordered if image in twice and len(self.log.answers(image)) < 2])

    def _keep(self, asked: Sequence[str], answers: Answers, before: dict[str, int]) -> None:
        """Write what the suspect has not written itself."""
        due = Counter(asked)
        own = {image for image in due if len(self.log.answers(image)) == before[image] + due[image]}
        rows = [None] * len(asked) if answers.probabilities is None else answers.probabilities.tolist()
        self.log.add(*(Line(image, label=int(label), probabilities=None if row is None else tuple(row))
                       for image, label, row in zip(asked, answers.labels, rows, strict=True) if image not in own))


def hashes_of(images: UInt8[np.ndarray, "n h w c"]) -> list[str]:
    """The SHA-256 of each image as PNG."""
    return [hashlib.sha256(png.encoded(image)).hexdigest() for image in images]
