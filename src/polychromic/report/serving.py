"""A page served to this machine alone: loopback, reading only, behind a random token in the address."""

from __future__ import annotations

import hmac
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from polychromic.errors import PolychromicError

HOST = "127.0.0.1"


class PageServer(ThreadingHTTPServer):
    """Answers `/TOKEN/` with the page and `/TOKEN/version` with a word that changes when the page would.

    `version` is cheap and asked often; `render` is called once for each version. Anything else is not found, in
    particular every path without the token and every request whose Host is another name (DNS rebinding).
    """

    daemon_threads = True

    def __init__(self, version: Callable[[], str], render: Callable[[], str], port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.token = secrets.token_urlsafe(24)
        self.version = version
        self._render = render
        self._rendered: tuple[str, bytes] | None = None
        self._lock = Lock()

    @property
    def address(self) -> str:
        """Where a browser on this machine finds the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away before its answer came is no error; of everything else the cause is said."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def page(self) -> bytes:
        """The page of the current version."""
        with self._lock:
            version = self.version()
            if self._rendered is None or self._rendered[0] != version:
                self._rendered = (version, self._render().encode("utf-8", "backslashreplace"))
            return self._rendered[1]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # type: ignore[assignment]  # the server that made this handler
    server_version, sys_version = "polychromic", ""

    def do_GET(self) -> None:
        token, _, rest = self.path.removeprefix("/").partition("/")
        local = self.headers.get("Host") in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        )
        # Compared in constant time: how long a refusal takes tells nothing of the token.
        if not local or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        elif rest == "version":
            self._answer(HTTPStatus.OK, "text/plain", self.server.version().encode())
        elif rest == "":
            self._page()
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    def _page(self) -> None:
        try:
            self._answer(HTTPStatus.OK, "text/html", self.server.page())
        except PolychromicError as error:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())

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
        """Say nothing: the address holds the token."""
