"""Human inspection: can people tell stamped images from their originals?

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-B: one pair per question, which of the two is the original; the fooling rate is the
share of answers that name the stamped one, and 50 % is guessing.

Each participant sees all pairs, in an order and on sides of their own; answers are written at once, so that a
participant can go on after an interruption.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from sidedoor.bench.schema import fit
from sidedoor.core import opening
from sidedoor.core.files import parsed, write_text
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics.statistics import wilson

ORIGINAL = "original"
"""The folder of the untouched images; every other one is named by its method."""
SIDES = ("left", "right")
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


_LIMIT = 2**30
"""Bytes of answers."""


class _Answer(TypedDict):
    participant: str
    question: int
    method: str
    name: str
    fooled: bool


@dataclass(frozen=True)
class Question:
    """A pair: files that differ in the stamp."""

    method: str
    original: Path
    stamped: Path


def questions(folder: Path) -> list[Question]:
    """The pairs of a folder: `original/NAME` and `METHOD/NAME`.

    Raises:
        ConfigError: no such folders, images without an original, links, or names that are not UTF-8.
    """
    originals = _images(folder / ORIGINAL)
    methods = sorted(d.name for d in _entries(folder) if d.is_dir() and d.name != ORIGINAL)
    found = []
    for method in methods:
        stamped = _images(folder / method)
        alone = sorted(stamped.keys() - originals.keys())
        if alone:
            raise ConfigError(f"{folder / method / alone[0]} has no original; expected {folder / ORIGINAL / alone[0]}")
        found += [Question(method, originals[name], stamped[name]) for name in sorted(stamped)]
    if not found:
        raise ConfigError(f"{folder} has no pairs; expected {folder / ORIGINAL}/NAME.png and "
                          f"{folder}/METHOD/NAME.png, as `sidedoor study pairs` writes them")
    return found


def _images(folder: Path) -> dict[str, Path]:
    return {f.name: f for f in _entries(folder) if f.suffix.lower() in TYPES}


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in found:
        if entry.is_symlink():
            raise ConfigError(f"{entry} is a link, which a study does not follow; copy what it points to")
        if not entry.name.isprintable():
            raise ConfigError(f"{entry!a} has a name that cannot be printed; rename it")
    return found


@dataclass
class Study:
    """Questions, and the answers that were given.

    Args:
        file: JSON lines, one per answer; read at the start and appended to.
        seed: of orders and sides.

    Raises:
        CannotComplete: the file has something else in it.
    """

    questions: Sequence[Question]
    file: Path
    seed: int = 0
    answers: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.answers = read(self.file)
        self._given: dict[str, set[int]] = {}
        for answer in self.answers:
            self._given.setdefault(answer["participant"], set()).add(answer["question"])
        _drop_cut_line(self.file)
        self.file.parent.mkdir(parents=True, exist_ok=True)

    def order(self, participant: str) -> list[int]:
        """The numbers of the questions in the order of a participant."""
        order = list(range(len(self.questions)))
        random.Random(f"{self.seed} {participant}").shuffle(order)
        return order

    def side(self, participant: str, number: int) -> str:
        """The side that the original is on."""
        return random.Random(f"{self.seed} {participant} {number}").choice(SIDES)

    def given(self, participant: str) -> frozenset[int]:
        """The numbers of the questions that a participant has answered."""
        return frozenset(self._given.get(participant, ()))

    def next(self, participant: str) -> int | None:
        """The number of the next question; None after the last."""
        given = self.given(participant)
        return next((number for number in self.order(participant) if number not in given), None)

    def image(self, participant: str, number: int, side: str) -> Path:
        question = self.questions[number]
        return question.original if side == self.side(participant, number) else question.stamped

    def answer(self, participant: str, number: int, side: str) -> None:
        """Keep which side was named as the original; a question answered already keeps its first answer."""
        with self.lock:
            if number in self.given(participant):
                return
            question = self.questions[number]
            fooled = side != self.side(participant, number)
            line = {"participant": participant, "question": number, "method": question.method,
                    "name": question.original.name, "fooled": fooled}
            with open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.answers.append(line)
            self._given.setdefault(participant, set()).add(number)


def read(file: Path) -> list[dict[str, Any]]:
    """The answers in a file; none where there is no file yet. A last line cut off by a crash is left out.

    Raises:
        CannotComplete: another line is no answer.
    """
    try:
        lines = opening.text(file, _LIMIT).split("\n") if file.exists() else []
    except OSError as error:
        raise CannotComplete(f"cannot read the answers in {file}: {error}; give another file") from error
    found = []
    for k, line in enumerate(lines[:-1] if lines and lines[-1] else lines):
        if not line:
            continue
        try:
            answer = parsed(line)
            fit("", answer, _Answer)
            found.append({name: answer[name] for name in _Answer.__annotations__})
        except ValueError as error:
            raise CannotComplete(f"line {k + 1} of {file} is no answer of a study: {error}; give another file") \
                from error
    return found


def _drop_cut_line(file: Path) -> None:
    """End a file with its last whole line, so that the next answer begins a line of its own."""
    content = opening.text(file, _LIMIT) if file.exists() else ""
    if content and not content.endswith("\n"):
        write_text(file, content[: content.rfind("\n") + 1])


def rates(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method the answers, the fooling rate, and its 95 % interval (Wilson)."""
    found = []
    for method in sorted({answer["method"] for answer in answers}):
        fooled = [answer["fooled"] for answer in answers if answer["method"] == method]
        low, high = wilson(sum(fooled), len(fooled))
        people = len({answer["participant"] for answer in answers if answer["method"] == method})
        found.append({"method": method, "answers": len(fooled), "participants": people,
                      "fooling_rate": sum(fooled) / len(fooled), "low": low, "high": high})
    return found
