"""What an endpoint wants to be asked and how it answers, as a TOML file says it:

    url = "https://models.example.com/v1/classify"
    method = "POST"
    timeout = 30.0              # seconds that a request may take
    concurrency = 1             # requests at a time, 1 to 8
    rate = 5.0                  # most requests a second; left out: no limit
    retries = 5                 # most, after 429, 5xx, a time-out or a broken connection
    budget = 5000               # most requests in all, retries and earlier runs included
    failures = "stop"           # or "miss": an image that is never answered counts as answered wrongly
    ca = "company.pem"          # certificates that sign the endpoint's; left out: those of certifi

    [headers]                   # name of a header = NAME of the environment variable that has its value
    Authorization = "SUSPECT_AUTHORIZATION"

    [image]                     # one of these three
    field = "file"              # field of a multipart form
    base64 = "inputs.0.image"   # base64 at this place of a JSON body; prefix = "data:image/png;base64," if it is wanted
    raw = true                  # the body is the PNG
    body = { model = "v3" }     # what else is in the form or the JSON body

    [answer]                    # one of label and scores: a place in the JSON answer; "0" is the first of a list
    label = "result.label"
    scores = "result.scores"    # a list in the order of the classes, a table NAME = score, or a list of tables, with
    name = "label"              # the keys of the name
    score = "score"             # and of the score in each of these
    logits = false              # whether scores are logits instead of probabilities

    [classes]                   # the endpoint's name = ours, or its number; left out: the endpoint uses our names, or
    tabby = "cat"               # numbers. A name that is not here is none of our classes: a miss.

A place whose keys have dots is a list, as in `label = ["a.b", 0]`.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np

from sidedoor.bench.spec import read
from sidedoor.claims.suspects.log import check_probabilities
from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.method import Bounds, Count, Method, hints
from sidedoor.ownership.base import OTHER
from sidedoor.registry import convert

Place = tuple[str | int, ...]
"""A path into JSON."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HERE = ("localhost", "127.0.0.1", "::1")
_M = TypeVar("_M", bound=Method)


@dataclass(frozen=True)
class Sent(Method):
    """How an image is sent.

    Args:
        field: of a multipart form.
        base64: place of a JSON body.
        raw: whether the image is the body.
        prefix: text before the base64.
        body: further fields of the form, or the rest of the JSON body.
    """

    field: str | None = None
    base64: Place | None = None
    raw: bool = False
    prefix: str = ""
    body: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.field is not None) + (self.base64 is not None) + self.raw != 1:
            raise ConfigError("[image] says how an image is sent by one of `field`, `base64` and `raw = true`")
        if (self.raw and self.body) or (self.prefix and self.base64 is None):
            raise ConfigError("[image]: `body` goes with `field` or `base64`, and `prefix` with `base64`")
        if self.field and not all(isinstance(value, str) for value in (self.body or {}).values()):
            raise ConfigError("[image]: the values of `body` are text where the image is a field of a form")
        if self.base64 is not None:
            placed(self.body or {}, self.base64, "")

    def request(self, png: bytes) -> dict[str, Any]:
        """The body of a request, as the arguments of httpx."""
        if self.field is not None:
            return {"files": {self.field: ("image.png", png, "image/png")}, "data": self.body or {}}
        if self.base64 is None:
            return {"content": png, "headers": {"Content-Type": "image/png"}}
        return {"json": placed(self.body or {}, self.base64, self.prefix + base64.b64encode(png).decode())}


@dataclass(frozen=True)
class Said(Method):
    """Where the answer is.

    Args:
        label: place of the name of the class.
        scores: place of the scores.
        name, score: keys of these, where scores are a list of tables.
        logits: whether scores are logits.
    """

    label: Place | None = None
    scores: Place | None = None
    name: str | None = None
    score: str | None = None
    logits: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.label is None) == (self.scores is None):
            raise ConfigError("[answer] says where the answer is by one of `label` and `scores`")
        if (self.name is None) != (self.score is None) or (self.scores is None and (self.name or self.logits)):
            raise ConfigError("[answer]: `name` and `score` go together, and they and `logits` with `scores`")


