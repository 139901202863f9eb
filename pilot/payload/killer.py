"""Ends a set of processes: TERM, a grace time, then KILL until nothing is left; all of them in parallel.

Who belongs to the set is the caller's knowledge (``find``); it is asked again in each round, so children that are
forked while we kill are found as well.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pilot.util.procfs import ProcInfo, same_process

logger = logging.getLogger(__name__)

_BATCH = 64
"""Processes watched at the same time: file descriptors are limited (often 1,024)."""

_UNKILLABLE_AFTER = 15.0
"""Seconds after the first KILL when what is left counts as unkillable (state D, or not ours to signal)."""

_ROUND = 1.0
"""Seconds after which the set is looked up again although the watched processes have not ended."""


class KillReport(NamedTuple):
    """What killing a tree came to: processes seen, those that needed SIGKILL, those that could not be ended."""

    seen: int
    killed: int
    left: int


def end_processes(
    find: Callable[[], list[ProcInfo]], grace: float, deadline: float | None = None,
    at_once: Callable[[], object] | None = None,
) -> KillReport:
    """End all processes that ``find`` returns, and return when they are gone.

    SIGTERM goes to all of them at once, the first of the list first: a shell that lives longer than the command it
    waits for would start the next one. SIGCONT follows, since a stopped process acts on SIGTERM only when continued.

    Args:
        find: returns the living processes of the set, the leader first.
        grace: seconds from TERM to KILL; 0 sends KILL at once.
        deadline: latest end in monotonic seconds; shortens the grace time. None: until unkillable.
        at_once: has the kernel kill the whole set after the grace time, forks under way included; what is left after
            it is killed one by one.
    """
    begin = time.monotonic()
    polite_end = begin + grace if deadline is None else min(begin + grace, deadline)
    seen: set[tuple[int, int]] = set()
    left = _terminate(find, polite_end, seen) if grace > 0 else find()
    killed: set[tuple[int, int]] = set()
    by_group: set[tuple[int, int]] = set()
    if left:
        if at_once is not None and at_once():
            seen.update(info.key for info in left)
            by_group = {info.key for info in left}
            wait_gone(left, time.monotonic() + _ROUND)
        last = time.monotonic() + _UNKILLABLE_AFTER
        # A deadline that has passed already still leaves a moment for KILL to be seen.
        if deadline is not None:
            last = min(last, max(deadline, time.monotonic() + 0.5))
        left = _kill(find, last, seen, killed)
    for info in left:
        logger.warning(
            "cannot end process %d (%s): state %s, waits in %s", info.pid, info.comm, info.state,
            wait_channel(info.pid)
        )
    return KillReport(len(seen), len(killed | by_group), len(left))


def _terminate(find: Callable[[], list[ProcInfo]], until: float, seen: set[tuple[int, int]]) -> list[ProcInfo]:
    """TERM everything, wait for the ends, TERM what has come in addition; returns what is left."""
    while True:
        alive = find()
        fresh = [info for info in alive if info.key not in seen]
        seen.update(info.key for info in fresh)
        send(fresh, signal.SIGTERM)
        send(fresh, signal.SIGCONT)
        if not alive or time.monotonic() >= until:
            return alive
        wait_gone(alive, min(until, time.monotonic() + _ROUND))


def _kill(
    find: Callable[[], list[ProcInfo]], until: float, seen: set[tuple[int, int]], killed: set[tuple[int, int]]
) -> list[ProcInfo]:
    """Stop and kill in rounds until nothing is found; returns what could not be ended.

    SIGSTOP first: a fork bomb whose members are stopped grows no more, and its members keep occupying the user's limit
    of processes until all are known.
    """
    denied: set[tuple[int, int]] = set()
    while True:
        alive = find()
        fresh = [info for info in alive if info.key not in killed]
        seen.update(info.key for info in fresh)
        send(fresh, signal.SIGSTOP)
        denied.update(info.key for info in send(fresh, signal.SIGKILL))
        killed.update(info.key for info in fresh)
        if time.monotonic() >= until or all(info.key in denied for info in alive):
            return alive
        wait_gone(alive, min(until, time.monotonic() + (0.05 if fresh else _ROUND)))


def send(processes: Iterable[ProcInfo], number: signal.Signals) -> list[ProcInfo]:
    """Send a signal to each process that is still the same one; returns those that we are not permitted to signal."""
    denied = []
    for info in processes:
        if not same_process(info):
            continue
        try:
            os.kill(info.pid, number)
        except ProcessLookupError:
            continue
        except PermissionError:
            denied.append(info)
    return denied


def wait_gone(processes: Sequence[ProcInfo], until: float) -> None:
    """Block until the first processes of the list (up to 64) have ended, or ``until`` (monotonic seconds)."""
    poller = select.poll()
    handles: list[int] = []
    try:
        for info in processes[:_BATCH]:
            try:
                handle = os.pidfd_open(info.pid)
            except ProcessLookupError:
                continue
            except (OSError, AttributeError):
                # Kernel before 5.3, a seccomp filter, or no descriptor left.
                time.sleep(max(0.0, min(0.05, until - time.monotonic())))
                return
            handles.append(handle)
            poller.register(handle, select.POLLIN)
        waiting = len(handles)
        while waiting:
            remaining = until - time.monotonic()
            if remaining <= 0:
                return
            for handle, _ in poller.poll(remaining * 1000 + 1):
                poller.unregister(handle)
                waiting -= 1
    finally:
        for handle in handles:
            os.close(handle)


def wait_channel(pid: int) -> str:
    """Return the kernel function that the process waits in, for the log."""
    try:
        with open(f"/proc/{pid}/wchan", encoding="ascii", errors="replace") as stream:
            return stream.read(64) or "?"
    except OSError:
        return "?"
