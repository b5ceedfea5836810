"""Serves one run's files to a browser on this machine, for those that do not open files of a disk.

It listens on 127.0.0.1 only. The address has a random token, so other users of the machine cannot guess it, and a page
of another site that makes the browser call this address is refused, as it sends another host name.
"""

from __future__ import annotations

import hmac
import secrets
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gpuexec.report import run_folder

_TYPES = {
    run_folder.PAGE: "text/html; charset=utf-8",
    run_folder.REPORT: "application/json",
    run_folder.TRACE: "application/gzip",
    run_folder.LOG: "application/x-ndjson; charset=utf-8",
}
_HOST = "127.0.0.1"


class ReportServer(ThreadingHTTPServer):
    """Serves the files of a run folder. ``url`` is the address of its page. ``port`` of 0: any free one."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.token = secrets.token_urlsafe(24)
        super().__init__((_HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Return the address of the page."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/{run_folder.PAGE}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about a browser that has gone in the middle of an answer."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        """Print nothing for a request: the address has the token."""

    def _answer(self, *, with_body: bool) -> None:
        name = self._file_name()
        try:
            content = (self.server.folder / name).read_bytes() if name is not None else None
        except OSError:
            content = None
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", _TYPES[name or ""])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _file_name(self) -> str | None:
        """Return the file that is asked for; ``None`` unless the token, the host and the name are right."""
        if self.headers.get("Host") != f"{_HOST}:{self.server.server_port}":
            return None
        token, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return None
        return name if name in _TYPES else None
