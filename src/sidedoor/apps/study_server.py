"""The page of a study, for participants on this machine or its network: forms without scripts.

It answers to its own names only, hands participants their addresses, takes forms of its own pages only, sends nothing
from outside the folder of pairs, and waits for nobody longer than a few seconds.
"""

from __future__ import annotations

import functools
import hmac
import http.server
import ipaddress
import logging
import secrets
import socket
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from sidedoor.apps.study import SIDES, TYPES, Study
from sidedoor.core import opening
from sidedoor.core.templates import template
from sidedoor.errors import CannotComplete

log = logging.getLogger("sidedoor")
_template = functools.cache(template)
SECONDS = 10
"""That a connection may be silent."""
FORM, IMAGE = 200, 2**26
"""Bytes of the largest form and image."""
NONCE = 8
"""Hexadecimal digits of a participant's address before the signature."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'; "
                               "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves a study.

    Args:
        host: the address or name to listen on; requests may name it, this machine's name, localhost, or any address.
    """

    def __init__(self, study: Study, host: str, port: int):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.study = study
        self.names = {host.lower(), "localhost", socket.gethostname().lower()}
        self._secret = secrets.token_bytes(32)
        super().__init__((host, port), _Handler)

    def handed_out(self) -> str:
        """The address of a new participant."""
        nonce = secrets.token_hex(NONCE // 2)
        return nonce + self._signature(nonce)

    def knows(self, participant: str) -> bool:
        """Whether an address was handed out, by this server or by one whose answers the file has."""
        signed = hmac.compare_digest(self._signature(participant[:NONCE]).encode(), participant[NONCE:].encode())
        return signed or bool(self.study.given(participant))

    def _signature(self, nonce: str) -> str:
        return hmac.digest(self._secret, nonce.encode(), "sha256").hex()[:16]

    def answers_to(self, host: str) -> bool:
        """Whether a request is for this server; a page of another site that has led its name here is not."""
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
            ipaddress.ip_address(name)
        except ValueError:
            return host.rpartition(":")[0].lower() in self.names or host.lower() in self.names
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A participant who went away is no news; anything else is a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log.warning("a request of %s could not be answered: %r", client_address[0], error)


def server(study: Study, host: str, port: int) -> Server:
    """Serves the study; port 0 takes a free one.

    Raises:
        CannotComplete: the address is taken.
    """
    try:
        return Server(study, host, port)
    except OSError as error:
        raise CannotComplete(f"cannot serve on {host}:{port}: {error}; give another --port") from error


class _Handler(http.server.BaseHTTPRequestHandler):
    """`/` starts, `/PARTICIPANT` asks and takes answers, `/PARTICIPANT/NUMBER/SIDE` is an image."""

    server: Server
    server_version, sys_version = "sidedoor", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        if not self.server.answers_to(self.headers.get("Host", "")):
            self.send_error(421, "this is the server of a study, under another name")
            return
        participant, *rest = self._path()
        if participant == "" and not rest:
            self._to(f"/{self.server.handed_out()}")
        elif not self.server.knows(participant):
            self.send_error(404, "no participant has this address; begin at /")
        elif not rest:
            self._page(participant)
        else:
            self._image(participant, rest)

    def do_POST(self) -> None:
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if not self.server.answers_to(host) or origin not in (None, f"http://{host}", f"https://{host}"):
            self.send_error(403, "the form is of another page")
            return
        participant, *rest = self._path()
        form = self._form()
        number, side = form.get("question", ""), form.get("side", "")
        if rest or not self._is_number(number) or side not in SIDES:
            self.send_error(400, "expected a question and a side")
        elif not self.server.knows(participant):
            self.send_error(404, "no participant has this address; begin at /")
        else:
            self.server.study.answer(participant, int(number), side)
            self._to(f"/{participant}")

    def _form(self) -> dict[str, str]:
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdecimal() and len(length) < 10 else 0
        body = self.rfile.read(size) if size < FORM else b""
        return dict(urllib.parse.parse_qsl(body.decode("ascii", "replace")))

    def _path(self) -> list[str]:
        try:
            return urllib.parse.urlsplit(self.path).path.strip("/").split("/")
        except ValueError:
            return ["?"]

    def _is_number(self, number: str) -> bool:
        return number.isascii() and number.isdecimal() and len(number) < 10 and \
            int(number) < len(self.server.study.questions)

    def _page(self, participant: str) -> None:
        study = self.server.study
        text = _template("sidedoor.apps", "study.html.jinja").render(
            participant=participant, number=study.next(participant), sides=SIDES, given=len(study.given(participant)),
            count=len(study.questions))
        self._send(text.encode(), "text/html; charset=utf-8")

    def _image(self, participant: str, rest: list[str]) -> None:
        if len(rest) != 2 or not self._is_number(rest[0]) or rest[1] not in SIDES:
            self.send_error(404)
            return
        file = self.server.study.image(participant, int(rest[0]), rest[1])
        try:
            content = _read(file)
        except OSError:
            self.send_error(404)
            return
        self._send(content, TYPES[file.suffix.lower()])

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _to(self, place: str) -> None:
        self.send_response(303)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""


def _read(file: Path) -> bytes:
    """An image of the folder, which may have become a link since the study began."""
    if file.is_symlink() or file.parent.is_symlink():
        raise OSError(f"{file} is a link")
    return opening.read(file, IMAGE)
