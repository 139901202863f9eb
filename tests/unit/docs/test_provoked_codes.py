"""Every error code has a test that provokes it, or a reason why it cannot occur."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests" / "unit" / "payload")]

from failuretable import TEXTS  # noqa: E402
from provoked_codes import NEVER, PROVOKED  # noqa: E402

from pilot.common.errorcodes import ERROR_TABLE  # noqa: E402
from pilot.common.exception import PilotException  # noqa: E402
from pilot.control.fetch import JobFetcher  # noqa: E402
from pilot.payload.transform import make_executable  # noqa: E402


@pytest.fixture(scope="module")
def places() -> dict[str, str]:
    """Test function -> text of its module, with the tables beside it."""
    found: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE):
            found[name] = found.get(name, "") + text
    return found


def test_every_code_is_provoked_or_cannot_occur() -> None:
    assert set(PROVOKED) | set(NEVER) == set(ERROR_TABLE)
    assert not set(PROVOKED) & set(NEVER)
    assert all(len(text) > 10 for text in NEVER.values())


def test_each_named_test_exists_and_has_the_code(places: dict[str, str]) -> None:
    in_table = {code for row in TEXTS for code in (row.code, *row.others)}
    for code, name in PROVOKED.items():
        assert name in places, f"{code}: there is no {name}"
        if name == "test_behaviour":
            assert code in in_table, f"{code} is in no row of the table of failures"
        elif code != 1301:  # seen from outside: exit code 70
            assert re.search(rf"\b{code}\b", places[name]), f"{code} is not in the module of {name}"


def sources() -> Iterator[tuple[Path, str]]:
    for path in (ROOT / "pilot").rglob("*.py"):
        if path.name not in ("errorcodes.py", "exception.py"):
            yield path, path.read_text(encoding="utf-8")


# Where such a number stands for another reason than to be reported.
MENTIONED = {
    ("cleanup.py", 1235), ("killfile.py", 1363),  # what the log archive has to keep when checks will set them
    ("attempts.py", 1321),  # names of states of traces
    ("remotefiles.py", 1368),  # reason inside a token, never reported
    ("proxy.py", 1381),  # a remark in the log
}


def test_what_cannot_occur_is_raised_nowhere() -> None:
    """A code that somebody begins to use needs a test and leaves the list."""
    used = set()
    for path, text in sources():
        numbers = {int(word) for word in re.findall(r"(?<![\w.#])1\d{3}(?![\w.])", _without_words(text))}
        names = set(re.findall(r"ErrorCodes\.(\w+)", text))
        used |= {(path.name, code) for code in NEVER if code in numbers or ERROR_TABLE[code].name in names}
    assert used - MENTIONED == set()


def _without_words(text: str) -> str:
    """Return source text without docstrings and comments."""
    return re.sub(r'"""(?:.|\n)*?"""|#.*', "", text)


# --- codes that no other test has ------------------------------------------------------------------------------------


def test_a_transform_that_cannot_be_made_executable_is_1143(tmp_path: Path) -> None:
    with pytest.raises(PilotException) as caught:
        make_executable(tmp_path / "gone.py")
    assert caught.value.code == 1143 and "gone.py" in caught.value.detail


def test_an_hpc_queue_without_jobs_is_1385() -> None:
    limits = SimpleNamespace(unreachable=False, jobs=0, is_hpc_without_jobs=lambda kind: kind == "hpc")
    fetcher: Any = SimpleNamespace(limits=limits, ctx=SimpleNamespace(queue=SimpleNamespace(resource_type="hpc")))
    error = JobFetcher._exhausted(fetcher, "no jobs after 5 requests")
    assert isinstance(error, PilotException) and error.code == 1385 and "after 5 requests" in error.detail


def test_a_workflow_that_is_not_there_is_said(tmp_path: Path) -> None:
    """1300: it ends the pilot."""
    python = os.environ.get("PILOT_TEST_PYTHON", sys.executable)
    done = subprocess.run([python, str(ROOT / "pilot.py"), "-q", "Q", "-w", "stager", "--pilot-user", "generic"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 65
    assert "workflow stager is not part of this version" in done.stdout + done.stderr
