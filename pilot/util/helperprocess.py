"""One helper process: started, talked to and buried by a thread of its own, so that nobody else ever waits for it.

```
 orders ──► outgoing ──► stdin   ┐                  starting ──► ready ──► retired ──► ended
 inboxes ◄── lines ◄──── stdout  ├ process               └──── problem ────────────────┘
 last words ◄─────────── stderr  ┘ (pidfd: its end, even when a child of it holds the pipes)
```
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Callable, Mapping, Optional

from pilot.util.groups import collect, kill_group, process_descriptor, spawn_group
from pilot.util.redact import redact

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
"""Directory of the package ``pilot``."""
START_LIMIT = 60.0
"""Seconds for the start of an interpreter and the import of the library (it may lie on a dead file system)."""
CLEANUP = 3.0
"""Seconds that a helper may go on after an order was given up."""
LONGEST_LINE = 64 << 20
"""Bytes of an answer; more is the noise of a library."""
LONGEST_WORD = 2000
"""Characters of a line on stderr that are kept."""
# The package alone is made known, not its directory: that may be site-packages of another version of Python. Nor does
# the working directory count, where a job may have put a json.py. An archive (``pilot.staging.scriptfiles``) holds
# nothing but the package.
_START = """\
import sys
sys.path[:] = [place for place in sys.path if place not in ("", ".")]
from importlib import util
import os
root = os.path.dirname(sys.argv[1])
if os.path.isfile(root):
    sys.path.insert(0, root)
