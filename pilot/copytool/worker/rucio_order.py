"""Makes the storage access of the Rucio client library stoppable, limited in time and visible.

The library blocks in gfal2, in commands (xrdcp, xrdfs) and in copies of local files, and knows no way to stop. Here
each of these doors is replaced by one that reports to the order which the thread works for:

```
 thread of the order ──► library ──► gfal2 context | command | local copy  ──► storage
                                        │ how to stop it, bytes moved, what it said
 cancelled ──► Order.abort() ───────────┘      (between the doors: an exception in the thread)
```
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence
from urllib.parse import quote

from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.copying import copy_file, free_bytes

ASK_LIMIT = 120.0
"""Seconds that a command which moves no file may take."""


COME_BACK = 0.4
"""Seconds that the library has after its storage access was stopped; davix cannot be, while a server does not read."""


class Abort(BaseException):
    """The order was broken off. No Exception: the library must not take it for an attempt that failed."""


class Order:
    """What one thread does for one order (or one clean-up): how to stop it, and how far it has come.

    Args:
        moved: gets the bytes of the present file that have been moved so far.
    """

    def __init__(self, moved: Callable[[int], None] = lambda _count: None) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self._guarded = 0
        self._inside = 0
        """Identity of the thread while it is in the library, else 0."""
        self._ended = threading.Event()
        self._back = threading.Event()
        """The thread is not in the library."""
        self._back.set()
        self.clean_up: Callable[[], object] = lambda: None
        """Called after an abort when the library does not come back."""
        self.token = CancelToken()
        self.tell = moved
        self.next_file: Callable[[], None] = lambda: None
        """Called between two files, for the sum of the bytes."""
        self.on_copy: Callable[[], None] = lambda: None
        """Called when the bytes of a file begin to move."""
        self.limit: Optional[float] = None
        """Seconds that the copy of the present file may take."""
        self.begin("")

    def begin(self, source: str, limit: Optional[float] = None) -> None:
        """The next file."""
        self.source = source
        self.growing = f"{source}.part"
        """Where a download is written to."""
        self.limit = limit
        self.copying = False
        """Bytes may have been written at the destination; see ``copies``."""
        self.errno = 0
        self.said = ""
        """Last words of a command or of gfal2, where the library drops them."""
        self.adler32 = ""
        """What the local file has to have before it is uploaded."""
        self.arrived = self.free = -1
        """Bytes of the file that came, and of free space beside it."""

    def copies(self) -> None:
        """From now on there may be something at the destination."""
        if not self.copying:
            self.copying = True
            self.on_copy()

    @property
    def aborted(self) -> bool:
        """The order is not wanted any more."""
        return self._ended.is_set()

    def check(self) -> None:
        """Raise Abort when broken off."""
        if self._ended.is_set():
            raise Abort

    def wait(self, seconds: float) -> None:
        """Sleep, unless broken off."""
        self._ended.wait(seconds)
        self.check()

    def abort(self) -> None:
        """Stop whatever the order is waiting for."""
        with self._lock:
            self._ended.set()
            stops = list(self._stops)
            if self._inside and not self._guarded:
                _raise_in(self._inside)
        self.token.cancel(1200, "broken off")
        for stop in stops:
            threading.Thread(target=stop, daemon=True).start()  # gfal2 waits in its cancel() for what it cancels
        if self.copying and not self._back.wait(COME_BACK):
            self.clean_up()

    @contextmanager
    def in_library(self) -> Iterator[None]:
        """The library works; ``abort`` may raise Abort anywhere in it."""
        try:
            with self._lock:
                self.check()
                self._inside = threading.get_ident()
                self._back.clear()
            yield
        finally:
            with self._lock:
                inside, self._inside = self._inside, 0
                self._back.set()
                if self.aborted and inside:
                    _clear(inside)

    @contextmanager
    def at_door(self, stop: Callable[[], None]) -> Iterator[None]:
        """The thread waits for storage; ``stop`` makes it return."""
        with self._lock:
            self.check()
            self._stops.append(stop)
            self._guarded += 1
        try:
            yield
        except Exception:
            if self.aborted:
                raise Abort from None
            raise
        finally:
            with self._lock:
                self._stops.remove(stop)
                self._guarded -= 1
        self.check()


def _raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Abort))


def _clear(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)


_local = threading.local()


def current() -> Order:
    """Return the order that this thread works for."""
    order: Optional[Order] = getattr(_local, "order", None)
    return order if order is not None else Order()


@contextmanager
def working_for(order: Order) -> Iterator[Order]:
    """This thread works for ``order``."""
    before = getattr(_local, "order", None)
    _local.order = order
    try:
        yield order
    finally:
        _local.order = before


@contextmanager
def limited(seconds: float) -> Iterator[Order]:
    """This thread does something that must not take longer (a clean-up): Abort is raised when it does."""
    order = Order()
    timer = threading.Timer(seconds, order.abort)
    timer.daemon = True
    timer.start()
    try:
        with working_for(order), order.in_library():
            yield order
    finally:
        timer.cancel()


# --- gfal2 ---------------------------------------------------------------------------------------------------------


class _Context:
    """A gfal2 context that can be stopped from outside and says how far a copy is."""

    _WAITING = frozenset({"filecopy", "stat", "checksum", "unlink", "rename", "mkdir_rec", "getxattr", "listdir"})

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._WAITING:
            return real

        def guarded(*args: Any) -> Any:
            order = current()
            if name == "filecopy":
                order.copies()
                args[0].monitor_callback = lambda _src, _dst, _mean, _now, done, _seconds: order.tell(int(done))
            urls = [escaped(arg) if isinstance(arg, str) else arg for arg in args]
            with order.at_door(self._real.cancel):
                try:
                    return real(*urls)
                except Exception as exc:
                    order.errno = int(getattr(exc, "code", None) or 0)
                    order.said = str(getattr(exc, "message", "") or exc)
                    raise

        return guarded


def escaped(url: str) -> str:
    """Rucio does not escape the names in its URLs, and davix takes no others; signed ones stay as they are."""
    return quote(url, safe="%/:?&=#@+,;~!*'()$") if url.startswith(("http", "dav")) else url


def guard_gfal2() -> bool:
    """Replace the contexts of gfal2; False when it is not installed here."""
    gfal2 = gfal2_module()
    if gfal2 is None:
        return False
    real = gfal2.creat_context
    gfal2.creat_context = lambda: _Context(real())
    return True


def gfal2_module() -> Any:
    """Import gfal2, in a virtual environment from the distribution's package: there is none on PyPI that builds."""
    try:
        import gfal2
    except ImportError:
        gfal2 = None
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for place in ("/usr/lib/python3/dist-packages", f"/usr/lib64/{version}/site-packages"):
            file = os.path.join(place, f"gfal2{EXTENSION_SUFFIXES[0]}")  # of this very version of Python only
            spec = spec_from_file_location("gfal2", file)
            if spec is not None and spec.loader is not None and os.path.exists(file):
                gfal2 = module_from_spec(spec)
                spec.loader.exec_module(gfal2)
                sys.modules["gfal2"] = gfal2
                break
    return gfal2


