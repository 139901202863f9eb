"""Parts of the pilot that hang or die: it notices, says where, reports the job, and ends well within a deadline."""

from __future__ import annotations

import contextlib
from typing import Any, Dict

import pytest
from harness import Farm, Pilot

QUICK: Dict[str, object] = {
    "monitor.step_time": 4, "monitor.call_time": 4, "pilot.thread_check": 1, "jobs.verify_setup_time": 1,
    "shutdown.deadline": 30, "shutdown.term_grace": 1, "pilot.heartbeat": 1,
    "plugins.experiments": {"hanging": "hanging:HangingExperiment"},
}


def start(farm: Farm, hook: str = "", *options: str, dying: str = "", env: Any = None, **settings: object) -> Pilot:
    variables = {"HANGING_HOOK": hook, "DYING_HOOK": dying, **(env or {})}
    return farm.start_pilot("--pilot-user", "hanging", *options, settings={**QUICK, **settings}, env=variables)


def failed_with(farm: Farm, job: int, code: int) -> Dict[str, Any]:
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", code), final["pilotErrorDiag"]
    assert len(farm.final_updates(job)) == 1
    assert farm.payload_processes() == []
    return final


@pytest.mark.parametrize(("hook", "component", "log"), [
    ("verify_job", "job", True),
    ("complete_job", "job", True),
    ("payload_environment", "payload", True),
    ("report_policy", "payload", True),
    ("redundant_patterns", "stage-out", False),
])
def test_a_hook_that_hangs_ends_the_job_and_the_pilot(farm: Farm, hook: str, component: str, log: bool) -> None:
    farm.set_queue(timefloor=3600)
    job, after = farm.submit_job("echo done"), farm.submit_job()
    pilot = start(farm, hook)
    assert pilot.wait() == 65
    final = failed_with(farm, job, 1317)
    assert f"component {component} is stuck" in final["pilotErrorDiag"]
    assert (farm.outputs / str(farm.server.job(job)["definition"]["logFile"])).exists() is log
    assert "hanging.py" in pilot.log and "in _hang" in pilot.log and "MainThread:" in pilot.log
    assert farm.state(after) == "activated"


def test_a_hook_that_hangs_in_the_final_report(farm: Farm) -> None:
    job = farm.submit_job("echo done")
    pilot = start(farm, "job_metrics")  # only the final one: see hanging.py
    assert pilot.wait() == 65
    assert "component job is stuck" in failed_with(farm, job, 1317)["pilotErrorDiag"]


def test_a_hook_that_hangs_in_a_heartbeat_ends_the_payload(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = start(farm, "job_metrics", env={"HANGING_FINAL": "no"})
    # the first heartbeat of all is made by the job component, before there is a payload
    assert pilot.wait() == 65
    failed_with(farm, job, 1317)


def test_a_hook_that_hangs_before_there_is_a_job_on_the_road(farm: Farm) -> None:
    job = farm.submit_job(inputs={"in.dat": b"data"})
    pilot = start(farm, "transfers_input")
    assert pilot.wait() == 65
    assert failed_with(farm, job, 1317)["pilotErrorDiag"]


def test_a_hook_that_hangs_before_the_request(farm: Farm) -> None:
    job = farm.submit_job()
    command = [word for word in farm.command("--pilot-user", "hanging", settings=QUICK) if word != "-t"]
    pilot = farm.start(command, env={"HANGING_HOOK": "verify_proxy"})
    assert pilot.wait() == 65
    assert farm.state(job) == "activated"


def test_a_sanity_check_that_hangs_is_ended_and_hears_signals(farm: Farm) -> None:
    job = farm.submit_job()
    pilot = start(farm, "sanity_check")
    assert pilot.wait() == 65
    assert "has not come back" in pilot.output and farm.state(job) == "activated"
    other = start(farm, "sanity_check", **{"monitor.step_time": 3600})
    other.wait_output("queue")
    other.send("SIGTERM")
    assert other.wait() == 143


@pytest.mark.parametrize(("hook", "component"), [
    ("verify_job", "job"), ("payload_environment", "payload"), ("redundant_patterns", "stage-out")])
def test_a_thread_that_dies_is_noticed(farm: Farm, hook: str, component: str) -> None:
    job = farm.submit_job("echo done")
    pilot = start(farm, dying=hook, **{"pilot.heartbeat": 1000})
    assert pilot.wait() == 70
    assert f"the thread of component {component} has died" in failed_with(farm, job, 1301)["pilotErrorDiag"]


def test_long_steps_within_their_own_limits_are_not_stuck(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), preprocess={"command": "sleep 6", "args": ""})
    pilot = start(farm, **{"monitor.step_time": 2, "monitor.call_time": 2})
    gate.reached()
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_a_stopped_and_continued_pilot_is_not_stuck(farm: Farm) -> None:
    import threading

    gate = farm.gate("validation")
    job = farm.submit_job("echo done")
    pilot = farm.start_gated(settings={"monitor.step_time": 12, "pilot.thread_check": 1, "monitor.suspension": 3})
    gate.reached()
    pilot.send("SIGSTOP")
    threading.Event().wait(13)
    pilot.send("SIGCONT")
    pilot.wait_output("the pilot has stood still for")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_the_pilots_own_usage_is_a_debug_line(farm: Farm) -> None:
    gate = farm.gate("payload")
    farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={"pilot.thread_check": 1, "pilot.cpu_check": 1, "pilot.pilot_heartbeat": 1})
    gate.reached()
    pilot.wait_output("the pilot itself: CPU time")
    gate.open()
    assert pilot.wait() == 0
    with contextlib.closing(pilot.store()):
        pass


def test_with_pipelining_the_job_behind_the_stuck_one_is_reported_too(farm: Farm) -> None:
    farm.set_queue(timefloor=3600, params={"pipelining": True})
    gate = farm.gate("second")
    job, behind = farm.submit_job("echo done"), farm.submit_job(gate.shell())
    pilot = start(farm, "redundant_patterns")  # hangs in the tail of each of them
    gate.reached()
    assert pilot.wait() == 65
    for each in (job, behind):
        failed_with(farm, each, 1317)
