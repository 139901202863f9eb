"""An HTTP server that answers as a living PanDA server would, with a clock of its own."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    server: DatedServer

    def do_GET(self) -> None:
        """Answer is_alive."""
        body = b'{"success": true, "message": "", "data": null}'
        self.send_response_only(200)
        if self.server.offset is not None:
            self.send_header("Date", formatdate(time.time() + self.server.offset, usegmt=True))
        else:
            self.send_header("Date", "the day after tomorrow")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


class DatedServer(ThreadingHTTPServer):
    """``offset``: s that its clock is ahead; None = its header Date is nonsense."""

    offset: float | None = 0.0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.shutdown()
        self.server_close()