# --- commands ------------------------------------------------------------------------------------------------------


def execute(
    args: Sequence[str], env: Optional[Mapping[str, str]] = None, timeout: Optional[float] = None
) -> tuple[int, str, str]:
    """Run a command like the library's ``execute_args``, within the order's time: exit code, stdout, stderr."""
    order = current()
    copies = os.path.basename(args[0]) in ("xrdcp", "gfal-copy")
    limit = timeout or (order.limit if copies else ASK_LIMIT)
    if copies:
        order.copies()
    running: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        for process in running:
            process.kill()

    with order.at_door(stop):
        process = subprocess.Popen(
            list(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
        running.append(process)
        if order.aborted:
            stop()
        watch = _Watch(lambda: order.tell(_read_by(process.pid))) if copies else None
        try:
            out, err = process.communicate(timeout=limit)
            code, last = process.returncode, err.decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            stop()
            out, _ = process.communicate()
            code, last = 110, f"{args[0]}: timed out, not done within {limit:.0f} s"
        finally:
            if watch is not None:
                watch.end()
    if code:
        order.said = last.strip() or f"{args[0]}: exit code {code}"
    return code, out.decode("utf-8", "replace"), last


def _read_by(pid: int) -> int:
    """Return the bytes that a process has read so far; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


class _Watch:
    """Calls a function once a second until it is ended."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._done = threading.Event()
        self._look = look
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._done.wait(1.0):
            self._look()

    def end(self) -> None:
        """No more calls."""
        self._done.set()


@contextmanager
def watched(order: Order) -> Iterator[None]:
    """Tell the size of the order's growing files."""

    def look() -> None:
        try:
            order.tell(os.stat(order.growing).st_size)
        except OSError:
            return

    watch = _Watch(look)
    try:
        yield
    finally:
        watch.end()


# --- local copies --------------------------------------------------------------------------------------------------


def copy(source: str, target: str) -> str:
    """Copy like ``shutil.copy``, in blocks."""
    order = current()
    order.copies()
    done = 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        order.tell(done)

    with order.at_door(lambda: None):
        try:
            copy_file(source, target, order.token, moved)
        except CancelledError:
            raise Abort from None
    return target


# --- checksums -----------------------------------------------------------------------------------------------------


def adler32_of_output(path: str) -> str:
    """Compute it, and refuse a file that is not the one which the pilot has announced."""
    from rucio.common.checksum import adler32

    value, announced = str(adler32(path)), current().adler32
    if announced and value.lstrip("0").lower() != announced.strip().lstrip("0").lower():
        raise RuntimeError(f"Checksum mismatch. Source: {announced} Destination: {value} (nothing was uploaded)")
    return value


def looking_at(verify: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Note how much has arrived before it is verified: a file that fails is removed at once."""

    def look_and_verify(item: Any, path: str) -> Any:
        order = current()
        order.arrived = os.stat(path).st_size
        order.free = free_bytes(os.path.dirname(path))
        return verify(item, path)

    return look_and_verify


def once_a_minute(connect: Callable[[Any], None]) -> Callable[[Any], None]:
    """The library asks the door whether it is there, for each file twice and more."""
    known: dict[tuple[str, str], float] = {}

    def maybe(protocol: Any) -> None:
        door = (protocol.hostname, protocol.port)
        if known.get(door, 0.0) < time.monotonic():
            connect(protocol)
            known[door] = time.monotonic() + 60.0

    return maybe


def _modest(pcache: Callable[[], Any]) -> Callable[[], Any]:
    """The library's cache lets everybody write whatever this process makes from then on."""

    def make() -> Any:
        before = os.umask(0o077)
        try:
            return pcache()
        finally:
            os.umask(before)

    return make


def install() -> bool:
    """Put ourselves between the library and its doors; returns whether gfal2 is one of them."""
    from rucio.client import downloadclient, uploadclient
    from rucio.rse.protocols import posix, xrootd

    uploadclient.adler32 = adler32_of_output
    uploadclient.md5 = lambda _path: ""  # nothing compares it, and it takes four times as long as adler32
    downloadclient._verify_checksum = looking_at(downloadclient._verify_checksum)
    downloadclient.Pcache = _modest(downloadclient.Pcache)
    posix.shutil = SimpleNamespace(copy=copy)
    xrootd.execute_args = execute
    xrootd.Default.connect = once_a_minute(xrootd.Default.connect)
    if not guard_gfal2():
        return False
    from rucio.rse.protocols import gfal

    gfal.execute_args = execute
    return True
