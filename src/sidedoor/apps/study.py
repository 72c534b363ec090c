"""Human inspection: can people tell stamped images from their originals?

Paper: Zhang, Chen, Huang, Liao, Zhang, Feng, Hua, Yu, "Poison Ink: Robust and Invisible Backdoor Attack", IEEE TIP
2022, arXiv:2108.02488, section V-B: one pair per question, which of the two is the original; the fooling rate is the
share of answers that name the stamped one, and 50 % is guessing.

A page of forms without scripts, served from this machine. Each participant sees all pairs, in an order and on sides
of their own; answers are written at once, so that a participant can go on after an interruption.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import random
import re
import secrets
import threading
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from sidedoor.bench.schema import fit
from sidedoor.core import opening
from sidedoor.core.files import parsed, write_text
from sidedoor.core.templates import template
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.metrics.statistics import wilson

_template = functools.cache(template)
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
        ConfigError: no such folders, or images without an original.
    """
    originals = _images(folder / ORIGINAL)
    methods = sorted(d.name for d in folder.iterdir() if d.is_dir() and d.name != ORIGINAL) if folder.is_dir() else []
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
    return {f.name: f for f in folder.iterdir() if f.suffix.lower() in TYPES} if folder.is_dir() else {}


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

    def given(self, participant: str) -> set[int]:
        return {answer["question"] for answer in self.answers if answer["participant"] == participant}

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


def server(study: Study, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Serves the study; port 0 takes a free one.

    Raises:
        CannotComplete: the address is taken.
    """
    try:
        return http.server.ThreadingHTTPServer((host, port), functools.partial(_Handler, study))
    except OSError as error:
        raise CannotComplete(f"cannot serve on {host}:{port}: {error}; give another --port") from error


class _Handler(http.server.BaseHTTPRequestHandler):
    """`/` starts, `/PARTICIPANT` asks and takes answers, `/PARTICIPANT/NUMBER/SIDE` is an image."""

    server_version = "sidedoor"
    sys_version = ""

    def __init__(self, study: Study, *arguments: Any):
        self.study = study
        super().__init__(*arguments)

    def do_GET(self) -> None:
        participant, *rest = self._path()
        if participant == "" and not rest:
            self._to(f"/{secrets.token_hex(4)}")
        elif not re.fullmatch("[0-9a-f]{8}", participant):
            self.send_error(404)
        elif not rest:
            self._page(participant)
        else:
            self._image(participant, rest)

    def do_POST(self) -> None:
        participant, *rest = self._path()
        length = self.headers.get("Content-Length", "")
        body = self.rfile.read(int(length)).decode("ascii", "replace") if length.isdigit() and int(length) < 200 else ""
        form = dict(urllib.parse.parse_qsl(body))
        number, side = form.get("question", ""), form.get("side")
        if rest or not re.fullmatch("[0-9a-f]{8}", participant) or not self._known(number) or side not in SIDES:
            self.send_error(400, "expected a question and a side")
            return
        self.study.answer(participant, int(number), str(side))
        self._to(f"/{participant}")

    def _path(self) -> list[str]:
        return urllib.parse.urlsplit(self.path).path.strip("/").split("/")

    def _known(self, number: str) -> bool:
        return number.isdecimal() and len(number) < 10 and int(number) < len(self.study.questions)

    def _page(self, participant: str) -> None:
        number, given = self.study.next(participant), len(self.study.given(participant))
        page = _template("sidedoor.apps", "study.html.jinja")
        text = page.render(participant=participant, number=number, sides=SIDES, given=given,
                           count=len(self.study.questions))
        self._send(text.encode(), "text/html; charset=utf-8")

    def _image(self, participant: str, rest: list[str]) -> None:
        if len(rest) != 2 or not self._known(rest[0]) or rest[1] not in SIDES:
            self.send_error(404)
            return
        file = self.study.image(participant, int(rest[0]), rest[1])
        try:
            self._send(file.read_bytes(), TYPES[file.suffix.lower()])
        except OSError:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _to(self, place: str) -> None:
        self.send_response(303)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""

