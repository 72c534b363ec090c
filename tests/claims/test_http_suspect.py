"""A suspect behind HTTP, against a real server on this machine that throttles, fails, hangs, redirects and lies."""

from __future__ import annotations

import base64
import json
import multiprocessing
import random
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sidedoor.claims.suspects import open_suspect
from sidedoor.claims.suspects.base import Known
from sidedoor.claims.suspects.endpoint import Endpoint, Said, Sent
from sidedoor.claims.suspects.http import LARGEST, HttpSuspect, client
from sidedoor.claims.suspects.log import Log, Logged, hashes_of
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Recipe, Run, fabric
from sidedoor.errors import CannotComplete
from sidedoor.ownership.base import OTHER

NAMES = ("cat", "dog", "horse", "ship")
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)
TRUE = IMAGES[:, 0, 0, 0].astype(np.int64) % 4
HASHES = hashes_of(IMAGES)

Rule = Callable[[int, np.ndarray], "tuple[int, dict[str, str], bytes]"]
"""(how many requests came before, the image) -> status, headers and content."""


def honest(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"result": [{"label": NAMES[image[0, 0, 0] % 4]}]}).encode()


class Server:
    """What a test's server got, and where it is."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.images: list[np.ndarray] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        self.release = threading.Event()
        self.at_once = self.most = 0
        self.url = ""

    def handle(self, method: str, handler: BaseHTTPRequestHandler) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self.lock:
            number = len(self.requests)
            self.requests.append((method, dict(handler.headers), content))
            image = pixels(dict(handler.headers), content)
            self.images.append(image)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        status, headers, answer = self.rule(number, image)
        with self.lock:
            self.at_once -= 1
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(answer)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer)

    def asked(self) -> Counter[str]:
        return Counter(hashes_of(np.stack(self.images))) if self.images else Counter()


def pixels(headers: dict[str, str], content: bytes) -> np.ndarray:
    """The image of a request, however it was sent."""
    if headers["Content-Type"] == "application/json":
        text = json.loads(content)["inputs"][0]["image"]
        content = base64.b64decode(text.removeprefix("data:image/png;base64,"))
    elif headers["Content-Type"].startswith("multipart"):
        parts = BytesParser().parsebytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + content)
        content = next(part.get_payload(decode=True) for part in parts.get_payload() if part.get_filename())
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image)


@contextmanager
def serving(rule: Rule = honest, first: Callable[[str], None] | None = None, context: ssl.SSLContext | None = None) \
        -> Iterator[Server]:
    """A server in a thread.

    Args:
        first: called with its URL, before there is a thread.
        context: to encrypt by.
    """
    server = Server(rule)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def do_POST(self) -> None:
            try:
                server.handle("POST", self)
            except OSError:  # the client has gone
                self.close_connection = True

        def do_PUT(self) -> None:
            server.handle("PUT", self)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        http.socket = context.wrap_socket(http.socket, server_side=True)
    http.daemon_threads = True
    http.block_on_close = False
    server.url = f"http://127.0.0.1:{http.server_port}/classify"
    if first is not None:
        first(server.url)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        http.shutdown()
        http.server_close()
        thread.join()


def endpoint(server: Server, **changes: Any) -> Endpoint:
    """One that sends the bare PNG and reads a label."""
    return replace(Endpoint(server.url, Sent(raw=True), Said(label=("result", 0, "label")), NAMES), **changes)


class Time:
    """A time in which nothing takes any but waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waited: list[float] = []

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


def suspect_at(end: Endpoint, log: Log | None = None, at: Time | None = None, chance: random.Random | None = None) \
        -> HttpSuspect:
    at = at or Time()
    return HttpSuspect(end, {}, log or Log(None, len(NAMES)), at.wait, lambda: at.now, chance or random.Random(0))


# -- it is asked and answers

@pytest.mark.parametrize("sent", [
    Sent(raw=True), Sent(field="file"), Sent(field="file", body={"model": "v3"}), Sent(base64=("inputs", 0, "image")),
    Sent(base64=("inputs", 0, "image"), prefix="data:image/png;base64,", body={"model": 3, "inputs": [{"a": 1}]})])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_server_gets_the_pixels(sent: Sent, channels: int) -> None:
    images = IMAGES[:3, :, :, :channels]
    with serving(lambda n, image: honest(n, image.reshape(6, 5, channels))) as server:
        answers = suspect_at(endpoint(server, sent=sent)).answer(images)
    np.testing.assert_array_equal(np.stack(server.images).reshape(images.shape), images)
    np.testing.assert_array_equal(answers.labels, TRUE[:3])
    assert answers.probabilities is None


