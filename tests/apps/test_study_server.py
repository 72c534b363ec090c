"""The server of a study over a real socket: who is answered, what is sent, and what nobody hears of."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sidedoor.apps import study_server
from sidedoor.apps.study import Study, questions, read
from sidedoor.apps.study_server import Server, server
from sidedoor.data.pictures import save_png
from sidedoor.errors import ConfigError

COUNT = 4
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("original", "method"):
        for k in range(COUNT):
            save_png(torch.zeros(3, 4, 4, dtype=torch.uint8), tmp_path / "pairs" / name / f"{k}.png")
    return tmp_path / "pairs"


@pytest.fixture
def running(folder: Path, tmp_path: Path) -> Iterator[Server]:
    with server(Study(questions(folder), tmp_path / "answers.jsonl"), "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def raw(running: Server, content: bytes) -> bytes:
    """All that comes back for some bytes."""
    with socket.create_connection(running.server_address[:2], timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(2**16):
            parts.append(part)
        return b"".join(parts)


@pytest.fixture
def ask(running: Server) -> Ask:
    """(status, headers, body) of a request."""
    def request(place: str, body: str = "", host: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        given = {"Host": host or f"127.0.0.1:{running.server_address[1]}"} | headers
        given |= {"Content-Length": str(len(body))} if body else {}
        first = f"{'POST' if body else 'GET'} {place} HTTP/1.0"
        lines = [first, *(f"{name}: {value}" for name, value in given.items() if value), "", body]
        head, _, content = raw(running, "\r\n".join(lines).encode()).partition(b"\r\n\r\n")
        status, *rest = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in rest), content

    return request


def test_participants_are_handed_out_by_the_server(ask: Ask, running: Server) -> None:
    status, headers, _ = ask("/")
    mine = headers["Location"]
    assert (status, ask(mine)[0]) == (303, 200)
    forged = mine[:-1] + ("0" if mine[-1] != "0" else "1")
    for other in ("/00000000", forged, mine[: study_server.NONCE + 1], "/ab%2f", "/é"):
        assert ask(other)[0] == 404
        assert ask(other, "question=0&side=left")[0] == 404
    assert not running.study.file.exists()
    assert ask(mine, "question=0&side=left")[0] == 303
    assert [answer["participant"] for answer in read(running.study.file)] == [mine[1:]]


def test_one_who_has_answered_is_known_to_the_next_server(ask: Ask, running: Server) -> None:
    mine = ask("/")[1]["Location"]
    other = Server(Study(running.study.questions, running.study.file), "127.0.0.1", 0)
    assert not other.knows(mine[1:])
    ask(mine, "question=0&side=left")
    other.study = Study(running.study.questions, running.study.file)
    assert other.knows(mine[1:])
    other.server_close()


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1", 303), ("localhost:9000", 303), ("[::1]:80", 303), ("192.168.1.20:8000", 303), ("LOCALHOST", 303),
    ("evil.example", 421), ("evil.example:80", 421), ("127.0.0.1.evil.example", 421), ("[::1", 421), ("a@b:c", 421)])
def test_a_request_for_another_name_is_not_answered(ask: Ask, host: str, status: int) -> None:
    assert ask("/", host=host)[0] == status


def test_the_name_that_is_served_and_that_of_the_machine_are_its_own(ask: Ask) -> None:
    assert ask("/", host=socket.gethostname())[0] == 303
    assert ask("/", Host="")[0] == 421


@pytest.mark.parametrize(("origin", "status"), [
    ("", 303), ("same", 303), ("null", 403), ("http://evil.example", 403), ("http://127.0.0.1:1", 403)])
def test_forms_of_other_pages_are_refused(ask: Ask, running: Server, origin: str, status: int) -> None:
    own = f"http://127.0.0.1:{running.server_address[1]}"
    mine = ask("/")[1]["Location"]
    assert ask(mine, "question=0&side=left", Origin=own if origin == "same" else origin)[0] == status
    assert running.study.file.exists() == (status == 303)


def test_every_answer_says_what_a_browser_may_do_with_it(ask: Ask) -> None:
    mine = ask("/")[1]["Location"]
    for place, kind in (("/", None), (mine, "text/html; charset=utf-8"), (f"{mine}/0/left", "image/png"),
                        ("/none", "text/html;charset=utf-8")):
        headers = ask(place)[1]
        assert headers.items() >= study_server.HEADERS.items()
        assert headers.get("Content-Type") == kind
    assert "default-src 'none'" in study_server.HEADERS["Content-Security-Policy"]
    assert study_server.HEADERS["X-Content-Type-Options"] == "nosniff"


def test_links_are_refused_at_the_start_and_never_followed(ask: Ask, folder: Path, tmp_path: Path) -> None:
    mine = ask("/")[1]["Location"]
    (tmp_path / "secret.png").write_bytes(b"secret")
    for name in ("original", "method"):
        (folder / name / "0.png").unlink()
        (folder / name / "0.png").symlink_to(tmp_path / "secret.png")
    assert {ask(f"{mine}/0/{side}")[0] for side in ("left", "right")} == {404}
    assert {ask(f"{mine}/1/{side}")[0] for side in ("left", "right")} == {200}
    (folder / "method").rename(tmp_path / "elsewhere")
    (folder / "method").symlink_to(tmp_path / "elsewhere")
    assert sorted(ask(f"{mine}/1/{side}")[0] for side in ("left", "right")) == [200, 404]
    with pytest.raises(ConfigError, match="is a link, which a study does not follow"):
        questions(folder)


def test_names_that_cannot_be_written_are_refused(folder: Path) -> None:
    (folder / "method\udcff").mkdir()
    with pytest.raises(ConfigError, match="rename it"):
        questions(folder)


LOCAL, FORM = b" HTTP/1.0\r\nHost: localhost\r\n", b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: "


@pytest.mark.parametrize("content", [
    b"", b"\r\n\r\n", b"\xff\xfe\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET //[" + LOCAL + b"\r\n",
    b"BREW /" + LOCAL + b"\r\n", b"GET /" + b"a" * 70_000 + LOCAL + b"\r\n",
    b"GET /" + LOCAL + b"A: b\r\n" * 200 + b"\r\n",
    FORM + b"\xb2\r\n\r\n", FORM + b"-1\r\n\r\nx", FORM + b"9" * 5000 + b"\r\n\r\nx", FORM + b"100\r\n\r\nquestion=0",
    FORM + b"20\r\n\r\nquestion=\xc2\xb2&side=left",
], ids=lambda content: repr(content[:40]))
def test_odd_requests_leave_no_word(running: Server, content: bytes, capfd: pytest.CaptureFixture[str],
                                    caplog: pytest.LogCaptureFixture) -> None:
    answer = raw(running, content)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert not running.study.file.exists()
    assert (capfd.readouterr().err, caplog.records) == ("", [])


def test_who_goes_away_leaves_no_word(running: Server, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        with socket.create_connection(running.server_address[:2]) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert raw(running, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.0 303")
    assert capfd.readouterr().err == ""


def test_a_fault_is_one_line(running: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
                             capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(running, "handed_out", lambda: 1 / 0)
    assert raw(running, b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n") == b""
    while not caplog.records:
        time.sleep(0.01)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "could not be answered: ZeroDivisionError" in line.getMessage()
    assert capfd.readouterr().err == ""


def test_nobody_is_waited_for(running: Server, monkeypatch: pytest.MonkeyPatch,
                              capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(study_server._Handler, "timeout", 0.1)
    with socket.create_connection(running.server_address[:2], timeout=10) as connection:
        connection.sendall(b"POST / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n")
        assert connection.recv(100) == b""
    assert capfd.readouterr().err == ""


def test_a_page_takes_no_longer_after_many_answers(folder: Path, tmp_path: Path) -> None:
    class Counted(list[dict[str, object]]):
        walked = 0

        def __iter__(self) -> Iterator[dict[str, object]]:
            Counted.walked += 1
            return super().__iter__()

    study = Study(questions(folder), tmp_path / "answers.jsonl")
    study.answers = Counted(study.answers)
    study.answer("a", 0, "left")
    assert study.given("a") == {0}
    assert study.next("a") in {1, 2, 3}
    assert Counted.walked == 0
