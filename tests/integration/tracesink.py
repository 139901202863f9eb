"""A loopback trace server: keeps what it gets, answers as it is told, can make its callers wait."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Tuple, Union

PATIENCE = 60.0
"""Seconds that anything may take before a test is given up."""
Reply = Union[int, bytes]
"""HTTP status, or raw bytes instead of an answer."""


class TraceSink:
    """``requests`` holds (headers, traces, answer given) of each request, ``traces`` what was taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._script: List[Reply] = []
        self._always: Reply = 201
        self.refused = ""
        """A request with a trace of this file is answered with 400."""
        self._open = threading.Event()
        self._open.set()
        self.requests: List[Tuple[Dict[str, str], List[Dict[str, Any]], Reply]] = []
        self.waiting = 0
        """Requests that have come and have no answer yet."""
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                sink._serve(self)

            def log_message(self, *_arguments: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_arguments: object) -> None:
                return  # a client that has gone away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/traces/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        traces = json.loads(body)
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
        self._open.wait(PATIENCE)
        with self._changed:
            reply = self._script.pop(0) if self._script else self._always
            if self.refused and f'"{self.refused}"' in body.decode():
                reply = 400
            self.waiting -= 1
            self.requests.append((dict(handler.headers), traces if isinstance(traces, list) else [traces], reply))
            self._changed.notify_all()
        if isinstance(reply, bytes):
            handler.wfile.write(reply)
            handler.close_connection = True
            return
        text = b"Created" if reply == 201 else b"the trace server does not like it"
        handler.send_response(reply)
        if 300 <= reply < 400:
            handler.send_header("Location", f"{self.url}elsewhere")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def answer(self, *script: Reply, always: Reply = 201) -> None:
        """Answer the next requests like this, all later ones with ``always``."""
        with self._changed:
            self._script, self._always = list(script), always

    def hold(self) -> None:
        """Answer nobody until ``release``."""
        self._open.clear()

    def release(self) -> None:
        """Answer again."""
        self._open.set()

    @property
    def traces(self) -> List[Dict[str, Any]]:
        """All traces that were answered with 201, in their order."""
        with self._changed:
            return [trace for _, traces, reply in self.requests if reply == 201 for trace in traces]

    def wait(self, count: int) -> List[Dict[str, Any]]:
        """Block until so many traces were taken."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self.traces) >= count, PATIENCE)
        assert done, f"only {len(self.traces)} of {count} traces have come: {self.requests}"
        return self.traces

    def wait_requests(self, count: int) -> None:
        """Block until so many requests were answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE), self.requests

    def wait_caller(self) -> None:
        """Block until a request waits for its answer."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting > 0, PATIENCE)

    def close(self) -> None:
        """Close the port."""
        self.release()
        self._server.shutdown()
        self._server.server_close()
