"""The demo: it runs, it notices when something is not as expected, and it wipes nothing but its own directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_demo(root: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "demo" / "run.py"), "--directory", str(directory)]
    return subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose demo may be changed."""
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copytree(ROOT / "demo", root / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pilot", "pilot.py", "PILOTVERSION", "sandbox"):
        (root / name).symlink_to(ROOT / name)
    return root


def test_demo_does_three_jobs_and_says_where_to_look(tmp_path):
    result = run_demo(ROOT, tmp_path / "run")
    assert (result.returncode, result.stderr) == (0, "")
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if re.search(r" pilot-\d ", line)}
    assert {name: (row[3], row[4]) for name, row in rows.items()} == {
        "count-words": ("finished", "2>3"), "fails": ("failed", "1>1"), "merge": ("finished", "20>6")}
    assert "1305 Failed to execute payload: exit code 3: ERROR: no calibration constants for run 4711" in result.stdout
    pages = list((tmp_path / "run").glob("pilot-*/job-*.html"))
    assert len(pages) == 3
    assert any("no calibration constants" in page.read_text(encoding="utf-8") for page in pages)
    named = re.findall(r"(\S+/(?:pilotlog\.txt|job-\d+\.html))", result.stdout)
    assert len(named) == 2 and all(Path(os.path.join(ROOT, name)).is_file() for name in named)


def test_demo_can_be_repeated_in_its_directory(checkout, tmp_path):
    assert run_demo(checkout, tmp_path / "run").returncode == 0
    (tmp_path / "run" / "outputs" / "old").touch()
    assert run_demo(checkout, tmp_path / "run").returncode == 0
    assert not (tmp_path / "run" / "outputs" / "old").exists()


def test_wrong_contents_are_noticed(checkout, tmp_path):
    script = checkout / "demo" / "trf" / "merge_sorted.sh"
    script.write_text(script.read_text().replace("sort -n", "sort -nr"))
    result = run_demo(checkout, tmp_path / "run")
    assert result.returncode == 1
    assert result.stderr.count("wrong contents") == 5
    assert "as expected:" not in result.stdout


def test_another_diagnosis_is_noticed(checkout, tmp_path):
    script = checkout / "demo" / "trf" / "calibrate.py"
    script.write_text(script.read_text().replace("sys.exit(3)", "sys.exit(4)"))
    result = run_demo(checkout, tmp_path / "run")
    assert result.returncode == 1
    assert "fails: payload exit code is 4, expected 3" in result.stderr


def test_foreign_directory_is_not_wiped(tmp_path):
    (tmp_path / "precious").touch()
    result = run_demo(ROOT, tmp_path)
    assert result.returncode == 2
    assert "not wiped" in result.stderr and (tmp_path / "precious").exists()
