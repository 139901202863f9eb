"""A real socket server that answers with what the test gave it, byte by byte, and keeps what was sent to it."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union
from urllib.parse import parse_qsl

RECORDINGS = Path(__file__).resolve().parents[2] / "data" / "panda-server-transcripts"


class Sent(NamedTuple):
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    raw: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def arguments(self) -> dict[str, Any]:
        body = zlib.decompress(self.raw, 47) if self.headers.get("content-encoding") == "gzip" else self.raw
        if self.headers.get("content-type") == "application/json":
            return dict(json.loads(body))
        return dict(parse_qsl(body.decode(), keep_blank_values=True))


Step = Union[bytes, Callable[[socket.socket], None]]


def answer(text: Union[str, bytes], status: int = 200, content_type: str = "text/plain") -> bytes:
    """A chunked answer, as the recorded servers give it."""
    body = text.encode() if isinstance(text, str) else text
    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
    head = f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\nContent-Type: {content_type}\r\n\r\n".encode()
    return head + chunk + b"0\r\n\r\n"


def v1(data: Any = None, success: bool = True, message: str = "") -> bytes:
    """A v1 envelope."""
    return answer(json.dumps({"success": success, "message": message, "data": data}))


def legacy(**values: Any) -> bytes:
    """A legacy answer in JSON."""
    return answer(json.dumps(values), content_type="application/json")


def close(sock: socket.socket) -> None:
    """End the connection orderly, without an answer."""
    sock.shutdown(socket.SHUT_RDWR)


def reset(sock: socket.socket) -> None:
    """End the connection with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(sock.detach())


FORBIDDEN = answer("ERROR : method x is forbidden", 403)


class WireServer:
    """Plays one step per request, the last one for ever; ``sent`` are the requests."""

    def __init__(self, *steps: Step, host: str = "127.0.0.1") -> None:
        self.steps = list(steps)
        self.sent: list[Sent] = []
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> WireServer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # close() alone would leave the blocked accept() listening.
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        # Before the number of the descriptor is free: a late accept() would take the next server's connections.
        self._acceptor.join(30)
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close all connections from the server's side, as a keep-alive time-out does."""
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                number = self.connections
                self._sockets.append(sock)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with sock:
                stream = sock.makefile("rb")
                for request in _requests(stream, number):
                    with self._lock:
                        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                        self.sent.append(request)
                    if callable(step):
                        step(sock)
                    else:
                        sock.sendall(step)
        except OSError:
            pass


def _requests(stream: Any, number: int) -> Iterator[Sent]:
    while True:
        line = stream.readline().decode()
        if not line:
            return
        method, target, _ = line.split()
        headers: dict[str, str] = {}
        while line := stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        yield Sent(method, target, headers, stream.read(int(headers.get("content-length", 0))), number)


def recording(name: str) -> dict[str, Any]:
    """One recorded exchange, e.g. ``v1/009-acquire_jobs-none``."""
    return dict(json.loads((RECORDINGS / f"{name}.json").read_text()))


def recorded_answer(name: str) -> bytes:
    """The recorded answer as bytes on the wire."""
    response = recording(name)["response"]
    return answer(response["body"], response["status"], response["headers"]["Content-Type"])
