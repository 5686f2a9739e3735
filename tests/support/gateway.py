"""A Pushgateway as far as a push needs one: keeps the last that was put."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Gateway(http.server.ThreadingHTTPServer):
    """Has `url`, `last`: path and text of the last push, and `deleted`: paths of groups."""

    daemon_threads = False
    block_on_close = True
    last: tuple[str, str] = ("", "")
    deleted: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.last = (self.path, body.decode())  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def do_DELETE(self) -> None:
        self.server.deleted.append(self.path)  # type: ignore[attr-defined]
        self.send_response(202)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A gateway on a free port of loopback."""
    with Gateway(("127.0.0.1", 0), _Handler) as server:
        server.deleted = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
