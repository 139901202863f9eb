"""Moves the pieces of one file side by side, in threads that an order leaves behind when it is broken off.

```
 order ──► body (thread) ──► pieces (threads) ──► server
   │          └── result, or the first failure
   └── cancelled: ``stopped`` is set, the body's ``tidy`` is called, the order answers at once; a thread that waits for
       the network finds out later and does nothing more
```
"""

from __future__ import annotations

import os
import threading
import zlib
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, Callable, Mapping, Optional, Sequence, TypeVar

from pilot.copytool.worker.main import Call, Refused
from pilot.copytool.worker.watch import watched

T = TypeVar("T")
R = TypeVar("R")
BLOCK = 1 << 18
"""Bytes per read and write."""
_BASE = 65521


class Stopped(BaseException):
    """The order is not wanted any more. No Exception: a library would take it for a failure and try again."""


class Job:
    """One order under way; ``moved`` bytes are told to the pilot.

    Args:
        call: the order.
        size: bytes of the file, 0 = unknown.
    """

    def __init__(self, call: Call, size: int = 0) -> None:
        self.call = call
        self.size = size
        self.moved = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._queues: list[SimpleQueue[Any]] = []

    def check(self) -> None:
        """Raise Stopped when the order is over."""
        if self.stopped.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep, unless it is over."""
        self.stopped.wait(seconds)
        self.check()

    def count(self, number: int) -> None:
        """Add bytes that have moved."""
        with self._lock:
            self.moved += number
            moved = self.moved
        self.call.progress(moved)

    def _stop(self) -> None:
        self.stopped.set()
        with self._lock:
            queues = list(self._queues)
        for queue in queues:
            queue.put((None, None, Stopped()))

    def _queue(self) -> SimpleQueue[Any]:
        queue: SimpleQueue[Any] = SimpleQueue()
        with self._lock:
            self._queues.append(queue)
        if self.stopped.is_set():
            queue.put((None, None, Stopped()))
        return queue

    def run(
        self, body: Callable[[], Mapping[str, Any]], tidy: Callable[[], None] = lambda: None
    ) -> Mapping[str, Any]:
        """Have ``body`` done in a thread; when the order is broken off meanwhile, call ``tidy`` and return.

        Raises:
            Refused: as the body, or 'broken off'.
        """
        answers = self._queue()
        self.call.on_cancel(self._stop)
        try:
            with watched(self.call, lambda: self.moved, self.size):
                threading.Thread(target=_answer, args=(answers, 0, body), daemon=True).start()
                _, value, failure = answers.get()
        finally:
            self.call.forget(self._stop)
        if isinstance(failure, Stopped):
            self.stopped.set()
            tidy()
            raise Refused("broken off")
        if failure is not None:
            raise failure
        return dict(value)

    def side_by_side(self, items: Sequence[T], do: Callable[[T], R], threads: int) -> list[R]:
        """Do all items with some threads; returns their results in order. The first failure stops the order."""
        todo: SimpleQueue[tuple[int, T]] = SimpleQueue()
        for pair in enumerate(items):
            todo.put(pair)
        answers = self._queue()
        left = len(items)

        def work() -> None:
            while not todo.empty() and not self.stopped.is_set():
                try:
                    number, item = todo.get_nowait()
                except Empty:  # another thread was faster
                    return
                _answer(answers, number, lambda item=item: do(item))  # type: ignore[misc]

        for _ in range(min(threads, left)):
            threading.Thread(target=work, daemon=True).start()
        results: dict[int, R] = {}
        while left:
            number, value, failure = answers.get()
            if failure is not None:
                self.stopped.set()
                raise failure
            results[number] = value
            left -= 1
        return [results[number] for number in range(len(items))]


def _answer(answers: SimpleQueue[Any], number: int, do: Callable[[], Any]) -> None:
    try:
        answers.put((number, do(), None))
    except BaseException as exc:  # noqa: BLE001 - whoever waits gets it
        answers.put((number, None, exc))


def spans(size: int, part: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the pieces of a file; an empty file has one, of no bytes."""
    return [(start, min(part, size - start)) for start in range(0, size, part)] or [(0, 0)]


def adler32_of(sums: Sequence[tuple[int, int]]) -> str:
    """Return the adler32 of the whole from (adler32, length) of its pieces in order, as 8 hex digits."""
    low, high = 1, 0
    for value, length in sums:
        one, two = value & 0xFFFF, value >> 16 & 0xFFFF
        high = (high + two + length * (low - 1)) % _BASE
        low = (low + one - 1) % _BASE
    return f"{high << 16 | low:08x}"


class Slice:
    """A stretch of a local file as an HTTP body: can be rewound for another attempt, counts what was read.

    Args:
        descriptor: of the open file.
        offset: where it begins, bytes.
        length: bytes.
        job: told of the bytes; when it is over, reading raises Stopped.
    """

    def __init__(self, descriptor: int, offset: int, length: int, job: Job) -> None:
        self._descriptor, self._offset, self._length, self._job = descriptor, offset, length, job
        self._position = self._counted = 0

    def __len__(self) -> int:
        return self._length

    def tell(self) -> int:
        """Position, bytes."""
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go back or on."""
        self._position = max(0, offset + (0, self._position, self._length)[whence])
        return self._position

    def read(self, size: Optional[int] = -1) -> bytes:
        """Return the next bytes, in blocks that let an abort through."""
        self._job.check()
        left = self._length - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._descriptor, wanted, self._offset + self._position) if wanted > 0 else b""
        if len(data) < wanted and not data:
            raise Refused("the file has become shorter while it was read", errno=5)
        self._position += len(data)
        new = max(0, self._position - self._counted)  # what is sent again moves no further, but lives
        self._counted += new
        self._job.count(new)
        return data

    def sums(self) -> tuple[int, bytes]:
        """Return adler32 and md5 of the stretch."""
        import hashlib

        adler, digest = 1, hashlib.md5(usedforsecurity=False)
        position, end = self._offset, self._offset + self._length
        while position < end:
            self._job.check()
            data = os.pread(self._descriptor, min(BLOCK * 4, end - position), position)
            if not data:
                raise Refused("the file has become shorter while it was read", errno=5)
            adler = zlib.adler32(data, adler)
            digest.update(data)
            position += len(data)
            self._job.call.progress(self._job.moved)  # reading is a sign of life
        return adler, digest.digest()


class Target:
    """The local file that pieces are written to; open as long as a thread may still write."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file: BinaryIO = os.fdopen(descriptor, "wb", buffering=0)

    def write(self, data: bytes, position: int) -> None:
        """Write all of ``data`` at ``position``."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file.fileno(), view, position)
            view, position = view[count:], position + count
