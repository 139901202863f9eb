"""A small WebDAV storage that wants a bearer token, or computes no checksums; its files are in memory."""

from __future__ import annotations

import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional, Set
from urllib.parse import unquote


class WebDoor:
    """Listens on a free port of the loopback interface until ``close``.

    ``tokens``: those that open it, None = open to all. ``digests``: answers ``Want-Digest``.
    """

    def __init__(self, tokens: Optional[Set[str]] = None, digests: bool = True) -> None:
        self.files: Dict[str, bytes] = {}
        self.tokens = tokens
        self.digests = digests
        self.agents: List[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        """``http://host:port``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> Any:
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                pass  # tests read assertions, not this

            def answer(self, status: int, body: bytes = b"", length: Optional[int] = None, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def refused(self) -> bool:
                door.agents.append(self.headers.get("User-Agent", ""))
                scheme, _, token = self.headers.get("Authorization", "").partition(" ")
                if door.tokens is None or (scheme == "Bearer" and token in door.tokens):
                    return False
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(403 if token else 401)
                return True

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if self.refused():
                    return
                content = door.files.get(unquote(self.path))
                if content is None:
                    self.answer(404)
                    return
                extra = {}
                if self.headers.get("Want-Digest") and door.digests:
                    extra["Digest"] = f"adler32={zlib.adler32(content):08x}"
                self.answer(200, content, **extra)

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if not self.refused():
                    door.files[unquote(self.path)] = content
                    self.answer(201)

            def do_DELETE(self) -> None:
                if not self.refused():
                    self.answer(204 if door.files.pop(unquote(self.path), None) is not None else 404)

            def do_MKCOL(self) -> None:
                if not self.refused():
                    self.answer(201)

            def do_PROPFIND(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if not self.refused():
                    self.answer(405)

        return Handler
