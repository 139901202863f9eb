"""What tests of the whole pilot look at when it has ended: exit code, clean words, output report, archive."""

from __future__ import annotations

import ctypes
import json
import os
import select
import tarfile
from pathlib import Path
from typing import Any, Mapping

from harness import PATIENCE, Pilot


def ended_well(pilot: Pilot, code: int = 0) -> Pilot:
    """Assert the exit code, and that neither output nor log has a traceback: every error has words of its own."""
    for text in (pilot.output, pilot.log):
        assert "Traceback" not in text and "internal error in component" not in text, text[-8000:]
    assert pilot.process.returncode == code, f"exit code {pilot.process.returncode}:\n{pilot.output[-6000:]}"
    return pilot


def wait_for_log(pilot: Pilot, words: str, times: int = 1) -> None:
    """Block until the pilot's output has ``words`` that many times; inotify wakes the test, nothing polls."""
    with Watch(pilot.directory / "stdouterr.txt") as watch:
        while pilot.output.count(words) < times:
            if pilot.process.poll() is not None:
                assert pilot.output.count(words) >= times, f"'{words}' was never said:\n{pilot.output[-4000:]}"
                return
            watch.wait()


class Watch:
    """Wakes when a file is written to or closed (inotify), or after a minute: then something is wrong."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), 0x2 | 0x8)  # IN_MODIFY | IN_CLOSE_WRITE

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._descriptor)

    def wait(self) -> None:
        """Block until the file has changed."""
        ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
        if not ready:
            raise TimeoutError("the pilot has said nothing for a minute")
        os.read(self._descriptor, 65536)


def report_of(final: Mapping[str, Any]) -> dict[str, Any]:
    """The output report of a final update: {lfn: {guid, fsize, adler32, ...}}."""
    text = final.get("xml") or "{}"
    return dict(json.loads(text))


def archive(path: Path) -> dict[str, bytes]:
    """Members of a log archive without the top directory: {name: content}, links and directories left out."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            if member.isfile():
                stream = tar.extractfile(member)
                assert stream is not None
                found[member.name.partition("/")[2]] = stream.read()
    return found
