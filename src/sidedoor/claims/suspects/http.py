"""An endpoint as a suspect, `http:CONFIG.toml`; `endpoint` says what is in the file. Needs the extra `sidedoor[http]`.

Images are sent as PNG. An image that the endpoint refuses (400, 413, 415, 422) and an answer that cannot be read count
as misses: to leave them out would let the suspect choose what it is judged by. Overload, faults of the server, late
answers and broken connections are tried again, after a time drawn from an interval that doubles ("full jitter"), or the
time that the endpoint asks for. Certificates are verified and redirects are not followed; proxies and passwords that
the environment names are not used.
"""

from __future__ import annotations

import hashlib
import random
import ssl
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from sidedoor.claims.suspects import png
from sidedoor.claims.suspects.base import Known, Opened
from sidedoor.claims.suspects.endpoint import Endpoint, read_endpoint, values_of
from sidedoor.claims.suspects.log import Line, Log
from sidedoor.core.files import parsed
from sidedoor.core.printable import visible
from sidedoor.core.progress import Progress, Silent
from sidedoor.errors import CannotComplete
from sidedoor.ownership.base import OTHER, Answers

if TYPE_CHECKING:
    import httpx

LARGEST = 2**20
"""Bytes of the largest answer that is read."""
REFUSED = (400, 413, 415, 422)
"""Statuses that are about the image."""
AGAIN = (408, 425, 429)
"""Statuses that another attempt may change, beside those from 500."""
OURS = (401, 405, 407)
"""Statuses that are about the request, never about the image, beside redirects."""
FIRST, LONGEST, PATIENCE = 1.0, 60.0, 300.0
"""Seconds: the first interval that a delay is drawn from, the longest one, and the longest wait that the endpoint may
ask for."""
_START = 10
"""So many answers that cannot be read at the start are the fault of the file."""


class Reply(NamedTuple):
    """What came back.

    Args:
        status: of HTTP; text where there was no answer.
        wait: seconds that the endpoint asks for before the next request.
    """

    status: int | str
    content: bytes = b""
    wait: float | None = None

    @property
    def again(self) -> bool:
        """Whether another attempt may help."""
        return isinstance(self.status, str) or self.status in AGAIN or self.status >= 500

    @property
    def misled(self) -> bool:
        """Whether the request went wrong whatever image was in it."""
        return isinstance(self.status, int) and (300 <= self.status < 400 or self.status in OURS)


def open_http(where: str, known: Known) -> Opened:
    """The endpoint of a file.

    Raises:
        ConfigError: the file cannot mean anything.
        CannotComplete: httpx, certificates or an environment variable are missing.
    """
    endpoint = read_endpoint(Path(where), known.images.classes)
    log = known.log or Log(None, len(known.images.classes))
    headers = values_of(endpoint.headers, known.variables)
    client(endpoint, headers).close()  # what is missing is missed now
    return Opened(HttpSuspect(endpoint, headers, log, progress=known.run.progress), endpoint.facts())


def client(endpoint: Endpoint, headers: dict[str, str]) -> httpx.Client:
    """What sends requests to an endpoint.

    Raises:
        CannotComplete: httpx is not installed, or the certificates cannot be read.
    """
    try:
        import httpx
    except ImportError as error:
        raise CannotComplete("a suspect behind HTTP needs httpx; pip install 'sidedoor[http]'") from error
    try:
        context = True if endpoint.ca is None else ssl.create_default_context(cafile=endpoint.ca)
    except OSError as error:
        raise CannotComplete(f"the certificates {endpoint.ca} cannot be read: {error}") from error
    asked = {"Accept": "application/json", "Accept-Encoding": "identity"}
    return httpx.Client(headers={**headers, **asked}, verify=context, timeout=endpoint.timeout, trust_env=False,
                        follow_redirects=False, limits=httpx.Limits(max_connections=endpoint.concurrency))


class _Stopped(Exception):
    """Another image has failed."""


