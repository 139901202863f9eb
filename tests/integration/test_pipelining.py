"""Pipelining: the next job comes while the results of the last one leave, within bounds, and each ends as if alone."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional

import pytest
from harness import PILOT, PYTHON, Farm, Gate, Pilot
from looks import archive, ended_well
from test_several_jobs_at_once import start_with_file, take_jobs

ON: Mapping[str, object] = {"jobs.pipelining": True, "pilot.heartbeat": 1}


def start(farm: Farm, *options: str, settings: Optional[Mapping[str, object]] = None, **queue: Any) -> Pilot:
    """Start a pilot that takes several jobs, pipelined, until none comes."""
    farm.set_queue(**{"timefloor": 3600, "maxrss": 1, **queue})
    return farm.start_gated("-x", "1", *options, settings={**ON, **(settings or {})})


def getjobs(farm: Farm) -> List[Dict[str, Any]]:
    """Parameters of all requests for a job, oldest first."""
    return [dict(request.params) for request in farm.server.requests if request.operation == "acquire_jobs"]


def states(farm: Farm, *jobs: int) -> List[str]:
    """States of the final reports."""
    return [farm.final(job)["state"] for job in jobs]


def codes(farm: Farm, *jobs: int) -> List[int]:
    """Pilot error codes of the final reports; each job has exactly one."""
    assert [len(farm.final_updates(job)) for job in jobs] == [1] * len(jobs)
    return [int(farm.final(job).get("pilotErrorCode") or 0) for job in jobs]


def with_output(farm: Farm, name: str = "first.dat", before: str = "", **fields: Any) -> int:
    """Submit a job with one output."""
    return farm.submit_job(f"{before}\necho result > {name}", outputs=[name], **fields)


def with_input(farm: Farm, payload: str = "true", **fields: Any) -> int:
    """Submit a job with one input."""
    return farm.submit_job(payload, inputs={"in.dat": b"data"}, **fields)


def members(farm: Farm, job: int) -> Dict[str, bytes]:
    """Members of a job's log archive."""
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def free(farm: Farm) -> int:
    """Bytes that are free where the pilots work."""
    status = os.statvfs(farm.directory)
    return status.f_bavail * status.f_frsize


def overlap(farm: Farm, gate_of_second: str, *options: str, payload: str = "true", **how: Any) -> Any:
    """Two jobs: the first stands in its stage-out, the second at a gate. Returns (pilot, jobs, gates)."""
    gates = farm.gate("copyout"), farm.gate(gate_of_second)
    first = with_output(farm)
    second = with_input(farm, gates[1].shell() if gate_of_second == "payload" else payload)
    pilot = start(farm, *options, **how)
    for gate in gates:
        gate.reached()
    return pilot, (first, second), gates


def finish(pilot: Pilot, *gates: Gate, code: int = 0) -> None:
    """Open the gates, and wait for an end without tracebacks."""
    for gate in gates:
        gate.open()
    pilot.wait()
    ended_well(pilot, code)


# --- what overlaps ----------------------------------------------------------------------------------------------------


def test_the_next_inputs_come_and_the_next_payload_runs_while_outputs_leave(farm: Farm) -> None:
    out, copyin, payload = farm.gate("copyout"), farm.gate("copyin"), farm.gate("payload")
    first, second = with_output(farm), with_input(farm, payload.shell())
    pilot = start(farm)
    out.reached()
    copyin.reached()
    assert farm.state(second) != "activated"
    copyin.open()
    payload.reached()
    assert not farm.final_updates(first), "its output is still on its way"
    finish(pilot, payload, out)
    assert states(farm, first, second) == ["finished", "finished"]


