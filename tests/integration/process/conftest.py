"""Real processes: a supervisor in this process, or a pilot-like program of its own where it must be alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilot.payload.process import Supervisor

ROOT = Path(__file__).resolve().parents[3]

PRELUDE = f"""
import json, os, signal, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from pilot.payload.process import Supervisor
from pilot.util import procfs

HERE = Path.cwd()
ENV = dict(os.environ)

def until(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise SystemExit("timed out waiting for " + what)

def alive(pid):
    info = procfs.read_process(pid)
    return info is not None and info.alive

def number_in(name):
    path = HERE / name
    return until(lambda: path.exists() and path.read_text().strip() and int(path.read_text()), name)

def bash(supervisor, line, env=None):
    return supervisor.spawn(["/bin/bash", "-c", line], cwd=HERE, env=env or ENV)

def answer(**values):
    print(json.dumps(values))
"""

DAEMON = """
import os, signal, sys, time
if os.fork():
    os.wait()
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open("daemon.tmp", "w") as stream:
    stream.write(str(os.getpid()))
os.rename("daemon.tmp", "daemon.pid")
burn = float(sys.argv[1]) if len(sys.argv) > 1 else 0
while time.process_time() < burn:
    pass
if burn:
    with open("daemon.cpu", "w") as stream:
        stream.write(str(sum(os.times()[:2])))
else:
    time.sleep(600)
"""


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A supervisor in the process of the tests; what it started is gone afterwards."""
    instance = Supervisor()
    instance.start()
    yield instance
    instance.close()


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., dict[str, object]]:
    """Run a pilot-like program in a process of its own and return what it answers.

    ``prefix`` is a command that starts it (setsid, unshare, a shell).
    """
    (tmp_path / "daemon.py").write_text(DAEMON)

    def run(body: str, *, prefix: tuple[str, ...] = ()) -> dict[str, object]:
        script = tmp_path / "driver.py"
        script.write_text(PRELUDE + body)
        result = subprocess.run(
            [*prefix, sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=90,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert result.returncode == 0, result.stderr
        value = json.loads(result.stdout.strip().splitlines()[-1])
        assert isinstance(value, dict)
        return value

    return run