else:
    spec = util.spec_from_file_location("pilot", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
    sys.modules["pilot"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pilot"])
from pilot.copytool.worker.main import main
main(sys.argv[2], sys.argv[3])
"""


class Call:
    """One order under way in one helper; its inbox gets (``event`` | ``result`` | ``failure`` | ``lost``, value)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inbox: SimpleQueue[tuple[str, Any]] = SimpleQueue()


class _Lines:
    """Cuts a stream into lines; each byte is looked at once."""

    def __init__(self, take: Callable[[bytes], None], longest: int) -> None:
        self._take = take
        self._longest = longest
        self._rest = bytearray()
        self._skip = False

    def feed(self, data: bytes) -> None:
        """Take what has been read."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            self.flush()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._longest:
            if not self._skip:
                self._take(bytes(self._rest[:LONGEST_WORD]))
            self._skip = True
            self._rest.clear()

    def flush(self) -> None:
        """The line is complete."""
        if self._rest and not self._skip:
            self._take(bytes(self._rest))
        self._rest.clear()
        self._skip = False


class HelperProcess:
    """One process for one client library, starting from the moment of its making. Thread-safe; nothing here blocks.

    Args:
        library: worker module.
        python: interpreter.
        env: complete environment.
        workdir: where it runs.
    """

    def __init__(self, library: str, python: str, env: Mapping[str, str], workdir: str) -> None:
        self.library = library
        self.python = python
        self.problem = ""
        """Why it did not start."""
        self.missing = False
        """The library is not installed for this Python."""
        self.retired = False
        self.ended = False
        self.gone = threading.Event()
        """Set once its process is collected."""
        self.dismissed = False
        """Ended by us with its orders: nobody is to repeat them."""
        self.closed = False
        """Ended by us before it had started, or with nothing to do."""
        self._env, self._workdir = env, workdir
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._abandoned: set[int] = set()
        self._count = 0
        self._kill_at: Optional[float] = None
        self._last_words: deque[str] = deque(maxlen=15)
        self._outgoing: deque[memoryview] = deque()
        self._ready = False
        self._waiting: list[Callable[[], None]] = []
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        try:
            threading.Thread(target=self._live, name=f"helper-{library}", daemon=True).start()
        except RuntimeError as exc:  # the limit of threads
            self._bury(None, str(exc))

    # --- the side of the transfer threads ----------------------------------------------------------------------------

    def when_started(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called once it is ready or has a problem."""
        with self._lock:
            if not (self._ready or self.ended):
                self._waiting.append(tell)
                return
        tell()

    @property
    def started(self) -> bool:
        """True when it is ready, or never will be."""
        return self._ready or self.ended

    def submit(self, op: str, args: Mapping[str, Any], *, again: bool = False) -> Optional[Call]:
        """Hand an order over; None when this helper takes no more."""
        with self._lock:
            if self.retired or self.ended:
                return None
            self._count += 1
            call = self._calls[self._count] = Call(self._count)
        self._send({"id": call.number, "op": op, "args": args, "again": again})
        return call

    def cancel(self, call: Call) -> None:
        """Ask the library to break the order off."""
        self._send({"cancel": call.number})

    def abandon(self, call: Call) -> None:
        """Nobody waits for this order any more: the helper takes no new ones, and is killed when it does not end."""
        with self._lock:
            if self._calls.pop(call.number, None) is None:
                return
            self._abandoned.add(call.number)
            self.retired = True
        self._wake()

    def close(self, *, at_once: bool = False) -> None:
        """Take no more orders; ends when nothing is under way (``at_once``: now)."""
        with self._lock:
            self.retired = self.closed = True
            if at_once and not self.ended:
                self.dismissed = True
                if self._process is not None:
                    kill_group(self._process)
        self._wake()

    def _send(self, message: Mapping[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        with self._lock:
            if self.ended:
                return  # everybody is told
            self._outgoing.append(data)
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self.ended:
                return
            try:
                os.write(self._wake_out, b"x")
            except BlockingIOError:  # it is awake already
                return

    # --- the side of its own thread ----------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            process = spawn_group(
                [self.python, "-c", _START, str(PACKAGE), self.library, self._workdir],
                env=self._env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except OSError as exc:
            self._bury(None, f"{self.python}: {exc.strerror or exc}")
            return
        with self._lock:
            self._process = process
            self._kill_at = time.monotonic() + START_LIMIT
            if self.dismissed:
                kill_group(process)
        try:
            self._talk(process)
        finally:
            self._bury(process, "")

    def _talk(self, process: subprocess.Popen[bytes]) -> None:
        """Carry messages in both directions until the process has ended."""
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        stdin, answers = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(stdin, False)
        streams = {answers: _Lines(self._message, LONGEST_LINE),
                   process.stderr.fileno(): _Lines(self._said, LONGEST_WORD)}
        for descriptor in streams:
            os.set_blocking(descriptor, False)
        end = process_descriptor(process.pid)
        with selectors.DefaultSelector() as selector:
            try:
                for descriptor in (*streams, self._wake_in, *([] if end is None else [end])):
                    selector.register(descriptor, selectors.EVENT_READ)
                writing, over = False, False
                while not over and answers in selector.get_map():
                    wait = None if self._kill_at is None else max(0.0, self._kill_at - time.monotonic())
                    for key, _ in selector.select(wait):
                        if key.fd == end:
                            over = True
                        elif key.fd == self._wake_in:
                            os.read(key.fd, 4096)
                        elif key.fd in streams and not _drain(key.fd, streams[key.fd]):
                            selector.unregister(key.fd)
                    writing = self._write(stdin, selector, writing)
                    self._end_when_done(process)
            finally:
                if end is not None:
                    os.close(end)
        for descriptor, lines in streams.items():
            _drain(descriptor, lines)
            lines.flush()

    def _write(self, stdin: int, selector: selectors.BaseSelector, waited: bool) -> bool:
        """Write what the pipe takes; True when there is more, and the selector waits for room."""
        more = self._write_some(stdin)
        if more and not waited:
            selector.register(stdin, selectors.EVENT_WRITE)
        elif waited and not more:
            selector.unregister(stdin)
        return more

    def _write_some(self, stdin: int) -> bool:
        with self._lock:
            while self._outgoing:
                data = self._outgoing.popleft()
                try:
                    done = os.write(stdin, data)
                except BlockingIOError:
                    done = 0
                except OSError:  # it is dying, its end comes next
                    self._outgoing.clear()
                    return False
                if done < len(data):
                    self._outgoing.appendleft(data[done:])
                    return True
        return False

    def _end_when_done(self, process: subprocess.Popen[bytes]) -> None:
        """A retired helper goes when nothing is under way; one with given-up orders has a little time for them."""
        with self._lock:
            late = self._kill_at is not None and time.monotonic() >= self._kill_at
            if not self._ready:
                if late or (self.retired and not self._calls):
                    self.problem = f"not ready within {START_LIMIT:.0f} s" if late else "closed"
                    kill_group(process)
                    self._kill_at = None
                return
            if not self.retired or self._calls:
                return
            if not self._abandoned:
                kill_group(process)
            elif self._kill_at is None:
                self._kill_at = time.monotonic() + CLEANUP
            elif late:
                logger.warning("helper %s does not end an order that was broken off: killed", self.library)
                self._abandoned.clear()
                self._kill_at = None
                kill_group(process)

    def _message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            number = message.get("id")
        except (ValueError, AttributeError, RecursionError):
            self._said(line)
            return
        if "ready" in message or "missing" in message:
            self._greeting(message)
            return
        kind = next((name for name in ("event", "result", "failure") if name in message), "")
        if not isinstance(number, int) or not kind:
            self._said(line)
            return
        with self._lock:
            call = self._calls.get(number)
            if kind != "event":
                self._calls.pop(number, None)
                self._abandoned.discard(number)
        if call is not None:
            call.inbox.put((kind, message.get(kind)))

    def _greeting(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            if "missing" in message:
                self.missing, self.problem = True, str(message["missing"])
                return  # its end comes next
            self._ready = True
            self._kill_at = None
        self._tell()

    def _said(self, line: bytes) -> None:
        text = redact(line[:LONGEST_WORD].decode("utf-8", "replace").strip())
        if text:
            self._last_words.append(text)
            logger.debug("%s: %s", self.library, text)

    def _bury(self, process: Optional[subprocess.Popen[bytes]], problem: str) -> None:
        text = problem
        if process is not None:
            code = collect(process)
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            words = "; ".join(word[:300] for word in list(self._last_words)[-3:])
            text = f"the helper process for {self.library} ended with {how}{f': {words}' if words else ''}"
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    _close(stream)
        with self._lock:
            self.ended = self.retired = True
            if not self._ready:
                self.problem = f"{self.problem or text} (Python {self.python})"
            calls, self._calls = list(self._calls.values()), {}
            self._outgoing.clear()
            os.close(self._wake_in)
            os.close(self._wake_out)
        self.gone.set()
        for call in calls:
            call.inbox.put(("lost", text))
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell()


def _drain(descriptor: int, lines: _Lines) -> bool:
    """Read what there is, at most a MB at a time; False at the end of the stream."""
    for _ in range(16):
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if not data:
            return False
        lines.feed(data)
    return True


def _close(stream: Any) -> None:
    try:
        stream.close()
    except OSError:  # unsent orders to a dead process
        return