def test_a_job_is_asked_for_when_the_payload_before_it_has_ended_and_not_earlier(farm: Farm) -> None:
    payload, out = farm.gate("payload"), farm.gate("copyout")
    first, second = with_output(farm, before=payload.shell()), farm.submit_job()
    pilot = start(farm)
    payload.reached()
    farm.wait_state(first, "running")
    assert len(getjobs(farm)) == 1
    payload.open()
    out.reached()
    farm.server.wait(lambda: len(getjobs(farm)) == 2)
    finish(pilot, out)
    story = [(request.operation, request.params.get("job_id"), request.params.get("job_status"))
             for request in farm.server.requests]
    assert story.index(("update_job", first, "running")) < [what for what, _, _ in story].index(
        "acquire_jobs", 1 + [what for what, _, _ in story].index("acquire_jobs"))
    assert states(farm, first, second) == ["finished", "finished"]


def test_no_more_than_one_job_runs_ahead(farm: Farm) -> None:
    out = farm.gate("copyout")
    first, second, third = with_output(farm), farm.submit_job(), farm.submit_job()
    pilot = start(farm)
    out.reached()
    pilot.wait_output(f"job {second}: payload ended")
    assert farm.state(third) == "activated"
    finish(pilot, out)
    assert states(farm, first, second, third) == ["finished"] * 3


@pytest.mark.parametrize(("queue", "setting", "overlaps"), [
    ({}, False, False), ({"params": {"pipelining": True}}, False, True),
    ({"catchall": "HPC_HPC,pipelining"}, False, True),
    ({"params": {"pipelining": "false"}}, True, False), ({"catchall": "pipelining=false"}, True, False)])
def test_the_queue_may_ask_for_it_or_forbid_it(
        farm: Farm, queue: Mapping[str, Any], setting: bool, overlaps: bool) -> None:
    out = farm.gate("copyout")
    first, second = with_output(farm), farm.submit_job("echo ran")
    pilot = start(farm, settings={"jobs.pipelining": setting}, **queue)
    out.reached()
    if overlaps:
        pilot.wait_output(f"job {second}: payload ended")
    else:  # the first heartbeat comes a second after the grant: the pilot had time to do what it should not
        farm.server.wait(lambda: len(farm.server.job(first)["updates"]) > 2)
        assert farm.state(second) == "activated"
    finish(pilot, out)
    assert states(farm, first, second) == ["finished", "finished"]


def test_jobs_of_one_file_overlap_too(farm: Farm) -> None:
    out, payload = farm.gate("copyout"), farm.gate("payload")
    farm.set_queue(params={"pipelining": True}, maxrss=1, copytools={"gated": {"copy_in": "cp", "copy_out": "cp"}},
                   acopytools={"default": ["gated"]})
    ids = [with_output(farm), farm.submit_job(payload.shell()), farm.submit_job()]
    pilot = start_with_file(farm, take_jobs(farm, 3), "--pilot-user", "gated", settings={
        "plugins.copytools": {"gated": "gated:GatedTool"}, "plugins.experiments": {"gated": "gated:GatedExperiment"}})
    out.reached()
    payload.reached()
    finish(pilot, out, payload)
    assert states(farm, *ids) == ["finished"] * 3


# --- what is told ---------------------------------------------------------------------------------------------------


def test_final_reports_leave_in_the_order_of_the_jobs(farm: Farm) -> None:
    out = farm.gate("copyout")
    jobs = [with_output(farm), farm.submit_job("exit 3"), farm.submit_job(log=False)]
    pilot = start(farm)
    out.reached()
    pilot.wait_output(f"job {jobs[1]}: payload ended")
    finish(pilot, out)
    times = [farm.final_updates(job)[0]["_time"] for job in jobs]
    assert times == sorted(times)
    assert states(farm, *jobs) == ["finished", "failed", "finished"]


def test_both_jobs_have_their_heartbeats(farm: Farm) -> None:
    pilot, (first, second), gates = overlap(farm, "payload")
    farm.wait_state(second, "running")
    seen = [len(farm.server.job(job)["updates"]) for job in (first, second)]
    farm.server.wait(lambda: all(len(farm.server.job(job)["updates"]) > count + 1
                                 for job, count in zip((first, second), seen)))
    finish(pilot, *gates)
    for job in (first, second):
        said = [update["state"] for update in farm.server.job(job)["updates"]]
        assert said == ["starting", *["running"] * (len(said) - 2), "finished"]


