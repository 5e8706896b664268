"""The loopback Hub on the wire: connections, bodies in and out, byte ranges, cut lines, and a record of every request."""

import contextlib
import re
import socket
import struct
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.helpers.hub.exchange import Answer, Request, as_json
from tests.helpers.hub.store import Refusal


PIECE = 64 * 1024  # bytes read or sent at once


class Record(NamedTuple):
    """One request as it went: bytes of the two bodies; whether it bore a token; `status` 0 where the line was cut."""

    method: str
    path: str
    status: int
    received: int
    sent: int
    byte_range: str | None
    with_token: bool
    by_storage: bool


@dataclass
class Fault:
    """What is to go wrong: `times` requests whose path has `within`; cut after `after` bytes, or refused for `seconds`."""

    kind: str  # "upload" or "rate"
    within: str
    times: int
    after: int = 0
    seconds: int = 0


class Cut(Exception):
    """The connection is to be cut now, with a reset, as a line that breaks."""


class Listener(ThreadingHTTPServer):
    """A server that can be stopped with all its connections, as a Hub that has gone."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub, storage: bool):
        self.hub, self.storage, self.connections = hub, storage, set()
        super().__init__(("127.0.0.1", 0), Handler)

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """A client that has gone is no error of the server's."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, lets faults happen, sends answers and keeps the record."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Nothing on the terminal; `HubServer.log` has it."""

    def _serve(self) -> None:
        hub, storage = self.server.hub, self.server.storage
        self.status = self.received = self.sent = 0
        try:
            answer = self._answer(hub, storage)
            self.status = answer.status
            self._send(answer)
        except Cut:
            self.status, self.close_connection = 0, True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        finally:
            token, part = "Authorization" in self.headers, self.headers.get("Range")
            hub.log.append(
                Record(self.command, self.path, self.status, self.received, self.sent, part, token, storage)
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _answer(self, hub, storage: bool) -> Answer:
        body = self._read(hub.take_fault("upload", self.path))
        parts = urlsplit(self.path)
        try:
            limit = hub.take_fault("rate", self.path)
            if limit:
                rate = {"RateLimit": f'"api";r=0;t={limit.seconds}', "Retry-After": str(limit.seconds)}
                return as_json({"error": "Too many requests"}, 429, **rate)
            account = None if storage else hub.account(self.headers.get("Authorization"))
            request = Request(self.command, parts.path, parse_qs(parts.query), dict(self.headers), body, account)
            return hub.answers.answer(request, storage)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message, **refusal.headers}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            return as_json({"error": refusal.message}, refusal.status, **headers)
        except Exception:  # a fault of the double itself, which the test should see
            hub.failures.append(traceback.format_exc())
            return as_json({"error": hub.failures[-1]}, 500)

    def _read(self, fault: Fault | None) -> bytes:
        """The body, whole or in chunks; cut after as many bytes as a fault says."""
        body = bytearray()
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        left = 0 if chunked else int(self.headers.get("Content-Length") or 0)
        while True:
            if chunked and left == 0:
                left = int(self.rfile.readline().split(b";")[0], 16)
                if left == 0:
                    self.rfile.readline()
            if left == 0:
                return bytes(body)
            piece = self.rfile.read(min(left, PIECE))
            body += piece
            left -= len(piece)
            self.received = len(body)
            if not piece or (fault and self.received >= fault.after):
                raise Cut
            if chunked and left == 0:
                self.rfile.readline()

    def _send(self, answer: Answer) -> None:
        body = answer.body.read_bytes() if isinstance(answer.body, Path) else answer.body
        headers, wanted = dict(answer.headers), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if isinstance(answer.body, Path):
            headers["Accept-Ranges"] = "bytes"
            if wanted:
                first, last = int(wanted[1]), int(wanted[2] or len(body) - 1)
                self.status = 206 if first < len(body) else 416
                headers["Content-Range"] = f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
                if self.status == 416:
                    headers["Content-Range"] = f"bytes */{len(body)}"
                body = body[first : last + 1]
        self.send_response(self.status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            self.wfile.write(piece)
            self.sent += len(piece)
