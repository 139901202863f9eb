"""Keeps the pilot's own memory to itself: no core dumps, no look into its environment, no file in place of stdout.

The pilot holds the proxy's key, tokens and the secrets of jobs. A core file would put them into a directory that others
read; ``/proc/<pid>/environ`` and ``ptrace`` would show them to a payload, which runs as the same user. Payloads are not
touched: ``execve`` makes a process dumpable again, and ``payload_inheritance`` gives their limit back.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import contextmanager
from typing import Iterator, Optional

logger = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4
_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2

FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
"""Signals that a faulty library in the pilot raises, and that somebody may send as well."""

_lock = threading.Lock()
_original: Optional[tuple[int, int]] = None
"""Soft and hard RLIMIT_CORE that the pilot was started with; None before ``forbid_dumps``."""


def open_standard_descriptors() -> None:
    """Open ``/dev/null`` for each of the descriptors 0, 1, 2 that the caller has closed.

    Else the next file (the log, a lock, a socket) would become stdout or stderr of the pilot and of its children.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            try:
                # the lowest free number: this one, since those below are open
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            except OSError:
                return  # no /dev/null: there is nothing better


def set_process_defaults() -> None:
    """Put right what a pilot may inherit and cannot work with; main thread only.

    With SIGCHLD ignored (some batch daemons start jobs like that) the kernel throws the exit codes of payloads away; a
    blocked SIGTERM would never arrive; with umask 0 anybody could change the queue data or the outputs.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(os.umask(0o077) | 0o002)


def forbid_dumps() -> None:
    """From here on this process leaves no core file, and no other process of the same user can look into it.

    ``RLIMIT_CORE`` is for core files, ``PR_SET_DUMPABLE`` also for collectors (systemd-coredump, apport), which the
    limit does not stop, and for ptrace, ``/proc/<pid>/environ`` and ``/proc/<pid>/mem``. Root can still do all of this.
    """
    global _original
    import resource

    with _lock:
        if _original is None:
            _original = resource.getrlimit(resource.RLIMIT_CORE)
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, _original[1]))
        except (OSError, ValueError) as exc:
            logger.warning("the limit of core files cannot be set to 0: %s", exc)
    try:
        import ctypes

        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        # glibc reserves 64 MB of address space for each thread else, and batch systems limit that (ulimit -v)
        library.mallopt(_M_ARENA_MAX, _ARENAS)
    except (ImportError, OSError, AttributeError) as exc:
        logger.debug("no PR_SET_DUMPABLE or no mallopt: %s", exc)


def block_faults() -> None:
    """Block ``FAULTS`` here and in threads to come: what is sent waits for ``sigwait``, a real fault still kills.

    A handler would return to the faulting instruction, again and again, and the pilot would hang at full CPU.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, FAULTS)


@contextmanager
def payload_inheritance() -> Iterator[None]:
    """Within the block a new process inherits what the pilot was started with: core file limit, no blocked signals."""
    with no_blocked_signals(), _core_limit():
        yield


@contextmanager
def no_blocked_signals() -> Iterator[None]:
    """Within the block a new process inherits no blocked signals (``block_faults``)."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, FAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def _core_limit() -> Iterator[None]:
    if _original is None or _original[0] == 0:
        yield
        return
    import resource

    with _lock:
        resource.setrlimit(resource.RLIMIT_CORE, _original)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, (0, _original[1]))