@dataclass
class HttpSuspect:
    """An endpoint that is asked image by image, several at a time.

    Args:
        headers: with their values.
        wait: (event, seconds): waits so long, or until the event is set.
        clock: seconds since some moment.
    """

    endpoint: Endpoint
    headers: dict[str, str] = field(repr=False)
    log: Log
    wait: Callable[[threading.Event, float], object] = threading.Event.wait
    clock: Callable[[], float] = time.monotonic
    chance: random.Random = field(default_factory=random.Random)
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = self.log.queries
        self._free = self.clock()  # when the next request may begin
        self._unread = 0
        self._begun = self.log.queries > 0
        parts = {part for value in self.headers.values() for part in (value, *value.split()) if len(part) > 5}
        self._hidden = sorted(parts, key=len, reverse=True)

    def answer(self, images: UInt8[np.ndarray, "n h w c"]) -> Answers:
        """What it says. Each answer is in the log before the next request."""
        stop = threading.Event()
        with client(self.endpoint, self.headers) as http, futures.ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            asked = [pool.submit(self._one, http, image, stop) for image in images]
            try:
                with self.progress.task("queries", len(asked)) as advance:
                    for _ in futures.as_completed(asked):
                        advance()
            finally:
                stop.set()  # requests under way end, and what they bring is kept
        errors = [error for each in asked if (error := each.exception()) and not isinstance(error, _Stopped)]
        if errors:
            raise errors[0]
        lines = [each.result() for each in asked]
        labels = np.array([line.label for line in lines], dtype=np.int64)
        if self.endpoint.said.scores is None:
            return Answers(labels)
        told = np.array([line.probabilities for line in lines], dtype=np.float32)
        return Answers(labels, told.reshape(len(lines), len(self.endpoint.names)))

    def _one(self, http: httpx.Client, image: UInt8[np.ndarray, "h w c"], stop: threading.Event) -> Line:
        try:
            return self._ask(http, png.encoded(image), stop)
        except BaseException:
            stop.set()  # here, before this thread turns to another image
            raise

    def _ask(self, http: httpx.Client, picture: bytes, stop: threading.Event) -> Line:
        name = hashlib.sha256(picture).hexdigest()
        for attempt in count(1):
            self._take_turn(stop)
            reply = self._send(http, picture)
            last = not reply.again or attempt > self.endpoint.retries
            words, read = self._read(reply, last)
            line = Line(name, attempt, reply.status, *words)
            self._keep(line, read)
            if line.label is not None:
                return line
            if last:
                raise CannotComplete(self._failure(reply, attempt))
            self._back_off(reply, attempt, stop)
        raise AssertionError("attempts do not end by themselves")

    def _take_turn(self, stop: threading.Event) -> None:
        """Wait until a request may begin."""
        with self._lock:
            now = self.clock()
            start = max(now, self._free)
            self._free = start + (1 / self.endpoint.rate if self.endpoint.rate else 0)
        if start > now and not stop.is_set():
            self.wait(stop, start - now)
        with self._lock:
            if stop.is_set():
                raise _Stopped
            if self._spent >= self.endpoint.budget:
                raise CannotComplete(f"the budget of {self.endpoint.budget:,} queries is spent; raise `budget` in the "
                                     "file of the endpoint and run the command again to go on")
            self._spent += 1

    def _send(self, http: httpx.Client, picture: bytes) -> Reply:
        import httpx

        until = self.clock() + self.endpoint.timeout
        try:
            with http.stream(self.endpoint.method, self.endpoint.url,
                             **self.endpoint.sent.request(picture)) as response:
                content = self._body(response, until)
                return Reply(response.status_code, content, _seconds(response.headers.get("Retry-After")))
        except httpx.TimeoutException:
            return Reply(f"no answer within {self.endpoint.timeout:g} s")
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):  # nothing was sent
                raise CannotComplete(f"the certificate of {self.endpoint.address} is not to be trusted ({error}); if a "
                                     "company of your own signs it, name its certificates as `ca` in the file of the "
                                     "endpoint") from error
            return Reply(visible(f"no answer: {error}")[:200])

    def _body(self, response: httpx.Response, until: float) -> bytes:
        """What an answer holds, a little more than the largest if it is larger.

        Args:
            until: which moment; the time-out of the library is one of each piece, and a drip has no end.
        """
        import httpx

        content = b""
        for chunk in response.iter_raw():  # as it was sent: what is packed may have any size
            content += chunk
            if len(content) > LARGEST:
                break
            if self.clock() > until:
                raise httpx.ReadTimeout("the answer does not end")
        return content

    def _read(self, reply: Reply, last: bool) -> tuple[tuple[Any, ...], bool]:
        """Label, probabilities and words of a line, and whether the endpoint did answer.

        Args:
            last: whether there will be no further attempt.
        """
        miss = OTHER, self.endpoint.nothing()
        if isinstance(reply.status, int) and 200 <= reply.status < 300:
            try:
                return self.endpoint.understood(_json(reply.content)), True
            except ValueError as error:
                return (*miss, self._shown(f"unreadable: {error}")), False
        if reply.status in REFUSED:
            return (*miss, self._shown(f"refused: {_text(reply.content)}")), False
        if last and self.endpoint.failures == "miss" and not reply.misled:
            return (*miss, self._shown(f"never answered: {_text(reply.content)}")), False
        return (None, None, self._shown(_text(reply.content))), False

    def _shown(self, text: str) -> str:
        """Words of the endpoint as they may be kept and printed: some endpoints repeat the key that they were sent."""
        for part in self._hidden:
            text = text.replace(part, "***")
        return visible(text[:300])

    def _keep(self, line: Line, read: bool) -> None:
        with self._lock:
            self.log.add(line)
            self._begun |= read
            self._unread += line.label is not None and not read
            wrong = not self._begun and self._unread >= _START and self.endpoint.failures == "stop"
        if wrong:
            raise CannotComplete(f"none of the first {_START} images got an answer that can be read ({line.said}); "
                                 "look at [image] and [answer] in the file of the endpoint. If it is right, run the "
                                 "command again: they count as misses")

    def _back_off(self, reply: Reply, attempt: int, stop: threading.Event) -> None:
        """Wait before the next attempt; if the endpoint asks for it, all others wait as well."""
        if reply.wait is None:
            self.wait(stop, self.chance.uniform(0, min(LONGEST, FIRST * 2 ** (attempt - 1))))
            return
        if reply.wait > PATIENCE:
            raise CannotComplete(f"{self.endpoint.address} asks to wait {reply.wait:,.0f} s; run the command again "
                                 "then, which asks about what is left")
        with self._lock:
            self._free = max(self._free, self.clock() + reply.wait)

    def _failure(self, reply: Reply, attempts: int) -> str:
        times = "once" if attempts == 1 else f"{attempts} times"
        asked = f"{self.endpoint.address} was asked {times} about an image"
        if isinstance(reply.status, str):
            said = f"{asked}: {reply.status}"
        else:
            said = f"{asked} and said {reply.status} ({self._shown(_text(reply.content))})"
        if reply.status in (401, 403, 407):
            return f"{said}; look at [headers] and the environment variables named there"
        if isinstance(reply.status, int) and 300 <= reply.status < 400:
            return f"{said}, which sends to another place, and that is not followed; give the place as url"
        if not reply.again:
            return f"{said}; look at the url and the method"
        return (f"{said}; run the command again to go on, which asks about what is left. With `failures = \"miss\"` in "
                "the file of the endpoint such images count as misses")


def _json(content: bytes) -> Any:
    if len(content) > LARGEST:
        raise ValueError(f"the answer has more than {LARGEST:,} bytes")
    try:
        return parsed(content.decode())
    except ValueError as error:
        raise ValueError(f"the answer is no JSON ({error}): {_text(content)}") from error


def _text(content: bytes) -> str:
    return content[:1000].decode(errors="replace")


def _seconds(given: str | None) -> float | None:
    """What a header Retry-After asks for: seconds, or a date; None where it says nothing of use."""
    if given is None:
        return None
    try:
        if given.strip().isdecimal():
            return float(given)
        when = parsedate_to_datetime(given)
        return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
