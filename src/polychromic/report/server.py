"""A page served to this machine alone: loopback, reading only, behind a random token in the address."""

from __future__ import annotations

import hmac
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from polychromic.errors import PolychromicError

HOST = "127.0.0.1"
MOST_CONNECTIONS = 32
"""Open at once. One that has not asked yet makes room for a new one; a browser asks at once."""
_SECONDS = 10.0  # for each word of a question, and for the whole answer to be taken


class PageServer(ThreadingHTTPServer):
    """Answers `/TOKEN/` with the page and `/TOKEN/version` with a word that changes when the page would.

    `version` is cheap and asked often; `render` is called once for each version. Anything else is not found, in
    particular every path without the token and every request whose Host is another name (DNS rebinding). Every
    connection is answered, also one that is too many, too slow or meets an error.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, version: Callable[[], str], render: Callable[[], str], port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.token = secrets.token_urlsafe(24)
        self.version = version
        self._render = render
        self._rendered: tuple[str, bytes] | None = None
        self._lock = Lock()
        self._connections_lock = Lock()
        self._connections: dict[socket.socket, bool] = {}  # whether it has asked; the oldest first

    @property
    def address(self) -> str:
        """Returns where a browser on this machine finds the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own, as long as there are not too many."""
        with self._connections_lock:
            silent = next((connection for connection, has_asked in self._connections.items() if not has_asked), None)
            full = len(self._connections) >= MOST_CONNECTIONS
            if full and silent is not None:
                del self._connections[silent]
                _refuse(silent, HTTPStatus.REQUEST_TIMEOUT, "others ask for the page; ask again")
                full = False
            if not full:
                self._connections[request] = False
        if full:
            _refuse(request, HTTPStatus.SERVICE_UNAVAILABLE, "too many ask for the page; ask again")
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def has_asked(self, request: Any) -> None:
        """Its question is there: it is answered before it has to make room."""
        with self._connections_lock:
            if request in self._connections:
                self._connections[request] = True

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection, and forgets it."""
        with self._connections_lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Passes over a browser that went away before its answer came; prints the cause of everything else."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
            _refuse(request, HTTPStatus.INTERNAL_SERVER_ERROR, f"the page cannot be made: {error!r}")

    def page(self) -> bytes:
        """Returns the page of the current version."""
        with self._lock:
            version = self.version()
            if self._rendered is None or self._rendered[0] != version:
                self._rendered = (version, self._render().encode("utf-8", "backslashreplace"))
            return self._rendered[1]


def _refuse(request: socket.socket, status: HTTPStatus, reason: str) -> None:
    """Sends an answer in one line, to whom nothing has been answered yet."""
    body = f"{reason}\n".encode("utf-8", "backslashreplace")
    head = f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    with suppress(OSError):  # it may be gone
        request.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # type: ignore[assignment]  # the server that made this handler
    server_version, sys_version = "polychromic", ""
    timeout = _SECONDS
    answered = False

    def handle(self) -> None:
        """Answers one request; silence for too long is answered too."""
        super().handle()
        if not self.answered:
            _refuse(self.connection, HTTPStatus.REQUEST_TIMEOUT, "no request came; ask again")

    def send_response(self, code: int, message: str | None = None) -> None:
        """Begins an answer."""
        self.answered = True
        super().send_response(code, message)

    def do_GET(self) -> None:
        self.server.has_asked(self.connection)
        token, _, rest = self.path.removeprefix("/").partition("/")
        local = self.headers.get("Host") in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        )
        # Compared in constant time: how long a refusal takes tells nothing of the token.
        if not local or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        elif rest == "version":
            self._made("text/plain", lambda: self.server.version().encode())
        elif rest == "":
            self._made("text/html", self.server.page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    def _made(self, kind: str, make: Callable[[], bytes]) -> None:
        """Returns what `make` gives, or why it cannot be made now."""
        status = HTTPStatus.OK
        try:
            content = make()
        except (PolychromicError, OSError) as error:
            kind, status, content = "text/plain", HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode()
        self._answer(status, kind, content)

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the address holds the token."""
