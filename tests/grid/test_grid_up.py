"""``make grid-up`` and ``make grid-down``: the testbed for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
import requests

from tests.grid.testbed.packages import ROOT


def grid(command: str, state: Path, *services: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.grid.testbed", command, str(state), *services], cwd=ROOT,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A directory for the state; nothing runs after the test, whatever happened."""
    yield tmp_path / "state"
    grid("down", tmp_path / "state")


@pytest.mark.usefixtures("s3")  # skipped where it is not installed
def test_services_run_until_they_are_taken_down(state: Path) -> None:
    started = grid("up", state, "s3", "stomp")
    assert started.returncode == 0, started.stderr
    assert grid("status", state).returncode == 0
    variables = dict(line[len("export "):].split("=", 1) for line in grid("env", state).stdout.splitlines())
    endpoint = variables["AWS_ENDPOINT_URL"]
    assert endpoint in started.stdout
    assert requests.get(f"{endpoint}/moto-api/", timeout=30).status_code == 200
    assert (state / "env.sh").read_text(encoding="utf-8") == grid("env", state).stdout

    assert grid("down", state).returncode == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(endpoint, timeout=30)
    assert grid("status", state).returncode == 1
    assert os.listdir(state) == []


@pytest.mark.usefixtures("s3")
def test_a_second_start_changes_nothing(state: Path) -> None:
    grid("up", state, "s3")
    before = (state / "state.json").read_text(encoding="utf-8")
    again = grid("up", state)
    assert again.returncode == 0
    assert "runs already" in again.stdout
    assert (state / "state.json").read_text(encoding="utf-8") == before


@pytest.mark.usefixtures("s3")
def test_a_service_that_has_died_is_named(state: Path) -> None:
    started = grid("up", state, "stomp")
    pid = next(line for line in started.stdout.splitlines() if line.startswith("stomp")).split("pid ")[1].split(",")[0]
    os.kill(int(pid), 9)
    gone = grid("status", state)
    assert gone.returncode == 1
    assert f"DEAD (was pid {pid})" in gone.stdout


def test_an_unknown_service_is_refused(state: Path) -> None:
    refused = grid("up", state, "gridftp")
    assert refused.returncode == 2
    assert "no such service: gridftp" in refused.stderr