def test_status_shows_both_jobs(farm: Farm) -> None:
    pilot, (first, second), gates = overlap(farm, "copyin")
    status = farm.start([PYTHON, str(PILOT), "--status", str(pilot.directory)])
    assert status.wait() == 0
    lines = [" ".join(line.split()) for line in status.output.splitlines()]
    assert any(line.startswith("stage-in") and line.endswith(f"job {second}: 1 files") for line in lines), lines
    assert any(line.startswith("stage-out") and line.endswith(f"job {first}: 1 outputs") for line in lines), lines
    stages = [line.split("stage ")[1].split()[0] for line in lines if line.startswith("granted")]
    assert stages == ["stageout", "stagein"]
    finish(pilot, *gates)


def test_a_jobs_timing_has_its_own_stages_only(farm: Farm) -> None:
    out = farm.gate("copyout")
    first, second = with_output(farm, before="sleep 3"), with_input(farm, "exec sleep 2")
    pilot = start(farm)
    out.reached()
    pilot.wait_output(f"job {second}: payload ended")
    finish(pilot, out)
    earlier, later = ([int(part) for part in farm.final(job)["pilotTiming"].split("|")] for job in (first, second))
    assert earlier[2] >= 3 and earlier[3] >= 2, "its stage-out lasted as long as the second payload"
    assert later[2] >= 2 and later[3] < 2, "waiting for the first job's stage-out is no stage-out"
    assert later[4] < 3, "the first job's payload is not the second's set-up"


def test_each_job_has_its_own_log(farm: Farm) -> None:
    pilot, (first, second), gates = overlap(farm, "payload")
    finish(pilot, *reversed(gates))
    one, two = (members(farm, job)["pilotlog.txt"].decode() for job in (first, second))
    assert f"job {first}: payload command" in one and "stage-out of first.dat" in one
    assert "stage-out of first.dat" not in two
    assert f"received job: id={second}" in two and "stage-in of in.dat" in two and f"job {second}: payload ended" in two
    assert f"job {second}: payload" not in one and "stage-in of in.dat" not in one
    whole = (pilot.directory / f"pilotlog-{first}.txt").read_text()
    assert f"job {first} has finished" in whole and f"received job: id={second}" not in whole


def test_the_log_extract_of_a_job_has_no_error_of_the_other(farm: Farm) -> None:
    out, payload = farm.gate("copyout"), farm.gate("payload")
    first, second = with_output(farm), farm.submit_job(payload.shell() + "exit 7")
    pilot = start(farm)
    out.reached()
    payload.reached()
    (pilot.directory / f"PanDA_Pilot-{first}" / "first.dat").unlink()
    out.open()
    farm.server.wait(lambda: farm.final_updates(first))
    finish(pilot, payload)
    assert "first.dat" in farm.final(first)["pilotLog"]
    extract = farm.final(second)["pilotLog"]
    assert "exit code 7" in extract
    assert "first.dat" not in extract


def test_the_environment_speaks_of_the_job_that_runs(farm: Farm) -> None:
    out, payload = farm.gate("copyout"), farm.gate("payload")
    first = with_output(farm)
    second = with_input(farm, payload.shell() + 'echo "$PANDAID $PanDA_TaskID"', taskID=77)
    third = with_output(farm, "third.dat", before='echo "$PANDAID"', taskID=77)
    pilot = start(farm)
    out.reached()
    payload.reached()
    out.open()
    farm.server.wait(lambda: farm.final_updates(first))
    finish(pilot, payload, out)
    assert members(farm, second)["payload.stdout"].decode() == f"{second} 77\n"
    assert members(farm, third)["payload.stdout"].decode() == f"{third}\n"


# --- bounds -----------------------------------------------------------------------------------------------------------


def assert_one_by_one(farm: Farm, pilot: Pilot, out: Gate, words: str, *jobs: int) -> None:
    """The second job is asked for only when the first one has left; both are done."""
    out.reached()
    pilot.wait_output("the next job is asked for when the present one has left: ")
    assert words in pilot.output
    assert len(getjobs(farm)) == 1
    finish(pilot, out)
    assert states(farm, *jobs) == ["finished"] * len(jobs)


