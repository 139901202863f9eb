"""The grid demo: it shows each step, and it notices when one has not happened."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.grid.testbed.packages import ROOT

pytestmark = pytest.mark.usefixtures("rucio")  # skipped where it is not installed


def run_demo(root: Path, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "demo" / "grid.py"), "--directory", str(directory), *options]
    return subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def test_the_demo_shows_replicas_rule_and_traces(tmp_path: Path) -> None:
    result = run_demo(ROOT, tmp_path / "run")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split(None, 1) for line in result.stdout.splitlines() if " " in line]
    shown = Counter(line[0] for line in lines)
    expected = {"stage-in": 2, "stage-out": 2, "log": 1, "replica": 3, "rule": 1, "trace": 5}
    assert {step: shown[step] for step in expected} == expected
    assert all("DONE by rucio" in line[1] for line in lines if line[0] in ("stage-in", "stage-out", "log"))


def test_wrong_contents_are_noticed(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copytree(ROOT / "demo", checkout / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    servers = [path.name for path in ROOT.glob(".venv-*")]
    for name in ("pilot", "pilot.py", "PILOTVERSION", "sandbox", "tests", *servers):
        (checkout / name).symlink_to(ROOT / name)
    script = checkout / "demo" / "trf" / "count_words.py"
    script.write_text(script.read_text().replace("{number}", "{number + 1}"))
    result = run_demo(checkout, tmp_path / "run", "--copytools", "xrdcp")
    assert result.returncode == 1
    assert "does not hold the counts of the inputs" in result.stderr
    assert "as expected:" not in result.stdout
