"""Doors between a client and a server that misbehave on command: a relay that stops half-way, a deaf listener."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from typing import Iterator, List, Optional, Tuple

BLOCK = 1 << 16
SLOW_BLOCK = 1 << 14
SLOW_PAUSE = 0.02
"""Seconds per slow block: less than 1 MB/s."""


class Gate:
    """A relay on a free port of the loopback interface.

    When ``after`` bytes have gone ``down`` (to the client) or ``up`` (to the server), ``reached`` is set, and

    * ``hold``: the connection that did it stands still, both ends open; others pass;
    * ``slow``: everything goes on, at less than 1 MB/s;
    * ``cut``: all connections are reset and new ones are refused, as when the server was killed.

    ``open`` ends the trouble: what was held goes on. ``restore`` accepts connections again after a cut.
    """

    def __init__(self, server: Tuple[str, int], how: str = "hold", after: int = 1 << 40, way: str = "down") -> None:
        self.server, self.how, self.after, self.way = server, how, after, way
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._passed = 0
        self._lock = threading.Lock()
        self._sockets: List[socket.socket] = []
        self._closed = False
        self._listener = self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.server)
            except OSError:  # the server was killed
                _reset(client)
                continue
            with self._lock:
                if self._closed:
                    _reset(client), _reset(server)
                    return
                self._sockets += [client, server]
            for source, target, way in ((client, server, "up"), (server, client, "down")):
                try:
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError:  # cut in the meantime, by another connection
                    break
                threading.Thread(target=self._relay, args=(source, target, way), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, way: str) -> None:
        try:
            while True:
                slow = self.how == "slow" and self.reached.is_set() and not self._opened.is_set()
                data = source.recv(SLOW_BLOCK if slow else BLOCK)
                if not data:
                    break
                if way == self.way:
                    self._count(len(data))
                if slow:
                    self._opened.wait(SLOW_PAUSE)
                target.sendall(data)
        except OSError:
            pass  # one of them is gone, or cut
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already

    def _count(self, number: int) -> None:
        with self._lock:
            before, self._passed = self._passed, self._passed + number
            crossed = before <= self.after < self._passed
        if crossed:
            self.reached.set()
            if self.how == "cut":
                self.cut()
            elif self.how == "hold":
                self._opened.wait()

    def again(self) -> None:
        """Reset what was stopped, whose client must not notice any more, and stop the next one that comes as far."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
            self._passed = 0
            self.reached.clear()
        for end in sockets:
            _reset(end)

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        _close(self._listener)
        for end in sockets:
            _reset(end)

    def restore(self, server: Optional[Tuple[str, int]] = None) -> None:
        """Accept connections again, at the same port."""
        self.server = server or self.server
        self.open()
        self._listener = self._listen(self.port)

    def open(self) -> None:
        """End the trouble."""
        self._opened.set()

    def close(self) -> None:
        """End everything."""
        with self._lock:
            self._closed = True
        self.open()
        self.cut()


def _close(listener: socket.socket) -> None:
    try:
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
    except OSError:
        pass  # closed before
    listener.close()


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # gone already
    end.close()


class Deaf:
    """A server that accepts and never says a word; ``heard`` is set by the first bytes of a client."""

    def __init__(self) -> None:
        self.heard = threading.Event()
        self._held: List[socket.socket] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._held.append(client)
            threading.Thread(target=self._listen_to, args=(client,), daemon=True).start()

    def _listen_to(self, client: socket.socket) -> None:
        try:
            while client.recv(BLOCK):
                self.heard.set()
        except OSError:
            return

    def close(self) -> None:
        """Hang up."""
        _close(self._listener)
        for client in self._held:
            _reset(client)


@contextmanager
def gate(server: Tuple[str, int], how: str = "hold", after: int = 1 << 40, way: str = "down") -> Iterator[Gate]:
    """A ``Gate`` for the length of a block."""
    door = Gate(server, how, after, way)
    try:
        yield door
    finally:
        door.close()
