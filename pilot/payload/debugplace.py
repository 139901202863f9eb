"""Where the commands of debug mode run, what they answer, and how a program among them is bounded in time and size."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

from pilot.common.exception import PilotException
from pilot.payload.process import Child, Supervisor
from pilot.util.cancel import CancelToken

OUTPUT_LIMIT = 2048
"""Bytes of the server's column; a longer text makes its insert fail (payload.md 12)."""

TIME_LIMIT = 30.0
"""Seconds for ``tail``, ``ls``, ``ps`` and ``du``."""

GDB_TIME_LIMIT = 300.0
"""Seconds for gdb: it reads the symbols of hundreds of libraries, and a core file has gigabytes."""

_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL: gdb lets go of its process."""

_INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "HOME")
"""Variables of the pilot that the programs get: neither proxies nor tokens, nothing that loads code."""


class DebugCommandRefused(PilotException):
    """The debug command is none that may be run; never an error of the job."""

    default_code = 1008


class DebugAnswer(NamedTuple):
    """What a command has come to."""

    text: str
    """At most 2,048 bytes of UTF-8, secrets masked."""
    core: Optional[Path] = None
    """Core file that gdb was asked for and has written."""


@dataclass(frozen=True)
class DebugPlace:
    """What the commands of one job may see and use."""

    workdir: Path
    """Everything happens inside this directory."""
    supervisor: Supervisor
    """Starts the programs."""
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """Of the pilot; the programs get a few harmless variables of it."""
    payload: Optional[Child] = None
    """The payload, while it runs."""
    token: CancelToken = field(default_factory=CancelToken)
    """Cancelled when nobody waits for the answer any more."""
    time_limit: float = TIME_LIMIT
    """s until a program is ended; what it printed is the answer."""
    gdb_time_limit: float = GDB_TIME_LIMIT
    """The same for gdb."""
    reserve: int = 0
    """Bytes of local disk that a core file has to leave free."""

    def program_environment(self) -> dict[str, str]:
        """Return the environment of the programs."""
        return {name: self.environ[name] for name in _INHERITED if name in self.environ}


class Output(NamedTuple):
    """What a program has printed, stdout and stderr as they came, and how it ended."""

    raw: bytes
    """The last bytes of it."""
    timed_out: bool = False


def run_bounded(argv: Sequence[str], place: DebugPlace, seconds: float, keep: int = 4 * OUTPUT_LIMIT) -> Output:
    """Run a program in the job's directory and return the end of its output; it is ended when the time is up.

    Args:
        argv: program and arguments; no shell is involved.
        place: of the job.
        seconds: it gets.
        keep: bytes of its output.

    Raises:
        OSError: it does not exist or cannot be started.
    """
    reading, writing = os.pipe()
    try:
        try:
            child = place.supervisor.spawn(
                argv, cwd=place.workdir, env=place.program_environment(), stdout=writing, stderr=subprocess.STDOUT)
        finally:
            os.close(writing)

        def end() -> None:
            child.signal(signal.SIGKILL)

        place.token.on_cancel(end)
        try:
            raw = _read_end(reading, time.monotonic() + seconds, keep)
            timed_out = child.wait(0.5) is None
            if timed_out:
                child.kill_tree(_GRACE)
        finally:
            place.token.forget(end)
        return Output(raw, timed_out)
    finally:
        os.close(reading)


def _read_end(handle: int, until: float, keep: int) -> bytes:
    """Read a pipe to its end or until the time is up, and return the last bytes."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    output = b""
    while True:
        remaining = until - time.monotonic()
        if remaining <= 0 or not poller.poll(remaining * 1000):
            return output
        chunk = os.read(handle, 65536)
        if not chunk:
            return output
        output = (output + chunk)[-keep:]