@dataclass(frozen=True)
class Endpoint(Method):
    """An endpoint; see the module.

    Args:
        names: our classes.
        table: the endpoint's name of a class -> ours; None: it uses our names, or numbers.
        headers: name -> the name of an environment variable.
        ca: a file of certificates.
    """

    url: str
    sent: Sent
    said: Said
    names: tuple[str, ...]
    table: dict[str, int] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    method: Literal["POST", "PUT"] = "POST"
    timeout: Annotated[float, Bounds(0.001, 3600.0)] = 30.0
    concurrency: Annotated[int, Bounds(1, 8)] = 1
    rate: Annotated[float, Bounds(0.001, 1e6)] | None = None
    retries: Annotated[int, Bounds(0, 100)] = 5
    budget: Count = 5000
    failures: Literal["stop", "miss"] = "stop"
    ca: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_url(self.url, bool(self.headers))

    @property
    def address(self) -> str:
        """The URL without its query, in which there may be a key."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"

    def facts(self) -> dict[str, Any]:
        """What tells it from other endpoints; values that may be secret only in a hash."""
        same = {"url": self.url, "method": self.method, "image": vars(self.sent), "answer": vars(self.said),
                "classes": self.table}
        return {"kind": "http", "url": self.address, "tells": "labels" if self.said.label else "probabilities",
                "headers": [name for name, _ in self.headers],
                "request_sha256": hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()}

    def understood(self, answer: Any) -> tuple[int, tuple[float, ...] | None, str]:
        """The label, the probabilities if it tells them, and the name that it gave.

        Raises:
            ValueError: the answer is not where it should be, or is none.
        """
        if self.said.label is not None:
            name = found(answer, self.said.label)
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError(f"the label is {_short(name)}; expected text or an integer")
            return self._class(name), None, _short(name)
        pairs = list(self._pairs(found(answer, self.said.scores or ())))
        scores = _softmax([score for _, score in pairs]) if self.said.logits else [score for _, score in pairs]
        check_probabilities(scores, len(pairs))
        return self._most_probable([name for name, _ in pairs], scores)

    def nothing(self) -> tuple[float, ...] | None:
        """The probabilities of an answer that names no class."""
        return None if self.said.scores is None else (0.0,) * len(self.names)

    def _most_probable(self, given: Sequence[str | int], scores: Sequence[float]) \
            -> tuple[int, tuple[float, ...], str]:
        ours, others = [0.0] * len(self.names), 0.0
        for name, score in zip(given, scores, strict=True):
            label = self._class(name)
            if label == OTHER:
                others = max(others, score)
            else:
                ours[label] += score
        label = OTHER if others > max(ours) or not any(ours) else ours.index(max(ours))
        return label, tuple(min(score, 1.0) for score in ours), _short(given[int(np.argmax(scores))])

    def _pairs(self, scores: Any) -> Iterator[tuple[str | int, float]]:
        """Each name with its score."""
        if isinstance(scores, dict) and self.said.name is None:
            pairs: list[tuple[Any, Any]] = list(scores.items())
        elif isinstance(scores, list) and self.said.name is not None:
            pairs = [(found(item, (self.said.name,)), found(item, (str(self.said.score),))) for item in scores]
        elif isinstance(scores, list):
            pairs = list(enumerate(scores))
            if self.table is None and len(pairs) != len(self.names):
                raise ValueError(f"{len(pairs):,} scores; expected one for each of {len(self.names)} classes")
        else:
            raise ValueError(f"scores are {_short(scores)}; expected a list or a table")
        if not pairs:
            raise ValueError("there are no scores")
        for name, score in pairs:
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ValueError(f"the name {_short(name)}; expected text or an integer")
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(f"the score {_short(score)}; expected a number")
            yield name, float(score)

    def _class(self, name: str | int) -> int:
        if self.table is not None:
            return self.table.get(str(name), OTHER)
        if isinstance(name, int):
            return name if 0 <= name < len(self.names) else OTHER
        return self.names.index(name) if name in self.names else OTHER


def read_endpoint(path: Path, names: Sequence[str]) -> Endpoint:
    """An endpoint from its file.

    Args:
        names: of our classes.

    Raises:
        ConfigError: it cannot be read, or cannot mean anything.
    """
    table = read(path)
    try:
        parts = {key: _table(table, key) for key in ("image", "answer", "headers", "classes")}
        sent = _made(Sent, {**parts["image"], "base64": _place(parts["image"], "base64")}, " of [image]")
        said = _made(Said, {**parts["answer"], "label": _place(parts["answer"], "label"),
                            "scores": _place(parts["answer"], "scores")}, " of [answer]")
        given = {"sent": sent, "said": said, "names": tuple(names), "headers": _headers(parts["headers"]),
                 "table": _classes(parts["classes"], names) or None}
        own = {key: value for key, value in table.items() if key not in parts}
        if inner := own.keys() & given.keys():
            raise unknown("key", min(inner), _keys(Endpoint) - given.keys())
        if "url" not in own:
            raise ConfigError('no url given; expected url = "https://..."')
        if isinstance(own.get("ca"), str):
            own["ca"] = str(path.parent / own["ca"])
        return _made(Endpoint, {**own, **given}, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def values_of(headers: Sequence[tuple[str, str]], environment: Mapping[str, str]) -> dict[str, str]:
    """The headers with their values.

    Raises:
        CannotComplete: a variable is not set, or what it has cannot be a header.
    """
    values = {}
    for header, variable in headers:
        value = environment.get(variable, "")
        if not value:
            raise CannotComplete(f"the environment variable {variable} is not set; it holds the value of the header "
                                 f"{header}")
        if not (value.isascii() and value.isprintable()):
            raise CannotComplete(f"the environment variable {variable} holds what no header may have, such as the end "
                                 "of a line")
        values[header] = value
    return values


def placed(body: Any, place: Place, value: Any) -> Any:
    """JSON with a value at a place; tables and lists on the way to it are made.

    Raises:
        ConfigError: something else is on the way.
    """
    if not place:
        return value
    step, rest = place[0], place[1:]
    if isinstance(step, int):
        inner = [] if body is None else copy.copy(body)
        if not isinstance(inner, list) or step > len(inner):
            raise ConfigError(f"[image] base64: the place {step} of {_short(body)} given; expected a list that is so "
                              "long at least")
        inner[step : step + 1] = [placed(inner[step] if step < len(inner) else None, rest, value)]
        return inner
    inner = {} if body is None else body
    if not isinstance(inner, dict):
        raise ConfigError(f"[image] base64: the key {step!r} of {_short(body)} given; expected a table")
    return {**inner, step: placed(inner.get(step), rest, value)}


def found(answer: Any, place: Place) -> Any:
    """What is at a place of JSON.

    Raises:
        ValueError: nothing is.
    """
    for step in place:
        if isinstance(answer, dict) and str(step) in answer:
            answer = answer[str(step)]
        elif isinstance(answer, list) and isinstance(step, int) and step < len(answer):
            answer = answer[step]
        else:
            raise ValueError(f"there is no {'.'.join(map(str, place))}: {step!r} is not in {_short(answer)}")
    return answer


def _softmax(logits: Sequence[float]) -> list[float]:
    raised = np.exp(np.array(logits) - max(logits))
    return [float(value) for value in raised / raised.sum()]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _keys(cls: type[Method]) -> set[str]:
    return {field.name for field in fields(cls)}


def _made(cls: type[_M], values: Mapping[str, Any], where: str) -> _M:
    """A dataclass of these values; those that are None are left out."""
    if wrong := values.keys() - _keys(cls):
        raise unknown(f"key{where}", min(wrong), _keys(cls))
    subject: Any = cls
    made: _M = subject(**{key: convert(hints(subject)[key], value, key) for key, value in values.items()
                          if value is not None})
    return made


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {value!r} given; expected a table, [{key}]")
    return value


def _place(table: Mapping[str, Any], key: str) -> Place | None:
    given = table.get(key)
    if given is None:
        return None
    steps = given.split(".") if isinstance(given, str) else given
    if not isinstance(steps, list) or not steps:
        raise ConfigError(f'{key} = {given!r} given; expected a place such as "result.0.label" or ["result", 0]')
    place = tuple(int(step) if isinstance(step, str) and re.fullmatch(r"[0-9]{1,6}", step) else step for step in steps)
    for step in place:
        if isinstance(step, bool) or not isinstance(step, str | int) or step == "" or str(step).startswith("-"):
            raise ConfigError(f"{key} = {given!r} given; {step!r} is neither a key nor a number from 0")
    return place


def _headers(table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for header, variable in table.items():
        if not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise ConfigError(f"[headers]: {header!r} is no name of a header")
        if not isinstance(variable, str) or not _NAME.fullmatch(variable):  # it may be a key: do not repeat it
            raise ConfigError(f"[headers]: {header} is not given by the name of an environment variable; expected "
                              f'one such as {header} = "SUSPECT_KEY", whose value is the header\'s')
    return tuple(table.items())


def _classes(table: Mapping[str, Any], names: Sequence[str]) -> dict[str, int]:
    labels = {}
    for theirs, ours in table.items():
        if isinstance(ours, str) and ours in names:
            labels[theirs] = list(names).index(ours)
        elif isinstance(ours, int) and not isinstance(ours, bool) and 0 <= ours < len(names):
            labels[theirs] = ours
        elif isinstance(ours, str):
            raise unknown(f"class of {theirs!r} in [classes]", ours, names)
        else:
            raise ConfigError(f"[classes]: {theirs} = {ours!r} given; expected the name of a class, or 0 to "
                              f"{len(names) - 1}")
    return labels


def _check_url(url: str, headers: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"the url is none: {error}") from error
    if parts.username is not None or parts.password is not None:  # do not repeat it
        raise ConfigError("the url has a user or a password; put them into a header, under [headers]")
    if parts.scheme not in ("https", "http") or not host or parts.fragment or not url.isascii() or " " in url:
        raise ConfigError(f"url = {url!r} given; expected https://HOST/PATH")
    if parts.scheme == "http" and headers and host not in _HERE:
        raise ConfigError(f"url = http://{parts.netloc}... would send the headers unencrypted; expected https")
