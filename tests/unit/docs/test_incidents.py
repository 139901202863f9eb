"""Every incident of the table has a test that exists, or says which part of the pilot will bring it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROWS = re.findall(r"^\| ([a-v]) \| (.+?) \| (.+) \|$", (ROOT / "docs" / "incidents.md").read_text(), re.MULTILINE)


def test_no_incident_is_forgotten() -> None:
    assert [letter for letter, _, _ in ROWS] == [chr(code) for code in range(ord("a"), ord("v") + 1)]


def test_each_named_test_exists() -> None:
    files = [*(ROOT / "tests").rglob("test_*.py"), ROOT / "tests" / "grid" / "conformance.py"]
    existing = {name for path in files
                for name in re.findall(r"^(?:    )?def (test_\w+)", path.read_text(), re.MULTILINE)}
    named = {name for _, _, text in ROWS for name in re.findall(r"`(test_\w+)`", text)}
    assert named - existing == set()
    assert all("`test_" in text or "with " in text for _, _, text in ROWS)
