"""A proxy on loopback in front of a real S3 server. It makes the faults that networks and S3 make.

Requests are passed on unchanged, with their `Host`, so that signatures stay valid.
"""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_ANSWERS = {  # fault: status, code
    "slow_down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "exists": (412, "PreconditionFailed"),
    "full": (507, "InsufficientStorage"),
    "skew": (403, "RequestTimeTooSkewed"),
    "expired": (400, "ExpiredToken"),
    "not_implemented": (501, "NotImplemented"),
    "denied": (403, "AccessDenied"),
}
_ONLY_CONDITIONAL = {"conflict", "exists", "not_implemented"}
_HOP = {"connection", "content-length", "transfer-encoding", "keep-alive", "date", "server"}  # headers of one hop
_ONLY_READS = {"reset", "truncated", "short", "stall"}
FAULTS = ("slow_down", "internal", "conflict", "reset", "truncated", "short", "lost")  # a retry helps after these
STALL_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the proxy."""

    method: str
    path: str
    is_conditional_put: bool  # parts and plan files are written in this way
    is_conditional_replace: bool = False  # run.json is written in this way


class FaultyS3:
    """The proxy. `fault(request)` names the fault for a request, or None; `done` counts the faults that were really made.

    slow_down, internal, conflict, exists, full, skew, expired, not_implemented, denied: this answer, without asking the server.
    reset, truncated: the full length and half of the body are sent, then the connection breaks (reset) or ends (truncated).
    short: half of the body, as if it were all. stall: half of the body, then nothing; clients that wait 30 s are counted, too.
    lost: the server carries the request out, but its answer is lost.
    """

    def __init__(self, upstream: str, fault: Callable[[Request], str | None]) -> None:
        self.fault, self.done = fault, Counter[str]()
        self._lock = threading.Lock()
        self._upstream = urlsplit(upstream)
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """URL for `AWS_ENDPOINT_URL_S3`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def decide(self, request: Request) -> str | None:
        """The fault for this request, or None. A fault that does not fit the request is not made."""
        method = request.method
        with self._lock:
            fault = self.fault(request)
        if fault in _ONLY_CONDITIONAL and not (request.is_conditional_put or request.is_conditional_replace):
            return None
        if (fault in _ONLY_READS and method != "GET") or (fault == "lost" and method not in ("PUT", "DELETE")):
            return None
        return fault

    def count(self, fault: str) -> None:
        """Count a fault that was made."""
        with self._lock:
            self.done[fault] += 1

    def connect(self) -> HTTPConnection:
        """A connection to the server."""
        assert self._upstream.hostname is not None
        return HTTPConnection(self._upstream.hostname, self._upstream.port, timeout=60)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FaultyS3

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        creates, replaces = (self.command == "PUT" and name in self.headers for name in ("If-None-Match", "If-Match"))
        fault = self.owner.decide(Request(self.command, self.path, creates, replaces))
        if fault in _ANSWERS:
            self.owner.count(fault)
            self._refuse(*_ANSWERS[fault])
            return
        connection = self.owner.connect()
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            length = answer.getheader("Content-Length") or "0" if self.command == "HEAD" else str(len(data))
            self._pass_on(answer.status, headers, length, data, fault)
        finally:
            connection.close()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve

    def _pass_on(self, status: int, headers: list[tuple[str, str]], length: str, data: bytes, fault: str | None) -> None:
        if fault == "lost":
            self.owner.count(fault)
            self._break_off()
            return
        if fault in _ONLY_READS and len(data) < 2:
            fault = None
        half = data[: len(data) // 2]
        if fault == "short":
            length, data = str(len(half)), half
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if fault is not None:
            self.owner.count(fault)
        if fault in ("reset", "truncated", "stall"):
            self.wfile.write(half)
            self.wfile.flush()
            if fault == "stall":
                self.connection.settimeout(STALL_S)
                try:
                    self.connection.recv(1)  # returns when the client gives up
                except TimeoutError:
                    self.owner.count("waited for it to end")
            self._break_off(hard=fault == "reset")
        elif self.command != "HEAD":
            self.wfile.write(data)

    def _break_off(self, *, hard: bool = True) -> None:
        self.close_connection = True
        if hard:  # the client sees a reset, not an end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wfile.close()
            self.rfile.close()
            self.connection.close()

    def _refuse(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # the client has gone, or the code above broke the connection off
            super().handle()
