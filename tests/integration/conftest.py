"""Fixtures for tests of the whole pilot: see harness.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parents[1]):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from harness import Farm  # noqa: E402


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A sandbox and a node; a payload process that is alive after the test is an error."""
    running = Farm(tmp_path)
    left: list[str] = []
    try:
        yield running
    finally:
        crowd = [pilot for pilot in running.pilots if pilot.process.poll() is None]
        left = running.close()
    assert not crowd, f"pilots were still running at the end: {[pilot.directory for pilot in crowd]}"
    assert not left, f"payload processes were left behind: {left}"
