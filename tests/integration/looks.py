"""What tests of the whole pilot look at when it has ended: exit code, clean words, output report, archive."""

from __future__ import annotations

import json
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
    """Block until the pilot's output has ``words`` that many times."""
    wanted = words.encode()
    with pilot._more:
        pilot._more.wait_for(lambda: pilot._text.count(wanted) >= times or pilot._closed, PATIENCE)
        said = pilot._text.count(wanted)
    assert said >= times, f"'{words}' was said {said} times:\n{pilot.output[-4000:]}"


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
