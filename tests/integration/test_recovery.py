"""Pilots that die, servers that are away: every result reaches the server exactly once, and nothing is left running."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path
from typing import Any, List

import pytest
from harness import PILOT, PYTHON, QUEUE, TEST_SETTINGS, Farm, Pilot

from pilot.store.pilotdb import OutboxEntry, PilotDB
from pilot.util import procfs

DAEMON = """
setsid bash -c 'trap "" TERM HUP INT; (trap "" TERM; echo daemon > {arrival}; exec sleep 3600) & wait' &
disown
"""
KILLS, LANES = 50, 5
# A dead server costs no test time: refused connections are found at once, and the pilot gives up soon.
SHORT = {"server.final_patience": 1, "pilot.heartbeat": 1}


def stored_jobs(directory: Path) -> List[str]:
    """Ids of the jobs in the PilotDBs of a launch directory."""
    found = []
    for path in [*directory.glob("pilot*.db"), *directory.glob("**/PanDA_Pilot2_*/pilot*.db")]:
        store = PilotDB(path, read_only=True)
        found += [row.job_id for row in store.jobs()]
        store.close()
    return found


def recovery(farm: Farm, directory: Path) -> Pilot:
    """Start ``--recover`` without waiting for it."""
    return farm.start([PYTHON, str(PILOT), "--recover", str(directory),
                       "--set", f"server.retry_base={TEST_SETTINGS['server.retry_base']}"])


def accepted(farm: Farm, job: int) -> List[Any]:
    """The final reports of a job that the server has stored."""
    return [update for update in farm.final_updates(job) if update["_stored"]]


@pytest.mark.parametrize("pipelining", [False, True])
def test_kill_at_random_instants(farm: Farm, pipelining: bool) -> None:
    farm.set_queue(timefloor=3600, params={"pipelining": pipelining})
    jobs = [farm.submit_job(f"echo result > out{number}.dat; setsid sleep 0.02", outputs=[f"out{number}.dat"],
                            log=bool(number % 2), inputs={"in.dat": b"data"} if number % 3 else {})
            for number in range(8 * KILLS)]
    instants = random.Random(17)
    directories = []
    for _ in range(KILLS // LANES):
        started = time.monotonic()
        crowd = [(farm.start_pilot("-x", "100000", "-v", "100000"), instants.uniform(0.3, 1.6)) for _ in range(LANES)]
        for pilot, seconds in sorted(crowd, key=lambda pair: pair[1]):
            try:
                pilot.process.wait(max(0.0, started + seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                pilot.kill()
            else:
                raise AssertionError(f"the pilot was to be killed, but ended by itself: {pilot.output[-3000:]}")
            directories.append(pilot.directory)
        for done in [recovery(farm, pilot.directory) for pilot, _ in crowd]:
            assert done.wait() == 0, done.output
    stored = [int(job) for directory in directories for job in stored_jobs(directory)]
    assert len(stored) == len(set(stored)) > LANES, "a busy machine gets few jobs done between two kills, but some"
    for job in stored:
        assert len(accepted(farm, job)) == 1, (job, farm.state(job))
    unknown = [job for job in jobs if farm.state(job) != "activated" and job not in stored]
    assert all(farm.state(job) == "sent" for job in unknown), "granted, but not stored: only while the answer came in"
    assert any(farm.final(job)["state"] == "finished" for job in stored)
    assert any(farm.final(job)["pilotErrorCode"] == 1200 for job in stored)
    assert farm.payload_processes() == []


def test_recover_ends_what_a_dead_pilot_left_running(farm: Farm) -> None:
    daemon, bare, gate = farm.gate("daemon"), farm.gate("bare"), farm.gate("payload")
    job = farm.submit_job(f"{DAEMON.format(arrival=daemon.arrival)}"
                          f"env -i /bin/bash -c 'echo $$ > {bare.arrival}; exec sleep 3600' &\n{gate.shell()}")
    pilot = farm.start_pilot()
    daemon.reached()
    without_environment = int(bare.reached())
    gate.reached()
    pilot.kill()
    assert len(farm.payload_processes()) == 3
    done = farm.recover(pilot.directory)
    assert done.process.returncode == 0
    assert farm.payload_processes() == []
    rest = procfs.read_process(without_environment)
    assert rest is None or not rest.alive
    assert f"job {job} had no final report: reported as failed" in done.output
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"], final["attemptNr"]) == ("failed", 1200, 1)
    assert "died without a final report" in final["pilotErrorDiag"]


@pytest.mark.parametrize("stage", ["validation", "copyin", "setup", "copyout", "copylog", "reporting"])
def test_a_kill_in_each_stage_is_one_failed_job(farm: Farm, stage: str) -> None:
    gate = farm.gate(stage)
    job = farm.submit_job("echo result > out.dat", inputs={"in.dat": b"data"}, outputs=["out.dat"])
    pilot = farm.start_gated()
    gate.reached()
    pilot.kill()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert farm.final(job)["pilotErrorCode"] == 1200
    assert len(farm.final_updates(job)) == 1


def test_errors_that_were_known_at_the_kill_are_reported(farm: Farm) -> None:
    gate = farm.gate("copylog")
    job = farm.submit_job("exit 7")
    pilot = farm.start_gated()
    gate.reached()
    pilot.kill()
    assert farm.recover(pilot.directory).process.returncode == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"], final["transExitCode"]) == ("failed", 1305, 7)


@pytest.mark.parametrize("kind", ["http_500", "hang", "processed_then_reset", "truncate"])
def test_a_finished_job_stays_finished_when_its_pilot_dies_reporting(farm: Farm, kind: str) -> None:
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    fault = farm.server.faults.add("update_job", kind, times=None, when=lambda params: "finished" in params.values())
    pilot = farm.start_pilot()
    farm.server.wait(lambda: fault.hits)
    pilot.kill()
    farm.server.faults.clear()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert farm.final(job)["state"] == "finished"
    assert len(accepted(farm, job)) == 1
    assert farm.server.run_adder() == [job]
    assert farm.state(job) == "finished"


def test_a_report_that_was_taken_already_may_come_again(farm: Farm) -> None:
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    fault = farm.server.faults.add("update_job", "processed_then_close", times=None,
                                   when=lambda params: "finished" in params.values())
    pilot = farm.start_pilot()
    farm.server.wait(lambda: fault.hits)
    pilot.kill()
    farm.server.faults.clear()
    farm.server.run_adder()  # the job has left the active table: the answer will be tobekilled
    done = farm.recover(pilot.directory)
    assert done.process.returncode == 0
    assert "1 report(s) delivered, 0 left" in done.output
    assert farm.state(job) == "finished"
    again = farm.recover(pilot.directory)
    assert (again.process.returncode, "0 report(s) delivered, 0 left" in again.output) == (0, True)


def test_an_undelivered_report_is_kept_and_its_place_is_said(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell() + "echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_pilot("-a", "work", settings=SHORT)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.down()
    gate.open()
    assert pilot.wait() == 79
    home = next((pilot.directory / "work").iterdir())
    assert f"pilot.py --recover {home}" in pilot.output
    away = farm.recover(home, "--set", "server.final_patience=1")
    assert away.process.returncode == 79
    assert "1 left" in away.output
    farm.server.up()
    done = farm.recover(pilot.directory / "work")
    assert done.process.returncode == 0, done.output
    assert farm.final(job)["state"] == "finished"
    assert len(farm.final_updates(job)) == 1


def test_cleanup_removes_a_delivered_outbox_only(farm: Farm) -> None:
    farm.submit_job()
    pilot = farm.run_pilot("-a", "work")
    assert pilot.process.returncode == 0
    assert list((pilot.directory / "work").iterdir()) == []


def test_stale_heartbeats_are_superseded_and_the_final_report_waits(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1})
    gate.reached()
    farm.wait_state(job, "running")
    fault = farm.server.faults.add("update_job", "http_503", times=None)

    def undelivered() -> List[OutboxEntry]:
        store = pilot.store()  # each look sees what is there now
        found = store.undelivered()
        store.close()
        return found

    def newest() -> int:
        return max((entry.id for entry in undelivered()), default=0)

    farm.server.wait(newest)
    first = newest()
    farm.server.wait(lambda: newest() > first + 1)
    assert len(undelivered()) == 1
    seen = len(farm.server.job(job)["updates"])
    gate.open()
    farm.server.wait(lambda: any(entry.final for entry in undelivered()))
    hits = fault.hits
    farm.server.wait(lambda: fault.hits > hits)
    farm.server.faults.clear()
    assert pilot.wait() == 0
    later = farm.server.job(job)["updates"][seen:]
    assert [update["state"] for update in later] == ["finished"]


def test_a_new_pilot_delivers_what_a_dead_one_left_in_its_directory(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    dead = farm.start_pilot()
    gate.reached()
    dead.kill()
    after = farm.submit_job()
    pilot = farm.run_pilot(directory=dead.directory)
    assert pilot.process.returncode == 0
    assert farm.final(job)["pilotErrorCode"] == 1200
    assert farm.final(after)["state"] == "finished"
    assert farm.payload_processes() == []


def test_a_new_pilot_delivers_what_a_dead_one_left_below_the_work_directory(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    dead = farm.start_pilot("-a", "work")
    gate.reached()
    dead.kill()
    holding = farm.gate("second")
    after = farm.submit_job(holding.shell())
    pilot = farm.start_pilot("-a", "work", directory=dead.directory)
    holding.reached()
    farm.wait_state(job, "holding")
    holding.open()
    assert pilot.wait() == 0
    assert farm.final(job)["pilotErrorCode"] == 1200
    assert farm.final(after)["state"] == "finished"


def test_two_pilots_in_one_directory_leave_each_other_alone(farm: Farm) -> None:
    gates = [farm.gate("one"), farm.gate("two")]
    jobs = [farm.submit_job(gate.shell()) for gate in gates]
    first = farm.start_pilot()
    gates[0].reached()
    second = farm.start_pilot(directory=first.directory)
    gates[1].reached()
    alive = farm.recover(first.directory)
    assert alive.output.count("its pilot is alive") == 2
    for gate in gates:
        gate.open()
    assert (first.wait(), second.wait()) == (0, 0)
    assert [farm.final(job)["state"] for job in jobs] == ["finished", "finished"]


def test_recover_status_and_report_say_where_they_looked(farm: Farm) -> None:
    job = farm.submit_job("exit 3")
    pilot = farm.run_pilot()
    for option in ("--recover", "--status", "--report"):
        run = farm.start([PYTHON, str(PILOT), option, str(pilot.directory)])
        assert run.wait() == 0, run.output
        assert f"searched: {pilot.directory}" in run.output
    assert (pilot.directory / f"job-{job}.html").exists()
    empty = farm.directory / "empty"
    empty.mkdir()
    for option in ("--recover", "--status", "--report"):
        run = farm.start([PYTHON, str(PILOT), option, str(empty)])
        assert (run.wait(), "no PilotDB found" in run.output) == (0, True)
        run = farm.start([PYTHON, str(PILOT), option, str(farm.directory / "nowhere")])
        assert (run.wait(), "is not a directory" in run.output) == (67, True)


def test_status_tells_the_living_from_the_dead(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot()
    gate.reached()
    alive = farm.start([PYTHON, str(PILOT), "--status", str(pilot.directory)])
    assert alive.wait() == 0
    pilot.kill()
    dead = farm.start([PYTHON, str(PILOT), "--status", str(pilot.directory)])
    assert dead.wait() == 0
    assert alive.output != dead.output
    assert str(job) in alive.output and str(job) in dead.output and QUEUE in dead.output
    farm.recover(pilot.directory)
