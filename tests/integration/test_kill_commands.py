"""tobekilled in every stage, in both dialects, in every form of the answer; what comes after it."""

from __future__ import annotations

from typing import Any, Mapping

import pytest
from harness import Farm

QUICK = {"pilot.heartbeat": 1, "shutdown.term_grace": 5}


def running(params: Mapping[str, Any]) -> bool:
    """True for the parameters of a heartbeat."""
    return params.get("state", params.get("job_status")) in ("starting", "running")


def assert_killed(farm: Farm, job: int) -> None:
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1144)
    assert len(farm.final_updates(job)) == 1
    assert farm.payload_processes() == []
    assert (farm.outputs / farm.server.job(job)["definition"]["logFile"]).exists()
    farm.server.run_adder()
    assert farm.state(job) in ("cancelled", "failed")


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
@pytest.mark.parametrize("command", ["tobekilled", "debug,tobekilled", "debug, tobekilled ", "tobekilled,nocleanup"])
def test_a_kill_ends_the_payload_and_the_pilot_takes_the_next_job(farm: Farm, dialect: str, command: str) -> None:
    farm.set_queue(timefloor=3600)
    gate = farm.gate("payload")
    job, after = farm.submit_job(gate.shell(), outputs=["out.dat"]), farm.submit_job()
    farm.server.faults.add("update_job", "command", when=running, text=command)
    pilot = farm.start_pilot("--server-api", dialect, "-x", "1")
    assert pilot.wait() == 0
    assert_killed(farm, job)
    assert not (farm.outputs / "out.dat").exists()
    assert farm.final(after)["state"] == "finished"
    assert {update["_dialect"] for update in farm.server.job(job)["updates"]} == {dialect}


def test_next_job_after_a_kill(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    gate = farm.gate("payload")
    job, after = farm.submit_job(gate.shell()), farm.submit_job()
    pilot = farm.start_pilot("-x", "1", settings=QUICK)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    assert pilot.wait() == 0
    assert_killed(farm, job)
    assert farm.state(job) == "cancelled"
    assert farm.final(after)["state"] == "finished"


def test_without_timefloor_a_kill_ends_the_pilot(farm: Farm) -> None:
    gate = farm.gate("payload")
    job, after = farm.submit_job(gate.shell()), farm.submit_job()
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    assert pilot.wait() == 0
    assert_killed(farm, job)
    assert farm.state(after) == "activated"


@pytest.mark.parametrize("stage", ["copyin", "copyout", "setup"])
def test_a_kill_in_other_stages_fails_the_job(farm: Farm, stage: str) -> None:
    gate = farm.gate(stage)
    job = farm.submit_job("touch started; echo result > out.dat", inputs={"in.dat": b"data"}, outputs=["out.dat"])
    pilot = farm.start_gated(settings=QUICK)
    gate.reached()
    farm.wait_state(job, "starting", "running")
    farm.server.kill(job)
    if stage == "setup":  # a plug-in's hook cannot be broken off; the copies can
        pilot.wait_output("kill in stage")
        gate.open()
    assert pilot.wait() == 0
    assert_killed(farm, job)
    assert not (farm.outputs / "out.dat").exists()


def test_a_kill_in_validation(farm: Farm) -> None:
    gate = farm.gate("validation")
    job = farm.submit_job("touch started", inputs={"in.dat": b"data"})
    pilot = farm.start_gated(settings=QUICK)
    gate.reached()
    farm.server.kill(job)  # closed at once: it was only 'sent' so far
    pilot.wait_output("kill in stage")
    gate.open()
    assert pilot.wait() == 0
    # recorded: the report of a closed job is answered and stored nowhere
    assert farm.state(job) == "closed"
    assert [update["pilotErrorCode"] for update in farm.final_updates(job)] == [1144]


def test_a_kill_before_the_first_update(farm: Farm) -> None:
    job = farm.submit_job("exec sleep 3600")
    farm.server.faults.add("acquire_jobs", "delay", seconds=0.3, after_processing=True)
    pilot = farm.start_pilot(settings=QUICK)
    farm.wait_state(job, "sent")
    farm.server.kill(job)
    assert pilot.wait() == 0
    assert farm.state(job) == "closed"
    assert len(farm.final_updates(job)) == 1


def test_a_kill_while_the_log_leaves_keeps_the_log(farm: Farm) -> None:
    gate = farm.gate("copylog")
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_gated(settings=QUICK)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait_output("kill in stage")
    gate.open()
    assert pilot.wait() == 0
    assert_killed(farm, job)


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_a_kill_in_the_answer_to_the_final_report_is_no_instruction(farm: Farm, dialect: str) -> None:
    farm.set_queue(timefloor=3600)
    gate = farm.gate("reporting")
    job, after = farm.submit_job(), farm.submit_job()
    pilot = farm.start_gated("--server-api", dialect, "-x", "1")
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    gate.open(2)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert farm.final(after)["state"] == "finished"


def test_a_repeated_kill_is_handled_once(farm: Farm) -> None:
    gate, going = farm.gate("payload"), farm.gate("going")
    # the payload takes its time to end: more heartbeats, each answered by tobekilled
    job = farm.submit_job(f"trap '{going.shell().replace(chr(10), ';')} exit 0' TERM\n{gate.say()}\n"
                          "while :; do sleep 3600 & wait; done")
    pilot = farm.start_pilot(settings={**QUICK, "shutdown.term_grace": 60})
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    going.reached()
    before = len(farm.server.job(job)["updates"])
    farm.server.wait(lambda: len(farm.server.job(job)["updates"]) >= before + 2)
    going.open()
    assert pilot.wait() == 0
    assert pilot.log.count("kill in stage") == 1
    assert_killed(farm, job)


@pytest.mark.parametrize("command", ["softkill", "nocleanup", "debugoff", "NULL", "", "tobekilledx", "rm -rf /;ls"])
def test_other_commands_kill_nothing(farm: Farm, command: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    fault = farm.server.faults.add("update_job", "command", when=running, text=command or " ", times=None)
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    farm.server.wait(lambda: fault.hits >= 2)
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_a_kill_and_then_a_signal(farm: Farm) -> None:
    gate, going = farm.gate("payload"), farm.gate("going")
    job = farm.submit_job(f"trap '{going.shell().replace(chr(10), ';')} exit 0' TERM\n{gate.say()}\n"
                          "while :; do sleep 3600 & wait; done")
    pilot = farm.start_pilot(settings={**QUICK, "shutdown.term_grace": 60})
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    going.reached()
    pilot.send("SIGTERM")
    pilot.wait_output("received SIGTERM")
    going.open()
    assert pilot.wait() == 143
    assert_killed(farm, job)


@pytest.mark.parametrize(("dialect", "body"), [
    ("v1", '{"success": true, "message": "", "data": {"StatusCode": 0, "command": "tobekilled"}}'),
    ("v1", '{"success": true, "message": "", "data": {"StatusCode": "0", "command": "debug,tobekilled"}}'),
    ("legacy", '{"StatusCode": 0, "command": "tobekilled"}'),
    ("legacy", '{"StatusCode": "0", "command": "debug,tobekilled"}'),
])
def test_a_kill_is_found_nested_and_flat(farm: Farm, dialect: str, body: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    farm.server.faults.add("update_job", "body", when=running, text=body)
    pilot = farm.start_pilot("--server-api", dialect)
    assert pilot.wait() == 0
    assert_killed(farm, job)
