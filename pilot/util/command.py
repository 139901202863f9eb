"""Runs one external command to its end, or to the end of patience: cancelled, it dies with all its children.

```
 caller blocks in poll():  output of the command  |  its end  |  the token's wake-up
```
"""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Mapping, NamedTuple, Optional, Sequence, Union

from pilot.util.cancel import CancelToken
from pilot.util.groups import collect, kill_group, process_descriptor, spawn_group

KEPT = 200_000
"""Bytes of each stream that are kept: the last ones, the cause of a failure stands at the end."""
LAST_WORDS = 0.5
"""Seconds that the output of an ended command may stay open in the hands of others."""
TERM_GRACE = 0.4
"""Seconds from SIGTERM to SIGKILL after a cancellation: time to remove a partial file."""


class Finished(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code, negative = the signal that ended it."""
    stdout: str
    stderr: str
    timed_out: bool = False

    @property
    def output(self) -> str:
        """Both streams, stdout first."""
        return "\n".join(text for text in (self.stdout.strip(), self.stderr.strip()) if text)


def run_command(
    argv: Sequence[Union[str, Path]],
    *,
    env: Mapping[str, str],
    cwd: Path,
    token: CancelToken,
    timeout: Optional[float] = None,
    on_output: Optional[Callable[[], None]] = None,
    setup: str = "",
) -> Finished:
    """Run ``argv`` and return when it has ended; what it leaves behind in its process group is killed.

    Args:
        argv: program and arguments.
        env: complete environment.
        cwd: working directory.
        token: cancelled = SIGTERM, after 0.4 s SIGKILL to the group, then CancelledError.
        timeout: s; then the group is killed and ``timed_out`` is True.
        on_output: called when the command has written something: a sign of life.
        setup: a file of the site that is sourced first (``copytools.<tool>.setup`` of the queue). Only then a shell is
            involved; the arguments are its positional parameters, so nothing in them is ever interpreted.

    Raises:
        CancelledError: the token was cancelled.
        OSError: the command does not exist or cannot be started.
    """
    token.check()
    words = [os.fspath(word) for word in argv]
    if setup:
        words = ["/bin/bash", "-c", f'source {shlex.quote(setup)} >&2 && exec "$@"', "bash", *words]
    process = spawn_group(
        words, env=env, cwd=str(cwd), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wake() -> None:
        try:
            os.write(writing, b"c")
        except OSError:  # full: it is awake already; closed: it is over
            return

    end = process_descriptor(process.pid)
    token.on_cancel(wake)
    try:
        return _follow(process, reading, token, timeout, on_output, end)
    finally:
        if end is not None:
            os.close(end)
        token.forget(wake)
        if process.returncode is None:
            collect(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        os.close(reading)
        os.close(writing)


def _follow(
    process: subprocess.Popen[bytes],
    wake: int,
    token: CancelToken,
    timeout: Optional[float],
    on_output: Optional[Callable[[], None]],
    end: Optional[int],
) -> Finished:
    assert process.stdout is not None and process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    limit = None if timeout is None else time.monotonic() + timeout
    stopped = over = timed_out = False
    with selectors.DefaultSelector() as selector:
        for descriptor in (*kept, wake, *([] if end is None else [end])):
            selector.register(descriptor, selectors.EVENT_READ)
        while not (over or end is None) or any(descriptor in selector.get_map() for descriptor in kept):
            ready = selector.select(None if limit is None else max(0.0, limit - time.monotonic()))
            now = time.monotonic()
            for key, _ in ready:
                if key.fd == wake:
                    os.read(wake, 16)
                elif key.fd == end:
                    # its last words are in the pipes; a child that it leaves behind would hold them open for ever
                    selector.unregister(end)
                    over, limit = True, min(now + LAST_WORDS, limit or now + LAST_WORDS)
                elif not _keep(key.fd, kept[key.fd]):
                    selector.unregister(key.fd)
                elif on_output is not None:
                    on_output()
            if token.cancelled and not (stopped or over):
                stopped, limit = True, now + TERM_GRACE
                kill_group(process, signal.SIGTERM)
            elif limit is not None and now >= limit:
                timed_out = not (stopped or over)
                break
    code = collect(process) if stopped or timed_out or over else process.wait()
    token.check()
    out, err = (bytes(data).decode("utf-8", "replace") for data in kept.values())
    return Finished(code, out, err, timed_out)


def _keep(descriptor: int, kept: bytearray) -> bool:
    """Read what there is; False at the end of the stream."""
    data = os.read(descriptor, 65536)
    kept += data
    del kept[:-KEPT]
    return bool(data)
