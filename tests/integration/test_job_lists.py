"""Jobs that do not come from the server one by one; the link to the log; the reference's exit codes as a setting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import List

from harness import QUEUE_DOCUMENT, Farm


def job_file(farm: Farm, directory: Path, jobs: List[int]) -> None:
    """Hand the jobs out in a file, as Harvester does, instead of by the server."""
    for job in jobs:
        farm.server.set_state(job, "sent")
    definitions = {str(job): {**farm.server.job(job)["definition"], "PandaID": job} for job in jobs}
    directory.mkdir()
    (directory / "pandaJobData.out").write_text(json.dumps(definitions))


def test_jobs_of_one_file_run_one_after_the_other(farm: Farm, tmp_path: Path) -> None:
    jobs = [farm.submit_job() for _ in range(3)]
    job_file(farm, tmp_path / "data", jobs)
    pilot = farm.run_pilot("--harvester-datadir", str(tmp_path / "data"), "--pod")
    assert pilot.process.returncode == 0
    assert [farm.final(job)["state"] for job in jobs] == ["finished"] * 3


def test_jobs_whose_turn_never_came_are_reported_with_the_signal(farm: Farm, tmp_path: Path) -> None:
    gate = farm.gate("payload")
    jobs = [farm.submit_job(gate.shell()), farm.submit_job(), farm.submit_job()]
    job_file(farm, tmp_path / "data", jobs)
    pilot = farm.start_pilot("--harvester-datadir", str(tmp_path / "data"), "--pod")
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert [farm.final(job)["pilotErrorCode"] for job in jobs] == [1201] * 3
    assert all("SIGTERM" in farm.final(job)["pilotErrorDiag"] for job in jobs)


def test_with_a_work_directory_the_wrapper_still_finds_a_log_that_changes(farm: Farm, tmp_path: Path) -> None:
    gate = farm.gate("payload")
    farm.submit_job(gate.shell())
    pilot = farm.start_pilot("-a", str(tmp_path / "work"))
    gate.reached()
    link = pilot.directory / "pilotlog.txt"
    assert link.is_symlink() and "payload command" in link.read_text()
    gate.open()
    assert pilot.wait() == 0
    assert not os.path.lexists(link), "the link goes with the directory that it points to"


def test_a_log_that_is_there_already_is_left_alone(farm: Farm, tmp_path: Path) -> None:
    farm.submit_job()
    mine = farm.directory / "launch"
    mine.mkdir()
    (mine / "pilotlog.txt").write_text("mine")
    pilot = farm.start_pilot("-a", str(tmp_path / "work"), directory=mine)
    assert pilot.wait() == 0
    assert (mine / "pilotlog.txt").read_text() == "mine"


def test_exit_codes_of_the_reference_are_a_setting(farm: Farm) -> None:
    codes = []
    for wanted in (False, True):
        farm.submit_job(inputs={"in.dat": b"x"}, fsize="2")
        pilot = farm.run_pilot(settings={"jobs.reference_exit_codes": wanted})
        codes.append(pilot.process.returncode)
    assert codes == [0, 1]


def test_the_internal_test_job_needs_no_server(farm: Farm) -> None:
    farm.server.down()
    queue = farm.directory / "queue.json"
    queue.write_text(json.dumps(dict(QUEUE_DOCUMENT)))
    pilot = farm.run_pilot("--queuedata-url", str(queue), settings={"pilot.pandajob": "fake"})
    assert pilot.process.returncode == 0
    assert json.loads((pilot.directory / "heartbeat.json").read_text())["state"] == "finished"
    assert farm.server.requests == []


def test_a_check_says_what_is_wrong_with_the_queue(farm: Farm) -> None:
    farm.set_queue(state="INACTIVE")
    pilot = farm.start([*farm.command(), "--check"])
    assert pilot.wait() == 78
    assert "FAIL queue" in pilot.output and "ok   PanDA server" in pilot.output
    assert {entry.name for entry in pilot.directory.iterdir()} == {"stdouterr.txt"}, "a check leaves no files"
