"""Runs a program that knows whether we still live: its standard input is the tether, and its session ends with it.

```
 stdin   b"go\\n" at once; its end means: break off, clean up, end        stdout, stderr   to files, the last words kept
 cancelled or out of time:   0 s end of stdin     0.5 s SIGTERM     0.8 s SIGKILL, to every process of the session
```
A signal alone would not do: a container's run-time dies of it before the program inside has removed its partial files.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence, Union

from pilot.util import procfs
from pilot.util.cancel import CancelToken
from pilot.util.hardening import no_blocked_signals

GO = b"go\n"
"""First line on the program's standard input; without it the end of the input means nothing."""
TERM_AFTER, KILL_AFTER = 0.5, 0.8
"""Seconds after the end of stdin."""
KEPT = 20_000
"""Bytes of the last words."""
_LEAVE = 5.0
"""Seconds that a killed process may need to go away; one that waits in the kernel is then left behind."""


class Ended(NamedTuple):
    """How the program ended."""

    code: int
    """Exit code, negative = the signal that ended it."""
    last_words: str
    """End of stderr."""
    timed_out: bool = False


def run_tethered(
    argv: Sequence[Union[str, Path]],
    *,
    env: Mapping[str, str],
    cwd: Path,
    token: CancelToken,
    limit: float,
    stdout: Path,
    stderr: Path,
) -> Ended:
    """Run ``argv`` (no shell) in a session of its own until it has ended with everything in that session.

    Args:
        argv: program and arguments.
        env: complete environment.
        cwd: working directory.
        token: cancelled = the program is ended; the result then says how, nothing is raised.
        limit: s; then it is ended, too, and ``timed_out`` is True.
        stdout: file that the standard output is appended to.
        stderr: the same for the standard error.

    Raises:
        CancelledError: the token was cancelled before the start.
        OSError: the program cannot be started.
    """
    token.check()
    with no_blocked_signals():
        process = subprocess.Popen(
            [os.fspath(word) for word in argv], env=dict(env), cwd=str(cwd), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, close_fds=True,
        )  # fmt: skip
    run = _Run(process, stdout, stderr)
    token.on_cancel(run.wake)
    try:
        run.follow(token, time.monotonic() + limit)
    finally:
        token.forget(run.wake)
        run.close()
    return Ended(run.code, bytes(run.last_words).decode("utf-8", "replace"), run.timed_out)


class _Run:
    """One program under way; used once."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.process = process
        self.code = -int(signal.SIGKILL)
        self.timed_out = False
        self.last_words = bytearray()
        self._tether: Optional[int] = process.stdin.fileno()
        self._error = process.stderr.fileno()
        self._sinks = {process.stdout.fileno(): _append(stdout), process.stderr.fileno(): _append(stderr)}
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        for descriptor in self._sinks:
            os.set_blocking(descriptor, False)
        try:
            os.write(self._tether, GO)
        except OSError:  # it has ended already
            pass

    def wake(self) -> None:
        """Have the loop look at its token; any thread."""
        try:
            os.write(self._wake_out, b"c")
        except OSError:  # over, or awake already
            return

    def follow(self, token: CancelToken, deadline: float) -> None:
        """Block until the program has ended, by itself or because it had to."""
        leader = _open_pidfd(self.process.pid)
        ends = {descriptor for descriptor in (leader, self._tether) if descriptor is not None}
        poller = select.poll()
        for descriptor in (*self._sinks, self._wake_in, *((leader,) if leader is not None else ())):
            poller.register(descriptor, select.POLLIN)
        if self._tether is not None:
            poller.register(self._tether, 0)  # only told when nobody holds the other end any more
        stages = [(deadline, 0)]
        try:
            while self.process.poll() is None:
                ready = {item for item, _ in poller.poll(max(0.0, stages[0][0] - time.monotonic()) * 1000 + 1)}
                self._serve(ready, poller)
                if ready & ends:
                    break
                now = time.monotonic()
                if not stages[0][1] and (token.cancelled or now >= deadline):
                    self.timed_out = not token.cancelled
                    if self._tether is not None:
                        poller.unregister(self._tether)
                    self._let_go()
                    stages = [(now + TERM_AFTER, signal.SIGTERM), (now + KILL_AFTER, signal.SIGKILL)]
                elif stages[0][1] and now >= stages[0][0]:
                    end_session(self.process.pid, stages.pop(0)[1])
                    if not stages:
                        break
        finally:
            if leader is not None:
                os.close(leader)
            self._finish()

    def _serve(self, ready: set[int], poller: select.poll) -> None:
        """Take what has come."""
        for descriptor in ready & set(self._sinks):
            if not self._drain(descriptor):
                poller.unregister(descriptor)
        if self._wake_in in ready:
            os.read(self._wake_in, 16)

    def _let_go(self) -> None:
        if self._tether is not None and self.process.stdin is not None:
            self._tether = None
            try:
                self.process.stdin.close()
            except OSError:
                return

    def _drain(self, descriptor: int) -> bool:
        """Move what the program has written to its file; False at the end."""
        while True:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            if descriptor == self._error:
                self.last_words += data
                del self.last_words[:-KEPT]
            sink = self._sinks[descriptor]
            if sink is not None:
                try:
                    os.write(sink, data)
                except OSError:  # disk full: the transfer itself will say so
                    self._sinks[descriptor] = None
                    os.close(sink)

    def _finish(self) -> None:
        """The leader has ended or must: nothing of the session is left."""
        self._let_go()
        if self.process.poll() is None and self._ends_by_itself():
            pass
        end_session(self.process.pid, signal.SIGKILL)
        try:
            self.code = self.process.wait(_LEAVE)
        except subprocess.TimeoutExpired:
            pass
        for descriptor in list(self._sinks):
            self._drain(descriptor)

    def _ends_by_itself(self) -> bool:
        """Give a leader that has just closed its input the moment that it needs to exit."""
        try:
            self.process.wait(TERM_AFTER)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Give all descriptors back."""
        for sink in self._sinks.values():
            if sink is not None:
                os.close(sink)
        os.close(self._wake_in)
        os.close(self._wake_out)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def end_session(session: int, number: int) -> int:
    """Send a signal to every living process of a session; returns how many there were."""
    count, seen = 0, set[int]()
    for _round in range(20 if number == signal.SIGKILL else 1):  # they may fork while we look
        here = [info for info in procfs.scan() if info.session == session and info.alive]
        if not here:
            break
        count = max(count, len(here))
        for info in here:
            try:
                os.kill(info.pid, number)
            except (ProcessLookupError, PermissionError):
                continue
        seen.update(info.pid for info in here)
    for pid in seen - {session}:
        _collect(pid)
    return count


def _collect(pid: int) -> None:
    """Take an orphan that a subreaper was given."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except (ChildProcessError, OSError):
        return


def _open_pidfd(pid: int) -> Optional[int]:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # a kernel before 5.3: the end of the input's other side has to do
        return None


def _append(path: Path) -> Optional[int]:
    try:
        # a payload may have left a pipe of that name, which nobody reads
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(path, flags, 0o644)
    except OSError:
        return None
