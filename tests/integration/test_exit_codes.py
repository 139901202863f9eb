"""What the wrapper sees: the exit code of the process, and one clear line on stderr when a start has failed."""

from __future__ import annotations

import json
from typing import Any, Mapping

import pytest
from harness import QUEUE, Farm, Pilot

QUICK = {"server.start_patience": 1, "server.connect_timeout": 1, "pilot.http_maxtime": 2}


def complaints(output: str) -> list[str]:
    """The lines for people: no log lines, no traceback."""
    assert "Traceback" not in output
    return [line for line in output.splitlines() if line.startswith("pilot.py: ")]


@pytest.mark.parametrize(("queue", "code"), [
    ({"state": "INACTIVE"}, 78), ({"status": "offline"}, 83),
])
def test_a_queue_that_must_not_be_used(farm: Farm, queue: Mapping[str, Any], code: int) -> None:
    farm.submit_job()
    farm.set_queue(**queue)
    pilot = farm.run_pilot()
    assert pilot.process.returncode == code
    assert len(complaints(pilot.output)) == 1 and QUEUE in complaints(pilot.output)[0]
    assert all(request.operation != "acquire_jobs" for request in farm.server.requests)


@pytest.mark.parametrize("trouble", ["unknown queue", "server away"])
def test_no_queue_data(farm: Farm, trouble: str) -> None:
    options = ["-q", "NO_SUCH_QUEUE"] if trouble == "unknown queue" else []
    if trouble == "server away":
        farm.server.down()
    pilot = farm.run_pilot(*options, settings={
        **QUICK, "information.queues_url": f"{farm.server.url}/cache/none.json"})
    assert pilot.process.returncode == 71
    assert len(complaints(pilot.output)) == 1


def test_a_work_directory_that_cannot_be_made(farm: Farm) -> None:
    place = farm.directory / "file"
    place.write_text("not a directory")
    pilot = farm.run_pilot("-a", str(place))
    assert pilot.process.returncode == 66
    assert str(place) in complaints(pilot.output)[0]


def test_no_local_space(farm: Farm) -> None:
    farm.submit_job()
    pilot = farm.run_pilot(settings={"pilot.free_space_limit": "900000 TB"})
    assert pilot.process.returncode == 69
    assert all(request.operation != "acquire_jobs" for request in farm.server.requests)


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_the_server_refuses_the_identity(farm: Farm, dialect: str) -> None:
    job = farm.submit_job()
    farm.server.faults.add("acquire_jobs", "status_60", times=None)
    pilot = farm.run_pilot("--server-api", dialect)
    assert pilot.process.returncode == 68
    assert farm.state(job) == "activated"


def test_a_server_that_cannot_be_reached(farm: Farm) -> None:
    (farm.directory / "queue.json").write_text(json.dumps(farm.queue))
    farm.server.down()
    pilot = farm.run_pilot("-x", "1", "--queuedata-url", f"file://{farm.directory}/queue.json", settings=QUICK)
    assert pilot.process.returncode == 79, pilot.output
    assert "could not be reached" in pilot.output


@pytest.mark.parametrize("payload", ["exit 1", "exit 255", "kill -9 $$", "rm -rf ../PanDA_Pilot-*"])
def test_a_failed_job_is_no_failed_pilot(farm: Farm, payload: str) -> None:
    job = farm.submit_job(payload, outputs=["out.dat"])
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "failed"
    assert farm.final(job)["pilotErrorCode"] > 0 or farm.final(job)["exeErrorCode"] > 0


def test_a_failed_stage_in_is_no_failed_pilot(farm: Farm) -> None:
    job = farm.submit_job(inputs={"in.dat": b"data"})
    (farm.inputs / "in.dat").unlink()
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "failed"


def test_a_final_report_that_cannot_be_delivered(farm: Farm) -> None:
    farm.submit_job()
    farm.server.faults.add("update_job", "http_500", times=None)
    pilot = farm.run_pilot(settings={"server.final_patience": 1})
    assert pilot.process.returncode == 79
    assert "pilot.py --recover" in pilot.output


def test_without_server_updates_the_reports_are_written(farm: Farm) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    (launch / "pandaJobData.out").write_text(json.dumps({
        "PandaID": 17, "transformation": "true", "jobPars": "", "attemptNr": 1, "prodSourceLabel": "managed"}))
    pilot = farm.run_pilot("-z", directory=launch)
    assert pilot.process.returncode == 0, pilot.output
    assert '"finished"' in (launch / "heartbeat.json").read_text()
    assert all(request.operation != "update_job" for request in farm.server.requests)


def run_broken(farm: Farm, method: str) -> Pilot:
    """Run a pilot with a plug-in that has this method."""
    (farm.directory / "broken.py").write_text(
        f"from pilot.user.generic import GenericExperiment\nclass Broken(GenericExperiment):\n    {method}\n")
    return farm.run_pilot("--pilot-user", "broken", settings={"plugins.experiments": {"broken": "broken:Broken"}},
                          env={"PYTHONPATH": str(farm.directory)}, timeout=20)


def test_an_internal_error_is_70_and_one_line(farm: Farm) -> None:
    job = farm.submit_job()
    pilot = run_broken(farm, "def sanity_check(self): raise RuntimeError('a plug-in with a fault')")
    assert pilot.process.returncode == 70
    assert "a plug-in with a fault" in pilot.output
    assert farm.state(job) == "activated"


@pytest.mark.parametrize("hook", ["verify_job", "payload_environment", "metadata", "judge_report"])
def test_a_faulty_plug_in_costs_the_job_not_the_pilot(farm: Farm, hook: str) -> None:
    job = farm.submit_job("echo '{}' > jobReport.json")
    pilot = run_broken(farm, f"def {hook}(self, *args, **kwargs): raise RuntimeError('a plug-in with a fault')")
    assert pilot.process.returncode == 0
    assert len(farm.final_updates(job)) == 1
    assert "a plug-in with a fault" in farm.final(job)["pilotErrorDiag"]


@pytest.mark.parametrize("hook", ["job_metrics", "pilot_id", "cpu_architecture_level"])
def test_a_faulty_plug_in_does_not_cost_the_report(farm: Farm, hook: str) -> None:
    job = farm.submit_job()
    pilot = run_broken(farm, f"def {hook}(self, *args, **kwargs): raise RuntimeError('a plug-in with a fault')")
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "finished"
    assert "a plug-in with a fault" in pilot.log


def test_a_report_that_cannot_be_made_still_ends_the_job(farm: Farm) -> None:
    job = farm.submit_job()
    pilot = run_broken(farm, "def job_metrics(self, job, *, final):\n"
                             "        if final: job.timing = None\n        return ''")
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "failed"
    assert farm.final(job)["pilotErrorCode"] == 1319
    assert "in an orderly way" in pilot.log
