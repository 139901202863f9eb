"""Real pilots whose PilotDB is damaged while a job runs go on, say so, report once; views of whole pilots."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict

import pytest
from harness import PATIENCE, PILOT, PYTHON, Farm, Pilot
from looks import archive

SETTINGS = {"pilot.heartbeat": 1, "monitor.cpu_interval": 1}


def removed(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith(".lock"):
            file.unlink()


def replaced(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(b"not a database " * 5000)
    os.replace(fresh, path)


def cut(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        os.truncate(file, 0)


def overwritten(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal"):
        file = path.with_name(name)
        file.write_bytes(os.urandom(file.stat().st_size))  # the same file, other content


ACCIDENTS: Dict[str, Callable[[Path], None]] = {
    "removed": removed, "replaced": replaced, "cut": cut, "overwritten": overwritten}


def views(farm: Farm, pilot: Pilot) -> str:
    """Run --status, --report and --recover; each ends well, without a traceback. Returns what they say."""
    said = ""
    for option in ("--status", "--report", "--recover"):
        run = farm.start([PYTHON, str(PILOT), option, str(pilot.directory)])
        assert run.wait() == 0, run.output
        said += run.output
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_a_damaged_database_costs_a_running_job_nothing(farm: Farm, accident: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"{gate.shell()}\necho result > out.dat", outputs=["out.dat"])
    pilot = farm.start_pilot(settings=SETTINGS)
    gate.reached()
    farm.wait_state(job, "running")
    ACCIDENTS[accident](pilot.databases[0])
    pilot.wait_output("was damaged while in use")
    alive = farm.start([PYTHON, str(PILOT), "--status", str(pilot.directory)])
    assert alive.wait() == 0 and f"job {job}" in alive.output, "it is on disk again"
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished" and len(farm.final_updates(job)) == 1
    said = views(farm, pilot)
    assert f"job {job}" in said and "final report 'finished' acknowledged" in said
    assert len(farm.final_updates(job)) == 1, "nobody reports the job a second time"


@pytest.mark.parametrize("accident", ["cut", "overwritten"])
def test_a_pilot_that_dies_after_the_damage_has_lost_nothing(farm: Farm, accident: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings=SETTINGS)
    gate.reached()
    farm.wait_state(job, "running")
    ACCIDENTS[accident](pilot.databases[0])
    pilot.wait_output("was damaged while in use")
    pilot.kill()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert [update["pilotErrorCode"] for update in farm.final_updates(job)] == [1200]


def test_the_page_of_the_job_is_in_its_log_archive(farm: Farm) -> None:
    job = farm.submit_job("echo the words of the payload; echo its trouble >&2; exit 7", inputs={"in.dat": b"data"})
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0
    page = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])["pilot_report.html"].decode()
    assert f"<title>Job {job}: failing in stage stageout, 1305 PAYLOADEXECUTIONFAILURE</title>" in page
    for words in ("the words of the payload", "its trouble", "in.dat", "root cause", "PanDA Pilot version"):
        assert words in page, words
    assert len(page) < 300_000


def test_no_page_where_nobody_wants_it(farm: Farm) -> None:
    job = farm.submit_job()
    farm.run_pilot(settings={"monitor.report_page": False})
    assert "pilot_report.html" not in archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def test_a_link_in_the_place_of_the_page_is_not_followed(farm: Farm, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    job = farm.submit_job(f"ln -s {precious} pilot_report.html")
    pilot = farm.run_pilot()
    assert farm.final(job)["state"] == "finished"
    assert precious.read_text() == "as it was"
    assert re.search(r"pilot_report.html cannot be written", pilot.output)


def test_status_as_json_of_a_living_pilot(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={"monitor.cpu_interval": 1})
    gate.reached()
    farm.wait_state(job, "running")

    def look() -> dict[str, object]:
        done = subprocess.run([PYTHON, str(PILOT), "--status", str(pilot.directory), "--json"], capture_output=True,
                              check=True, env=farm.environment())
        return dict(json.loads(done.stdout))

    before = sorted(file.name for file in pilot.directory.iterdir() if "pilot.db" in file.name)
    (database,) = look()["databases"]
    assert sorted(file.name for file in pilot.directory.iterdir() if "pilot.db" in file.name) == before
    assert database["alive"] and database["jobs"][0]["stage"] == "payload"
    components = {item["name"]: item["line"] for item in database["components"]}
    assert components["payload"].startswith(f"job {job}: payload runs")
    assert database["facts"]["experiment"] == "generic"
    os.kill(pilot.pid, signal.SIGTERM)
    assert pilot.wait() == 143
    assert look()["databases"][0]["jobs"][0]["errors"][0]["code"] == 1201


def test_a_long_copy_is_seen_while_it_runs_and_not_after(farm: Farm) -> None:
    gate, payload = farm.gate("copyin"), farm.gate("payload")
    farm.submit_job(payload.shell(), inputs={"slow.dat": b"data"})
    pilot = farm.start_gated()
    gate.reached()
    began = time.monotonic()
    found: list[dict[str, object]] = []
    while not found:  # each look is a process of its own
        assert time.monotonic() - began < PATIENCE, pilot.output[-3000:]
        done = subprocess.run([PYTHON, str(PILOT), "--status", str(pilot.directory), "--json"], capture_output=True,
                              check=True, env=farm.environment())
        found = json.loads(done.stdout)["databases"][0]["jobs"][0]["running_transfers"]
    assert [(copy["lfn"], copy["direction"], copy["tool"], copy["total"]) for copy in found] == [
        ("slow.dat", "stage-in", "gated", 4)]
    gate.open()
    payload.reached()
    store = pilot.store()
    assert store.progress() == []
    store.close()
    payload.open()
    assert pilot.wait() == 0