def test_no_job_comes_ahead_when_the_leaving_one_holds_the_disk(farm: Farm) -> None:
    out = farm.gate("copyout")
    jobs = with_output(farm, before="truncate -s 8T scratch.dat"), farm.submit_job()
    pilot = start(farm)
    assert_one_by_one(farm, pilot, out, "(setting pilot.free_space_limit) beside the 8796", *jobs)


@pytest.mark.parametrize(("queue", "words"), [
    ({"maxrss": 10**9}, "a job may need 1000000000 MB (the queue's maxrss)"),
    ({"maxrss": 0, "corecount": 10**6}, "a job may need 2000000000 MB (2000 MB per core)")])
def test_no_job_comes_ahead_when_memory_is_low(farm: Farm, queue: Mapping[str, int], words: str) -> None:
    out = farm.gate("copyout")
    jobs = with_output(farm), farm.submit_job()
    pilot = start(farm, **queue)
    assert_one_by_one(farm, pilot, out, words, *jobs)


def test_jobs_of_one_file_obey_the_bounds(farm: Farm) -> None:
    out = farm.gate("copyout")
    farm.set_queue(params={"pipelining": True}, maxrss=10**9, acopytools={"default": ["gated"]},
                   copytools={"gated": {"copy_in": "cp", "copy_out": "cp"}})
    first, second = with_output(farm), farm.submit_job()
    pilot = start_with_file(farm, take_jobs(farm, 2), "--pilot-user", "gated", settings={
        "plugins.copytools": {"gated": "gated:GatedTool"}, "plugins.experiments": {"gated": "gated:GatedExperiment"}})
    out.reached()
    pilot.wait_output("the next job is asked for when the present one has left: ")
    assert f"received job: id={second}" not in pilot.output
    finish(pilot, out)
    assert states(farm, first, second) == ["finished", "finished"]


def test_the_server_is_told_what_is_free_beside_the_leaving_job(farm: Farm) -> None:
    held = free(farm) // 4
    out = farm.gate("copyout")
    jobs = with_output(farm, before=f"truncate -s {held} scratch.dat"), farm.submit_job(), farm.submit_job()
    pilot = start(farm, maxwdir=0)
    out.reached()
    pilot.wait_output(f"job {jobs[1]}: payload ended")
    finish(pilot, out)
    assert states(farm, *jobs) == ["finished"] * 3
    alone, beside, _, _ = (int(params["disk_space"]) * 1024 * 1024 for params in getjobs(farm))
    assert beside < alone - held // 2, "what the first job holds is not offered"
    assert alone - 2 * held < beside, "and no more than that is held back"


