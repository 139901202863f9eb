"""Odd nodes and odd command lines: what a site admin sees, and that no bad node eats jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from harness import PILOT, Farm

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs directories of another user")


def payload_environment(farm: Farm) -> dict[str, str]:
    """What the payload of :func:`submit_env` has seen."""
    lines = (farm.directory / "env.txt").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def submit_env(farm: Farm, **fields: object) -> int:
    """A job whose payload shows its environment."""
    return farm.submit_job(f"env > {farm.directory}/env.txt", **fields)  # type: ignore[arg-type]


@needs_root
def test_a_directory_that_cannot_be_written_costs_no_job(farm: Farm, tmp_path: Path) -> None:
    job = farm.submit_job()
    launch = tmp_path / "read-only"
    launch.mkdir(mode=0o755)
    os.chown(launch, 65534, 65534)
    # root without its right to write everywhere; another user might not be able to read this Python
    command = ["setpriv", "--bounding-set=-dac_override", *farm.command()]
    run = subprocess.run(command, cwd=launch, env=farm.environment({"PYTHONDONTWRITEBYTECODE": "1"}),
                         capture_output=True, text=True, timeout=60)
    assert run.returncode == 66, run.stdout + run.stderr
    assert farm.state(job) == "activated", "the job is still there for a better node"
    assert str(launch) in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_directory_whose_name_is_not_utf8_runs_jobs(farm: Farm) -> None:
    job = submit_env(farm)
    pilot = farm.run_pilot(directory=farm.directory / os.fsdecode(b"d\xff \xc3\xbc"))
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "finished"


def test_a_server_that_cannot_be_reached_is_said_in_one_line_on_stderr(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "queue.json").write_text(json.dumps(farm.queue))
    command = farm.command("-p", "1", "--queuedata-url", str(tmp_path / "queue.json"), "-v", "1",
                           settings={"server.start_patience": 0})
    run = subprocess.run(command, cwd=tmp_path, env=farm.environment(), capture_output=True, text=True, timeout=60)
    assert run.returncode == 79
    assert run.stderr.startswith("pilot.py: Failed to communicate with server")
    assert run.stderr.count("\n") == 1


def test_a_closed_stderr_does_not_change_the_exit_code(farm: Farm) -> None:
    farm.set_queue(status="offline")
    pilot = farm.start_pilot(prefix=["/bin/sh", "-c", 'exec "$@" 2>&-', "sh"])
    assert pilot.wait() == 83


def test_what_this_version_cannot_do_never_ends_with_exit_1(farm: Farm) -> None:
    run = subprocess.run(farm.command("-w", "stager"), cwd=farm.directory, env=farm.environment(), capture_output=True,
                         text=True, timeout=60)
    assert run.returncode == 65
    assert "stager" in run.stderr


def test_redirected_stdout_outlives_the_work_directory(farm: Farm) -> None:
    farm.submit_job()
    pilot = farm.run_pilot("-a", "work", "--redirect-stdout", "out.txt")
    assert pilot.process.returncode == 0
    assert "pilot has finished" in (pilot.directory / "out.txt").read_text()


def test_the_job_file_below_the_work_directory_option_is_found(farm: Farm) -> None:
    launch = farm.directory / "launch"
    (launch / "work").mkdir(parents=True)
    definition = {"PandaID": "4567890123", "jobPars": "", "transformation": str(farm.script("true")), "StatusCode": "0"}
    (launch / "work" / "pandaJobData.out").write_text(urllib.parse.urlencode(definition))
    queue = farm.directory / "queue.json"
    queue.write_text(json.dumps(farm.queue))
    pilot = farm.run_pilot("-a", "work", "-z", "--harvester-submit-mode", "PUSH", "--cleanup", "False",
                           "--queuedata-url", str(queue), directory=launch)
    assert pilot.process.returncode == 0
    (heartbeat,) = launch.glob("work/PanDA_Pilot2_*/heartbeat.json")
    message = json.loads(heartbeat.read_text())
    assert (message["jobId"], message["state"]) == (4567890123, "finished")
    assert not (launch / "work" / "pandaJobData.out").exists()


def test_after_a_failed_stage_in_the_pilot_takes_no_further_job(farm: Farm) -> None:
    farm.set_queue(timefloor=60)
    bad = farm.submit_job(inputs={"in.dat": b"data"})
    good = farm.submit_job()
    (farm.inputs / "in.dat").unlink()
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 75, "it would have gone on to the next job: 1332"
    assert farm.final(bad)["state"] == "failed"
    assert farm.state(good) == "activated"
    assert "no further job: the stage-in of job" in pilot.output


def test_a_job_directory_that_was_there_before_is_not_removed(farm: Farm) -> None:
    job = farm.submit_job()
    launch = farm.directory / "launch"
    strange = launch / f"PanDA_Pilot-{job}"
    strange.mkdir(parents=True)
    (strange / "precious").write_text("not ours")
    farm.run_pilot(directory=launch)
    assert farm.final(job)["pilotErrorCode"] == 1199
    assert (strange / "precious").read_text() == "not ours"


def test_the_payload_sees_the_variables_of_its_pilot_and_job(farm: Farm) -> None:
    job = submit_env(farm, taskID=77)
    pilot = farm.run_pilot()
    seen = payload_environment(farm)
    expected = {
        "PILOT_WORK_DIR": "", "PILOT_HOME": str(pilot.directory), "PILOT_SOURCE_DIR": str(pilot.directory),
        "PILOT_USER": "generic", "PILOT_JOB_STATE": "payload", "PILOT_WRAP_UP": "NORMAL", "SERVER_UPDATE": "RUNNING",
        "PILOT_VERSION": (PILOT.parent / "PILOTVERSION").read_text().strip(), "PILOT_PROXY_VERIFICATION": "False",
        "PILOT_PAYLOAD_PROXY_VERIFICATION": "True", "PILOT_RESOURCE_NAME": "", "PILOT_USE_RUCIO_TRACES": "True",
        "PILOT_ES_EXECUTOR_TYPE": "generic", "PILOT_OUTPUT_DIR": str(farm.outputs), "PILOT_STAGEOUT_ATTEMPTS": "1",
        "PANDA_SERVER_URL": f"http://127.0.0.1:{farm.server.port}", "PILOT_RUCIO_SITENAME": "LOCAL",
        "PILOT_SITENAME": "TEST_QUEUE", "PILOT_IP_VERSION": "IPv6", "PANDAID": str(job), "PanDA_TaskID": "77",
    }
    assert {name: seen.get(name) for name in expected} == expected


def test_the_identity_of_worker_and_batch_job_is_in_every_message(farm: Farm) -> None:
    job = farm.submit_job()
    farm.run_pilot(env={
        "GTAG": "https://factory/log.out", "PANDA_JSID": "harvester-7", "SLURM_JOB_ID": "4711",
        "_CONDOR_SLOT": "slot1_3", "PANDA_HOSTNAME": "wn7.example.org", "HARVESTER_ID": "h1",
        "HARVESTER_WORKER_ID": "12",
    })
    version = (PILOT.parent / "PILOTVERSION").read_text().strip()
    updates = farm.server.job(job)["updates"]
    assert (updates[0]["state"], updates[-1]["state"]) == ("starting", "finished")
    for update in updates:
        assert update["pilotID"] == f"https://factory/log.out|SLURM|PR|{version}"
        assert (update["batchID"], update["schedulerID"]) == ("4711", "harvester-7")
        assert update["node"] == "slot1_3@wn7.example.org"


def test_only_the_file_with_the_version_is_needed_to_print_it(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, str(PILOT), "--version"], cwd=tmp_path, env={}, capture_output=True,
                         text=True, timeout=60, check=True)
    assert run.stdout == (PILOT.parent / "PILOTVERSION").read_text().strip() + "\n"
    assert list(tmp_path.iterdir()) == []


def test_each_job_has_its_own_log_and_timing(farm: Farm) -> None:
    farm.set_queue(timefloor=60)
    first, second = farm.submit_job("exec sleep 2"), farm.submit_job()
    pilot = farm.run_pilot("-v", "1")
    payload = int(farm.final(first)["pilotTiming"].split("|")[2])
    assert payload >= 2
    assert int(farm.final(second)["pilotTiming"].split("|")[4]) < payload, "the first job is not the second's set-up"
    earlier = (pilot.directory / f"pilotlog-{first}.txt").read_text()
    assert str(second) not in earlier
    assert str(second) in (pilot.directory / "pilotlog.txt").read_text()
    assert f"node {farm.final(first)['node']}, batch job unknown" in earlier


def test_outputs_that_mv_has_stored_below_the_work_directory_are_not_removed_with_it(farm: Farm) -> None:
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    pilot = farm.run_pilot("-a", "work", files=False)
    assert pilot.process.returncode == 0
    for entry in json.loads(farm.final(job)["xml"]).values():
        stored = Path(entry["surl"].partition("localhost")[2])
        assert stored.stat().st_size == entry["fsize"], "what is reported as stored is there"
    assert "is kept" in pilot.output


def test_the_time_limit_that_was_reached_is_the_one_that_is_named(farm: Farm) -> None:
    farm.set_queue(params={"job_maxwalltime": True})
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), maxWalltime=3)
    pilot = farm.start_pilot()
    gate.reached()
    assert pilot.wait() == 0
    final = farm.final(job)
    assert final["pilotErrorCode"] == 1213
    assert final["pilotErrorDiag"].endswith(
        "the job's maxWalltime allows 3 s, less 0.3 s for the way out [user; retry: elsewhere]")
