"""Main loop of a helper process: orders come as lines of JSON on stdin, each gets a thread; answers leave on stdout.

A worker module has ``load() -> {operation: function(call) -> dict}``, which imports the client library (ImportError =
it is not installed here). A function returns its result, or raises; ``Refused`` carries facts for the error table.
Runs on any Python >= 3.9 with the standard library, the pilot's package and the client library.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from typing import Any, Callable, Mapping

EVENT_GAP = 0.2
"""Seconds between progress events of one order."""


class Refused(Exception):
    """The library said no; the facts go to the pilot as they are (``text``, ``errno``, ``xrootd``, ...)."""

    def __init__(self, text: str, **facts: Any) -> None:
        super().__init__(text)
        self.facts = {"text": text, **facts}


class Call:
    """One order: its arguments, its way back, and whether it is still wanted."""

    def __init__(self, message: Mapping[str, Any], send: Callable[[Mapping[str, Any]], None]) -> None:
        self.number = int(message["id"])
        self.op = str(message["op"])
        self.args: Mapping[str, Any] = message["args"]
        self.again = bool(message.get("again"))
        """An earlier helper died over this order, after it had told of something done: its remains may lie about."""
        self._send = send
        self._lock = threading.Lock()
        self._aborts: list[Callable[[], None]] = []
        self._told = 0.0
        self.cancelled = False

    def event(self, **facts: Any) -> None:
        """Tell the pilot something at once (a file is done)."""
        self._send({"id": self.number, "event": facts})

    def progress(self, done: int) -> None:
        """Tell how many bytes have been moved so far; told on at most five times a second."""
        now = time.monotonic()
        if now - self._told >= EVENT_GAP:
            self._told = now
            self.event(bytes=done)

    def on_cancel(self, abort: Callable[[], None]) -> None:
        """Have ``abort`` called when the order is broken off (at once when it is already)."""
        with self._lock:
            self._aborts.append(abort)
            late = self.cancelled
        if late:
            abort()

    def forget(self, abort: Callable[[], None]) -> None:
        """Take an abort back."""
        with self._lock:
            if abort in self._aborts:
                self._aborts.remove(abort)

    def cancel(self) -> None:
        """Break the order off; a second time does nothing."""
        with self._lock:
            if self.cancelled:
                return
            self.cancelled = True
            aborts = list(self._aborts)
        for abort in aborts:
            abort()


Operation = Callable[[Call], Mapping[str, Any]]


def main(library: str, workdir: str) -> None:
    """Serve until stdin ends, then end with all children."""
    _keep_secrets()
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints must not stand among the answers
    os.chdir(workdir)
    lock = threading.Lock()

    def send(message: Mapping[str, Any]) -> None:
        data = json.dumps(message, default=str).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(out, data) :]

    try:
        name = library if "." in library else f"pilot.copytool.worker.{library}"
        operations: dict[str, Operation] = import_module(name).load()
    except ImportError as exc:
        send({"missing": f"{exc}"})
        os._exit(3)
    send({"ready": library})
    _serve(operations, send)
    _end()


def _serve(operations: Mapping[str, Operation], send: Callable[[Mapping[str, Any]], None]) -> None:
    calls: dict[int, Call] = {}

    def carry_out(call: Call) -> None:
        try:
            answer: Mapping[str, Any] = {"id": call.number, "result": operations[call.op](call)}
        except Refused as exc:
            answer = {"id": call.number, "failure": exc.facts}
        except BaseException as exc:  # noqa: BLE001 - every order gets an answer
            answer = _fault(call.number, exc)
        calls.pop(call.number, None)
        try:
            send(answer)
        except (TypeError, ValueError, RecursionError) as exc:  # it is no JSON
            send(_fault(call.number, exc))

    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "cancel" in message:
            call = calls.get(message["cancel"])
            if call is not None:
                threading.Thread(target=call.cancel, daemon=True).start()
            continue
        call = calls[message["id"]] = Call(message, send)
        try:
            threading.Thread(target=carry_out, args=(call,), daemon=True).start()
        except RuntimeError as exc:  # the limit of threads
            del calls[call.number]
            send(_fault(call.number, exc))


def _fault(number: int, exc: BaseException) -> Mapping[str, Any]:
    code = getattr(exc, "errno", None)
    facts = {"text": f"{type(exc).__name__}: {exc}", "errno": code if isinstance(code, int) else 0}
    return {"id": number, "failure": facts}


def _keep_secrets() -> None:
    """No core files, no look into this process by others of the same user: it holds the proxy."""
    import resource

    os.umask(os.umask(0o077) | 0o002)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    try:
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    except (ImportError, OSError, AttributeError):
        return


def _end() -> None:
    """The pilot closed the pipe, or died: nothing of this process group is left."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
