"""Orphans and zombies: everything that descends from a payload is ended and collected, nothing else ever is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from harness import PATIENCE, Farm

DAEMON = """python3 - <<'END'
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with open({pid!r}, "w") as stream:
            stream.write(str(os.getpid()))
        os.execve("/bin/sleep", ["a-daemon", "3600"], {{}})
    os._exit(0)
while not (os.path.exists({pid!r}) and os.path.getsize({pid!r})):
    time.sleep(0.01)
END
"""
"""Double fork, a session and an environment of its own, deaf for SIGTERM: nothing but its descent names it."""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def zombies_of(pid: int) -> List[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and fields[1] == str(pid):
                found.append(entry.name)
    return found


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[int]:
    """A process of this user below process 1, as a server or another pilot's payload would be."""
    path = tmp_path / "stranger.pid"
    subprocess.run(["setsid", "bash", "-c", f"sleep 3600 </dev/null >/dev/null 2>&1 & echo $! > {path}"], check=True)
    pid = int(path.read_text())
    yield pid
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["good", "looping", "killed"])
def test_daemons_of_a_payload_end_and_strangers_live(farm: Farm, stranger: int, end: str) -> None:
    pid = farm.directory / "daemon.pid"
    gate = farm.gate("payload")
    job = farm.submit_job(DAEMON.format(pid=str(pid)) + gate.shell())
    settings: Dict[str, object] = {"shutdown.term_grace": 1, "pilot.heartbeat": 1}
    if end == "looping":
        settings.update({"limits.looping_production": 2, "pilot.looping_limit_min_default": 1, "monitor.gdb_time": 0,
                         "pilot.looping_verification_time": 1, "pilot.disk_space_verification_time": 1})
    pilot = farm.start_pilot(settings=settings)
    gate.reached()
    daemon = int(pid.read_text())
    assert alive(daemon)
    if end == "good":
        gate.open()
    elif end == "killed":
        farm.wait_state(job, "running")
        farm.server.kill(job)
    assert pilot.wait() == 0
    expected = {"good": 0, "looping": 1150, "killed": 1144}[end]
    assert int(farm.final(job).get("pilotErrorCode") or 0) == expected
    assert not alive(daemon)
    assert alive(stranger)


def test_zombies_that_a_payload_leaves_to_the_pilot_are_collected_while_it_runs(farm: Farm) -> None:
    gate = farm.gate("payload")
    many = "for n in $(seq 50); do (sleep 0.01 & ) ; done"  # orphans at once: they end as children of the pilot
    job = farm.submit_job(f"{many}\n{gate.shell()}")
    pilot = farm.start_pilot()
    gate.reached()
    limit = time.monotonic() + PATIENCE
    seen = 0
    while time.monotonic() < limit:
        # none is left, looked at when all have surely ended: each sleeps for some ms only
        running = [line for line in farm.payload_processes() if "sleep" in line]
        seen = len(zombies_of(pilot.pid))
        if not running and not seen:
            break
    assert seen == 0
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
