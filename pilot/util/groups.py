"""Starts commands and helpers in a process group of their own, so that one signal ends each of them with its children.

They stay in the pilot's *session*: the payloads' supervisor leaves processes of that session to whoever started them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from subprocess import DEVNULL, Popen
from typing import IO, Any, Mapping, Optional, Sequence, Union

_ORPHANS = 1.0
"""Seconds that orphans of a killed group are waited for; one that waits in the kernel is left to the pilot's reaper."""
Stream = Union[int, IO[bytes], None]


def spawn_group(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: Stream = DEVNULL,
    stdout: Stream = DEVNULL,
    stderr: Stream = DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Popen[bytes]:
    """Start ``argv`` (no shell) as the leader of a new process group.

    Raises:
        OSError: the program or the directory does not exist or may not be used, or no process can be made.
    """
    options: dict[str, Any] = {"process_group": 0}
    if sys.version_info < (3, 11):
        options = {"preexec_fn": os.setpgrp}
    return Popen(
        list(argv), env=dict(env), cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, close_fds=True,
        pass_fds=tuple(pass_fds), **options,
    )  # fmt: skip


def process_descriptor(pid: int) -> Optional[int]:
    """Return a descriptor that can be read from when the process has ended; None before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def kill_group(process: Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Send a signal to the whole group; nothing happens when the leader was collected already."""
    if process.returncode is not None:
        return
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or not exec'ed yet and then a plain child
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def collect(process: Popen[bytes], timeout: Optional[float] = None) -> int:
    """Kill what is left of the group, wait for the leader (s), collect orphans of the group; returns the exit status.

    The pilot is a subreaper: the children of a killed helper become its own, and would stay zombies.

    Raises:
        subprocess.TimeoutExpired: the leader cannot die (it waits in the kernel).
    """
    kill_group(process)
    code = process.wait(timeout)
    until = time.monotonic() + _ORPHANS
    while True:
        try:
            pid, _ = os.waitpid(-process.pid, os.WNOHANG)
        except (ChildProcessError, OSError):
            return code
        if not pid:  # one is dying
            if time.monotonic() > until:
                return code
            time.sleep(0.002)