def test_further_fields_are_sent_beside_the_image() -> None:
    with serving() as server:
        suspect_at(endpoint(server, sent=Sent(field="file", body={"model": "v3"}))).answer(IMAGES[:1])
        suspect_at(endpoint(server, method="PUT", sent=Sent(
            base64=("inputs", 0, "image"), body={"model": 3, "inputs": [{"a": 1}]}))).answer(IMAGES[:1])
    assert b'name="model"\r\n\r\nv3\r\n' in server.requests[0][2]
    method, _, content = server.requests[1]
    body = json.loads(content)
    assert method == "PUT"
    assert (body["model"], body["inputs"][0]["a"], len(body["inputs"])) == (3, 1, 1)


def test_several_are_asked_at_a_time_and_answers_keep_their_order() -> None:
    both = threading.Barrier(3, timeout=5)

    def together(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
        both.wait()  # nobody is answered before three have come
        return honest(number, image)

    with serving(together) as server:
        answers = suspect_at(endpoint(server, concurrency=3)).answer(IMAGES)
    assert server.most == 3
    np.testing.assert_array_equal(answers.labels, TRUE)


def test_one_at_a_time_is_one_at_a_time() -> None:
    with serving() as server:
        suspect_at(endpoint(server)).answer(IMAGES)
    assert server.most == 1
    assert server.asked() == Counter(HASHES)


def test_no_more_requests_a_second_than_allowed() -> None:
    at = Time()
    with serving() as server:
        suspect_at(endpoint(server, rate=10.0), at=at).answer(IMAGES[:5])
    assert at.waited == pytest.approx([0.1] * 4)


# -- it is overloaded, fails and hangs

def test_a_wait_that_the_server_asks_for_is_kept() -> None:
    at, log = Time(), Log(None, 4)
    later = {0: (429, {"Retry-After": "7"}, b""), 1: (503, {"Retry-After": in_seconds(90)}, b"")}
    with serving(lambda n, image: later.get(n) or honest(n, image)) as server:
        answers = suspect_at(endpoint(server), log, at).answer(IMAGES[:2])
    np.testing.assert_array_equal(answers.labels, TRUE[:2])
    assert at.waited == [pytest.approx(7), pytest.approx(90, abs=20)]  # the second is a date, and this machine slow
    assert log.queries == 4
    assert [line.attempt for line in log.answers(HASHES[0])] == [3]


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def test_all_wait_where_one_is_throttled() -> None:
    """The second image may begin at once, and begins when the first may go on."""
    at, log = Time(), Log(None, 4)
    both = threading.Barrier(2, timeout=5)
    suspect = []

    def throttling(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
        if number < 2:
            both.wait()
        return (429, {"Retry-After": "7"}, b"") if number < 2 else honest(number, image)

    with serving(throttling) as server:
        suspect.append(suspect_at(endpoint(server, concurrency=2), log, at))
        suspect[0].answer(IMAGES[:4])
    assert at.now >= 1007
    assert max(at.waited) <= 14


def test_a_very_long_wait_is_left_to_people() -> None:
    with serving(lambda n, image: (429, {"Retry-After": "7200"}, b"")) as server, \
            pytest.raises(CannotComplete, match="asks to wait 7,200 s; run the command again"):
        suspect_at(endpoint(server)).answer(IMAGES)
    assert len(server.requests) == 1


@pytest.mark.parametrize("nonsense", ["soon", "-3", "1e9", "", "Thu, 99 Foo 2026"])
def test_a_wait_that_says_nothing_is_a_back_off(nonsense: str) -> None:
    at = Time()
    rule: Rule = lambda n, image: (429, {"Retry-After": nonsense}, b"") if n == 0 else honest(n, image)  # noqa: E731
    with serving(rule) as server:
        suspect_at(endpoint(server), at=at).answer(IMAGES[:1])
    assert len(at.waited) == 1
    assert 0 <= at.waited[0] <= 1


@pytest.mark.parametrize(("share", "expected"), [(1.0, [1, 2, 4, 8, 16, 32, 60, 60]), (0.0, [0.0] * 8)])
def test_delays_are_drawn_from_intervals_that_double(share: float, expected: list[float]) -> None:
    class Fixed(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return a + share * (b - a)

    at = Time()
    with serving(lambda n, image: (500, {}, b"")) as server, \
            pytest.raises(CannotComplete, match=r"9 times about an image and said 500 .*; run the command again"):
        suspect_at(endpoint(server, retries=8), at=at, chance=Fixed()).answer(IMAGES[:1])
    assert len(server.requests) == 9
    assert at.waited == expected


def test_a_server_that_fails_at_random_loses_nothing(tmp_path: Path) -> None:
    chance = random.Random(1)
    rule: Rule = lambda n, image: (500, {}, b"oops") if chance.random() < 0.4 else honest(n, image)  # noqa: E731
    log = Log(tmp_path / "queries.jsonl", 4)
    with serving(rule) as server:
        answers = suspect_at(endpoint(server, concurrency=4, retries=30), log).answer(IMAGES)
    np.testing.assert_array_equal(answers.labels, TRUE)
    assert len(server.requests) == log.queries > 30
    assert all(len(log.answers(name)) == 1 for name in HASHES)
    statuses = [json.loads(line)["status"] for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    assert Counter(statuses) == {200: 24, 500: log.queries - 24}


def test_a_server_that_hangs_is_asked_again() -> None:
    with serving() as server:
        def hanging(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
            if number == 0:
                server.release.wait(5)
            return honest(number, image)

        server.rule = hanging
        log = Log(None, 4)
        answers = suspect_at(endpoint(server, timeout=0.15), log).answer(IMAGES[:2])
    np.testing.assert_array_equal(answers.labels, TRUE[:2])
    assert log.queries == 3


def test_a_broken_connection_is_tried_again_and_then_said() -> None:
    with serving() as server:
        end = endpoint(server, retries=2)
    log = Log(None, 4)
    with pytest.raises(CannotComplete, match=r"asked 3 times about an image: no answer: .*refused"):
        suspect_at(end, log).answer(IMAGES)
    assert log.queries == 3


def test_an_image_that_breaks_the_server_can_count_as_a_miss() -> None:
    rule: Rule = lambda n, image: (500, {}, b"") if (image == IMAGES[3]).all() else honest(n, image)  # noqa: E731
    with serving(rule) as server:
        with pytest.raises(CannotComplete, match='With `failures = "miss"`'):
            suspect_at(endpoint(server)).answer(IMAGES)
        answers = suspect_at(endpoint(server, failures="miss")).answer(IMAGES)
    assert answers.labels.tolist() == [OTHER if i == 3 else label for i, label in enumerate(TRUE)]


def test_the_budget_is_a_hard_cap(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    with serving() as server:
        for _ in range(2):
            with pytest.raises(CannotComplete, match="the budget of 10 queries is spent"):
                Logged(suspect := suspect_at(endpoint(server, budget=10, concurrency=4), Log(path, 4)),
                       suspect.log).answer(IMAGES)
            assert len(server.requests) == 10
        log = Log(path, 4)
        Logged(suspect_at(endpoint(server, budget=25, concurrency=4), log), log).answer(IMAGES)
    assert len(server.requests) == log.queries == 25
    assert sorted(server.asked().values()) == [1] * 23 + [2]


# -- it lies

@pytest.mark.parametrize(("status", "content", "words"), [
    (200, b"<html>busy</html>", "no JSON"),
    (200, b"", "no JSON"),
    (200, b"\xff\xfe", "no JSON"),
    (200, b'{"result": [{"label": NaN}]}', "no JSON"),
    (200, b"[" * 100_000, "no JSON"),
    (200, b'{"result": []}', "there is no result.0.label"),
    (200, b'{"result": [{"label": 1.5}]}', "expected text or an integer"),
    (200, b'{"result": [{"label": null}]}', "expected text or an integer"),
    (200, b'{"result": [{"label": "cat"}], "x": "' + b"a" * LARGEST * 2 + b'"}', "more than 1,048,576 bytes"),
    (400, b"not today", "refused: not today"),
    (413, b"", "refused"),
])
def test_what_cannot_be_read_or_is_refused_is_a_miss(status: int, content: bytes, words: str) -> None:
    rule: Rule = lambda n, image: (status, {}, content) if n == 1 else honest(n, image)  # noqa: E731
    log = Log(None, 4)
    with serving(rule) as server:
        answers = suspect_at(endpoint(server), log).answer(IMAGES[:4])
    assert answers.labels.tolist() == [TRUE[0], OTHER, TRUE[2], TRUE[3]]
    assert words in log.answers(HASHES[1])[0].said
    assert len(server.requests) == 4, "asked once"


def test_names_that_are_none_of_ours_are_misses() -> None:
    with serving(lambda n, image: (200, {}, b'{"result": [{"label": "zebra"}]}')) as server:
        answers = suspect_at(endpoint(server)).answer(IMAGES)
        assert (answers.labels == OTHER).all()
        other = suspect_at(endpoint(server, table={"zebra": 2})).answer(IMAGES)
        assert (other.labels == 2).all()


def test_an_answer_that_is_packed_is_not_unpacked() -> None:
    with serving(lambda n, image: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08")) as server:
        answers = suspect_at(endpoint(server)).answer(IMAGES[:2])
    assert answers.labels.tolist() == [OTHER, OTHER]
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_an_answer_that_stops_half_way_is_late() -> None:
    with serving() as server:
        server.rule = lambda n, image: (200, {"Content-Length": "99"}, b"{") if n == 0 else honest(n, image)
        log = Log(None, 4)
        answers = suspect_at(endpoint(server, timeout=0.15), log).answer(IMAGES[:1])
    assert answers.labels[0] == TRUE[0]
    assert log.queries == 2


def test_an_answer_that_drips_for_ever_is_late() -> None:
    """Each piece comes in time, all of them do not."""
    at, log = Time(), Log(None, 4)

    def slow(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
        at.now += 31 if number == 0 else 29
        return honest(number, image)

    with serving(slow) as server:
        answers = suspect_at(endpoint(server), log, at).answer(IMAGES[:1])
    assert answers.labels[0] == TRUE[0]
    assert log.queries == len(server.requests) == 2


def test_a_file_that_is_wrong_is_noticed_after_ten_images(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    with serving() as server:
        end = endpoint(server, said=Said(label=("prediction",)))
        with pytest.raises(CannotComplete, match=r"none of the first 10 images got .*there is no prediction.*look at "
                                                 r"\[image\] and \[answer\]"):
            suspect_at(end, Log(path, 4)).answer(IMAGES)
        assert len(server.requests) == 10
        answers = Logged(suspect_at(end, log := Log(path, 4)), log, repeated=0.0).answer(IMAGES)
        assert len(server.requests) == 24
    assert (answers.labels == OTHER).all(), "asked again, they are misses"


def test_redirects_are_not_followed() -> None:
    with serving() as elsewhere:
        rule: Rule = lambda n, image: (307, {"Location": elsewhere.url}, b"")  # noqa: E731
        with serving(rule) as server, pytest.raises(CannotComplete, match=r"said 307 .*, which sends to another"):
            suspect_at(endpoint(server, failures="miss")).answer(IMAGES)
        assert len(server.requests) == 1
        assert not elsewhere.requests


@pytest.mark.parametrize(("status", "words"), [
    (401, r"said 401 \(no\\x1b.*look at \[headers\]"), (403, r"look at \[headers\]"), (404, "look at the url"),
    (405, "look at the url and the method")])
def test_a_request_that_is_wrong_is_not_repeated(status: int, words: str) -> None:
    with serving(lambda n, image: (status, {}, b"no\x1b[2J")) as server, pytest.raises(CannotComplete, match=words):
        suspect_at(endpoint(server)).answer(IMAGES)
    assert len(server.requests) == 1


def test_keys_that_the_endpoint_repeats_are_kept_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    answers = [(200, b"the key sk-hush-4711, welcome"), (400, b"bad key sk-hush-4711"),
               (200, b'{"result": {"sk-hush-4711": 1}}'), (401, b"no key sk-hush-4711")]
    with serving(lambda n, image: (answers[n][0], {}, answers[n][1])) as server:
        suspect = HttpSuspect(endpoint(server), {"Authorization": "Bearer sk-hush-4711"}, Log(path, 4), Time().wait)
        with pytest.raises(CannotComplete, match=r"no key \*\*\*") as error:
            suspect.answer(IMAGES)
    assert server.requests[0][1]["Authorization"] == "Bearer sk-hush-4711"
    assert path.read_text().count("key ***") == 3
    for text in (path.read_text(), str(error.value), repr(suspect)):
        assert "hush" not in text


# -- scores

def scored(scores: Any) -> Rule:
    return lambda n, image: (200, {}, json.dumps({"scores": scores}).encode())


@pytest.mark.parametrize(("said", "table", "scores", "label", "expected"), [
    ({}, None, [0.1, 0.2, 0.6, 0.1], 2, [0.1, 0.2, 0.6, 0.1]),
    ({}, None, {"ship": 0.7, "cat": 0.2}, 3, [0.2, 0, 0, 0.7]),
    ({}, None, {"zebra": 0.7, "cat": 0.2}, OTHER, [0.2, 0, 0, 0]),
    ({}, {"tabby": 0, "lion": 0, "hound": 1}, {"tabby": 0.3, "lion": 0.3, "hound": 0.4}, 0, [0.6, 0.4, 0, 0]),
    ({}, {"0": 3, "1": 2}, [0.1, 0.9], 2, [0, 0, 0.9, 0.1]),
    ({"logits": True}, None, [0, 0, np.log(2), 0], 2, [0.2, 0.2, 0.4, 0.2]),
    ({"name": "n", "score": "s"}, None, [{"n": "dog", "s": 0.8}, {"n": "cat", "s": 0.1}], 1, [0.1, 0.8, 0, 0]),
])
def test_scores_become_probabilities(said: dict[str, Any], table: dict[str, int] | None, scores: Any, label: int,
                                     expected: list[float]) -> None:
    with serving(scored(scores)) as server:
        answers = suspect_at(endpoint(server, said=Said(scores=("scores",), **said), table=table)).answer(IMAGES[:2])
    assert answers.labels.tolist() == [label, label]
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.probabilities, [expected] * 2, atol=1e-6)


@pytest.mark.parametrize("scores", [
    [0.5, 0.5], [0.5] * 5, [0.9, 0.9, 0.0, 0.0], [-0.1, 0.5, 0.5, 0.1], [50, 20, 20, 10], [], {}, "0.5", None,
    ["1", 0, 0, 0], [True, 0, 0, 0], [[1, 0, 0, 0]], {"cat": None}])
def test_scores_that_are_no_probabilities_are_misses(scores: Any) -> None:
    rule: Rule = lambda n, image: scored(scores if n else [1, 0, 0, 0])(n, image)  # noqa: E731
    with serving(rule) as server:
        answers = suspect_at(endpoint(server, said=Said(scores=("scores",)))).answer(IMAGES[:3])
    assert answers.labels.tolist() == [0, OTHER, OTHER]
    assert answers.probabilities is not None
    assert answers.probabilities.tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4]


# -- the command is killed

def ask_all(url: str, path: Path, at_once: int) -> None:
    end = Endpoint(url, Sent(raw=True), Said(label=("result", 0, "label")), NAMES, concurrency=at_once)
    log = Log(path, 4)
    Logged(HttpSuspect(end, {}, log), log).answer(IMAGES)


@pytest.mark.parametrize("at_once", [1, 4])
def test_no_query_is_lost_or_doubled_when_the_command_is_killed(at_once: int, tmp_path: Path) -> None:
    """The server answers nine requests, then kills the client with the next ones under way."""
    path = tmp_path / "queries.jsonl"
    forked: list[multiprocessing.Process] = []

    def fork(url: str) -> None:  # before there are threads
        forked.append(multiprocessing.get_context("fork").Process(target=ask_all, args=(url, path, at_once)))
        forked[0].start()

    def killing(number: int, image: np.ndarray) -> tuple[int, dict[str, str], bytes]:
        if number >= 9:
            forked[0].kill()
        return honest(number, image)

    with serving(killing, fork) as server:
        forked[0].join(60)
        assert forked[0].exitcode == -signal.SIGKILL
        server.rule = honest
        log = Log(path, 4)
        kept = [name for name in HASHES if log.answers(name)]
        assert 10 - at_once <= len(kept) == log.queries < 24
        answers = Logged(suspect_at(endpoint(server), log), log).answer(IMAGES)
    np.testing.assert_array_equal(answers.labels, TRUE)
    twice = sorted(HASHES)[:1]
    again = server.asked() - Counter(HASHES + twice)
    assert again.total() <= at_once, "only what was under way"
    assert not set(again) & set(kept), "what was answered was not asked again"
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(line["sha256"] for line in whole) == Counter(HASHES + twice)


# -- it is encrypted

@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_has_to_be_signed_by_somebody_known(tmp_path: Path) -> None:
    key, own = str(tmp_path / "key.pem"), str(tmp_path / "own.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", own, "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    with serving(context=context) as server:
        secure = server.url.replace("http://127.0.0.1", "https://localhost")
        log = Log(None, 4)
        with pytest.raises(CannotComplete, match=r"certificate of https://localhost.* is not to be trusted .*`ca`"):
            suspect_at(endpoint(server, url=secure), log).answer(IMAGES[:2])
        with pytest.raises(CannotComplete, match="is not to be trusted"):  # of another host
            suspect_at(endpoint(server, url=server.url.replace("http:", "https:"), ca=own), log).answer(IMAGES[:2])
        assert log.queries == len(server.requests) == 0
        answers = suspect_at(endpoint(server, url=secure, ca=own), log).answer(IMAGES[:2])
    np.testing.assert_array_equal(answers.labels, TRUE[:2])


# -- it is opened

def known(log: Log | None = None, **variables: str) -> Known:
    rows = np.zeros((4, 3, 6, 5), dtype=np.uint8)
    data = ArrayDataset(rows, np.arange(4), NAMES, "questions")
    return Known(data, Run(fabric("cpu"), Recipe()), log=log, variables=variables)


CONFIG = """
url = "URL"
concurrency = 2
[headers]
Authorization = "SUSPECT_AUTHORIZATION"
[image]
base64 = "inputs.0.image"
[answer]
label = "result.0.label"
"""


def test_a_suspect_is_opened_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.toml"
    log = Log(tmp_path / "evidence" / "queries.jsonl", 4)
    with serving() as server:
        file.write_text(CONFIG.replace("URL", f"{server.url}?key=secret"))
        with pytest.raises(CannotComplete, match="variable SUSPECT_AUTHORIZATION is not set"):
            open_suspect(f"http:{file}", known(log))
        opened = open_suspect(f"http:{file}", known(log, SUSPECT_AUTHORIZATION="Bearer hush"))
        log.begin(opened.facts)
        answers = Logged(opened.suspect, log, opened.at_once).answer(IMAGES)
    np.testing.assert_array_equal(answers.labels, TRUE)
    assert server.requests[0][1]["Authorization"] == "Bearer hush"
    assert opened.facts["url"] == server.url
    for written in (json.dumps(opened.facts), (tmp_path / "evidence" / "queries.jsonl").read_text()):
        assert "hush" not in written
        assert "secret" not in written


def test_another_question_is_another_suspect_and_another_pace_is_not(tmp_path: Path) -> None:
    with serving() as server:
        end = endpoint(server)
        assert end.facts() == replace(end, concurrency=8, timeout=1.0, budget=3, retries=0).facts()
        for change in ({"sent": Sent(field="file")}, {"said": Said(label=("a",))}, {"table": {"a": 1}},
                       {"method": "PUT"}, {"url": f"{server.url}?model=2"}):
            assert end.facts() != replace(end, **change).facts()


def test_httpx_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(CannotComplete, match=r"pip install 'sidedoor\[http\]'"):
        client(Endpoint("https://a.example/", Sent(raw=True), Said(label=("a",)), NAMES), {})


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    end = Endpoint("https://a.example/", Sent(raw=True), Said(label=("a",)), NAMES, ca=str(tmp_path / "none.pem"))
    with pytest.raises(CannotComplete, match=r"none\.pem cannot be read"):
        client(end, {})
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(CannotComplete, match=r"none\.pem cannot be read"):
        client(end, {})