def test_inputs_that_do_not_fit_beside_the_leaving_job_wait_for_its_end(farm: Farm) -> None:
    space = free(farm)
    out, copyin = farm.gate("copyout"), farm.gate("copyin")
    first, second = with_output(farm, before=f"truncate -s {space // 2} scratch.dat"), with_input(farm)
    pilot = start(farm, settings={"limits.reserve_space": 3 * space // 4})
    out.reached()
    pilot.wait_output(f"job {second}: stage-in waits until the job before it has left")
    farm.wait_state(second, "running", "starting")
    out.open()
    copyin.reached()
    farm.server.wait(lambda: farm.final_updates(first))
    finish(pilot, copyin)
    assert states(farm, first, second) == ["finished", "finished"]


def test_the_time_that_a_job_waits_for_space_is_not_of_its_wall_time(farm: Farm) -> None:
    space = free(farm)
    out = farm.gate("copyout")
    first = with_output(farm, before=f"truncate -s {space // 2} scratch.dat")
    second = with_input(farm, maxWalltime=3)
    pilot = start(farm, settings={"limits.reserve_space": 3 * space // 4}, params={"job_maxwalltime": True})
    out.reached()
    pilot.wait_output(f"job {second}: stage-in waits until the job before it has left")
    seen = len(farm.server.job(second)["updates"])
    farm.server.wait(lambda: len(farm.server.job(second)["updates"]) > seen + 4)  # one heartbeat a second
    finish(pilot, out)
    assert codes(farm, first, second) == [0, 0]


@pytest.mark.parametrize("command", ["kill", "SIGTERM"])
def test_a_job_that_waits_for_space_can_be_ended(farm: Farm, command: str) -> None:
    space = free(farm)
    out = farm.gate("copyout")
    first, second = with_output(farm, before=f"truncate -s {space // 2} scratch.dat"), with_input(farm)
    pilot = start(farm, settings={"limits.reserve_space": 3 * space // 4})
    out.reached()
    pilot.wait_output(f"job {second}: stage-in waits until the job before it has left")
    if command == "kill":
        farm.wait_state(second, "running")  # a job that only starts is closed at once
        farm.server.kill(second)
        pilot.wait_output(f"job {second}: kill in stage received")
    else:
        pilot.send("SIGTERM")
        pilot.wait_output("what is done may still leave")
    finish(pilot, out, code=0 if command == "kill" else 143)
    assert codes(farm, first, second) == [0, 1144 if command == "kill" else 1201]


def test_without_time_for_another_job_none_comes_ahead(farm: Farm) -> None:
    out = farm.gate("copyout")
    first, second = with_output(farm), farm.submit_job()
    pilot = start(farm, timefloor=0)
    out.reached()
    pilot.wait_output("no further job: the queue's timefloor is 0")
    finish(pilot, out)
    assert (states(farm, first), farm.state(second), len(getjobs(farm))) == (["finished"], "activated", 1)


def test_a_job_that_reaches_the_pilots_lifetime_is_the_last_one(farm: Farm) -> None:
    payload, log = farm.gate("payload"), farm.gate("copylog")
    first, second = farm.submit_job(payload.shell()), farm.submit_job()
    pilot = start(farm, "-l", "10", maxtime=0)
    payload.reached()
    log.reached()
    finish(pilot, log)
    assert codes(farm, first) == [1213]
    assert (farm.state(second), len(getjobs(farm))) == ("activated", 1)


def test_a_pilot_that_is_told_to_end_takes_no_job_ahead(farm: Farm) -> None:
    out = farm.gate("copyout")
    first = with_output(farm)
    pilot = start(farm, "-x", "100", settings={"server.getjob_wait": 3600, "server.getjob_wait_max": 3600})
    out.reached()
    pilot.wait_output("next attempt to get a job in")
    second = farm.submit_job()
    pilot.send("SIGTERM")
    pilot.wait_output("what is done may still leave")
    finish(pilot, out, code=143)
    assert (states(farm, first), farm.state(second), len(getjobs(farm))) == (["finished"], "activated", 2)


# --- when something goes wrong ----------------------------------------------------------------------------------------


def test_a_failed_stagein_leaves_the_job_before_it_alone_and_ends_the_pilot_afterwards(farm: Farm) -> None:
    pilot, (first, second), (out, copyin) = overlap(farm, "copyin")
    third = farm.submit_job()
    (farm.inputs / "in.dat").unlink()
    copyin.open()
    pilot.wait_output(f"no further job: the stage-in of job {second} has failed")
    finish(pilot, out, code=75)  # it would have taken the third one
    assert states(farm, first, second) == ["finished", "failed"]
    assert farm.final(second)["pilotErrorCode"] == 1331
    assert farm.state(third) == "activated"


def test_a_failed_stageout_leaves_the_next_job_alone(farm: Farm) -> None:
    pilot, (first, second), (out, payload) = overlap(farm, "payload")
    third = farm.submit_job()
    (pilot.directory / f"PanDA_Pilot-{first}" / "first.dat").unlink()
    finish(pilot, out, payload)
    assert states(farm, first, second, third) == ["failed", "finished", "finished"]


def test_a_refused_job_does_not_disturb_the_one_before_it(farm: Farm) -> None:
    out = farm.gate("copyout")
    first, second, third = with_output(farm), farm.submit_job(outFiles="../x"), farm.submit_job()
    pilot = start(farm)
    out.reached()
    finish(pilot, out)
    assert states(farm, first, second, third) == ["finished", "failed", "finished"]


def test_tobekilled_ends_the_job_whose_outputs_leave_and_not_the_next_one(farm: Farm) -> None:
    pilot, (first, second), (out, payload) = overlap(farm, "payload")
    farm.server.kill(first)
    pilot.wait_output(f"job {first}: kill in stage stageout")
    farm.server.wait(lambda: farm.final_updates(first))
    finish(pilot, payload)
    assert codes(farm, first, second) == [1144, 0]
    assert not (farm.outputs / "first.dat").exists()


@pytest.mark.parametrize("gate", ["copyin", "payload"])
def test_tobekilled_ends_the_next_job_and_not_the_one_that_leaves(farm: Farm, gate: str) -> None:
    pilot, (first, second), (out, _) = overlap(farm, gate)
    farm.wait_state(second, "running")
    farm.server.kill(second)
    pilot.wait_output(f"job {second}: kill in stage ")
    finish(pilot, out)
    assert codes(farm, first, second) == [0, 1144]


@pytest.mark.parametrize("gate", ["copyin", "payload"])
def test_a_signal_lets_results_leave_and_ends_the_next_job(farm: Farm, gate: str) -> None:
    pilot, (first, second), (out, _) = overlap(farm, gate)
    pilot.send("SIGTERM")
    pilot.wait_output("what is done may still leave")
    finish(pilot, out, code=143)
    assert codes(farm, first, second) == [0, 1201]
    assert (farm.outputs / "first.dat").exists()


def test_a_signal_ends_both_jobs_when_the_results_cannot_leave(farm: Farm) -> None:
    pilot, jobs, _ = overlap(farm, "copyin", settings={"shutdown.deadline": 8})
    pilot.send("SIGTERM")
    finish(pilot, code=143)
    assert codes(farm, *jobs) == [1201, 1201]


@pytest.mark.parametrize("gate", ["copyin", "payload"])
def test_both_jobs_of_a_killed_pilot_are_reported_by_recover(farm: Farm, gate: str) -> None:
    pilot, jobs, _ = overlap(farm, gate)
    pilot.kill()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert codes(farm, *jobs) == [1200, 1200]
    assert farm.payload_processes() == []
    assert farm.recover(pilot.directory).process.returncode == 0
    assert codes(farm, *jobs) == [1200, 1200], "not a second time"


def test_a_stored_result_survives_the_kill_of_the_pilot_in_the_next_job(farm: Farm) -> None:
    out, payload = farm.gate("copyout"), farm.gate("payload")
    first, second = with_output(farm), farm.submit_job(payload.shell())
    refused = farm.server.faults.add("update_job", "http_503", times=None,
                                     when=lambda params: "finished" in params.values())
    pilot = start(farm, settings={"pilot.heartbeat": 3600})
    out.reached()
    payload.reached()
    farm.wait_state(second, "running")
    out.open()
    farm.server.wait(lambda: refused.hits)
    pilot.kill()
    farm.server.faults.clear()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert codes(farm, first, second) == [0, 1200]


def test_nothing_polls_while_two_jobs_stand_still(farm: Farm) -> None:
    pilot, _, gates = overlap(farm, "payload", settings={"pilot.heartbeat": 3600})
    pilot.wait_output("server has 'running'")

    def wakeups() -> int:
        found = 0
        for task in os.listdir(f"/proc/{pilot.pid}/task"):
            with open(f"/proc/{pilot.pid}/task/{task}/status", encoding="ascii") as status:
                found += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
        return found

    clock = farm.run_pilot("-x", "1")  # what another pilot needs from start to end is the time that passes here
    before = wakeups()
    clock = farm.run_pilot("-x", "1")
    assert clock.process.returncode == 0
    assert wakeups() - before < 5, "a look every tenth of a second would be more"
    finish(pilot, *gates)
