"""The server is away, slow, or talks nonsense: no job is lost, no report is lost, and nothing is run twice."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Mapping

import pytest
from harness import QUEUE, Farm
from looks import ended_well, wait_for_log

FAST = {"server.connect_timeout": 2, "server.read_timeout": 1}
"""Time-outs (s) for servers that hang."""

DIALECTS = {
    "v1": ("--server-api", "v1"),
    "legacy": ("--server-api", "legacy"),
    "form": ("--server-api", "legacy", "--set", "server.legacy_encoding=form"),
}
UNPROCESSED = ["http_500", "http_502", "http_503", "reset", "close_before_answer", "garbage", "not_utf8", "html",
               "empty", "status_10", "hang"]
"""The server has not seen the request: the job stays where it was."""
PROCESSED = ["truncate", "processed_then_reset", "processed_then_close"]
"""The server has acted, and the answer is lost."""
ODD = ["wrong_type", "strings", "delay", "drip"]
"""Answers that look odd, but are good ones."""


def in_state(*states: str) -> Any:
    """A condition for faults: the update tells one of these states."""

    def fits(params: Mapping[str, Any]) -> bool:
        return any(params.get(key) in states for key in ("state", "job_status"))

    return fits


def preplace_queue(farm: Farm, directory: Path) -> None:
    """Put the queue's description where the pilot is launched: it then needs the server for jobs only."""
    directory.mkdir(exist_ok=True)
    (directory / "queuedata.json").write_text(json.dumps(farm.server.core.queues[QUEUE]))


def pause_of(kind: str) -> float:
    return {"hang": 30.0, "delay": 0.2, "drip": 0.001}.get(kind, 0.05)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", UNPROCESSED + PROCESSED + ODD + ["status_30"])
def test_bad_answers_at_each_call_cost_nothing(farm: Farm, dialect: str, kind: str) -> None:
    faults = farm.server.faults
    marks = farm.directory / "marks"
    marks.mkdir()
    jobs = [farm.submit_job(f"mktemp {marks}/XXXXXX", log=False) for _ in range(2 if kind in PROCESSED else 1)]
    planned = [faults.add("update_job", kind, seconds=pause_of(kind), when=in_state("running")),
               faults.add("update_job", kind, times=2, seconds=pause_of(kind), when=in_state("finished"))]
    if kind != "status_30":  # which is no answer to getJob
        planned.append(faults.add("acquire_jobs", kind, seconds=pause_of(kind)))
    ended_well(farm.run_pilot(*DIALECTS[dialect], settings=FAST))
    done = [job for job in jobs if farm.server.job(job)["final"]]
    assert len(done) == 1
    assert farm.final(done[0])["state"] == "finished"
    assert len(list(marks.iterdir())) == 1, "one payload ran, once"
    farm.server.run_adder()
    assert farm.state(done[0]) == "finished"
    assert farm.server.workers_killed == 0
    for fault in planned[1:]:  # a heartbeat may be overtaken by its successor
        assert fault.hits >= 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_server_that_is_down_in_mid_job_and_at_the_end(farm: Farm, dialect: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"{gate.shell()}echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_pilot(*DIALECTS[dialect], settings={"pilot.heartbeat": 1})
    gate.reached()
    farm.server.wait(lambda: farm.state(job) == "running")
    farm.server.down()
    wait_for_log(pilot, "was not delivered")  # a heartbeat that is due
    gate.open()
    wait_for_log(pilot, "has finished")  # the final report has no server to go to
    assert pilot.process.poll() is None
    farm.server.up()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"
    farm.server.run_adder()
    assert farm.state(job) == "finished"
    assert farm.server.job(job)["finals"] == 1


def test_final_report_does_not_wait_for_the_pause_after_a_failed_heartbeat(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), log=False)
    farm.server.faults.add("update_job", "http_503", when=in_state("starting", "running"))
    pilot = farm.start_pilot(settings={"server.retry_base": 3000, "server.retry_max": 3000})
    gate.reached()
    wait_for_log(pilot, "was not delivered")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"


def test_server_that_is_down_when_the_pilot_starts_is_waited_for(farm: Farm) -> None:
    job = farm.submit_job()
    farm.server.down()
    pilot = farm.start_pilot("-v", "1", "-x", "1")
    wait_for_log(pilot, "round 2: PANDA: ")
    farm.server.up()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"


def test_server_that_goes_down_before_the_first_answer_uses_up_neither_requests_nor_failures(farm: Farm) -> None:
    job = farm.submit_job()
    preplace_queue(farm, directory := farm.directory / "here")
    farm.server.down()
    pilot = farm.start_pilot("-v", "1", "-x", "1", directory=directory)
    wait_for_log(pilot, "getJob: ", times=4)
    farm.server.up()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"
    assert pilot.log.count("next attempt to get a job") == 0


@pytest.mark.parametrize("preplaced", [True, False])
def test_patience_with_a_server_that_stays_away_ends_with_its_own_exit_code(farm: Farm, preplaced: bool) -> None:
    directory = farm.directory / "here"
    directory.mkdir()
    if preplaced:
        preplace_queue(farm, directory)
    farm.server.down()
    pilot = farm.run_pilot("-x", "1", directory=directory, settings={"server.start_patience": 1})
    ended_well(pilot, 79 if preplaced else 71)  # 1318 communication failure, 1116 no queue data
    lines = [line for line in pilot.output.splitlines() if line.startswith("pilot.py:")]
    if not preplaced:
        assert len(lines) == 1
        assert "connection refused" in lines[0]


@pytest.mark.parametrize("preplaced", [True, False])
def test_signal_ends_the_wait_for_a_server_at_once(farm: Farm, preplaced: bool) -> None:
    directory = farm.directory / "here"
    directory.mkdir()
    if preplaced:
        preplace_queue(farm, directory)
    farm.server.down()
    long = {"server.retry_base": 1000, "server.retry_max": 1000, "server.start_patience": 4000}
    pilot = farm.start_pilot(directory=directory, settings=long)
    wait_for_log(pilot, "getJob: " if preplaced else "round 1: ")
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    ended_well(pilot, 143)


def test_queue_data_with_bad_days_are_asked_for_again(farm: Farm) -> None:
    job = farm.submit_job()
    for kind in ("http_500", "reset", "http_503", "truncate", "close_before_answer"):
        farm.server.faults.add("queuedata", kind)
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert farm.server.faults.hits == 5


def test_unknown_queue_is_no_reason_to_wait(farm: Farm) -> None:
    pilot = farm.run_pilot("-q", "NO_SUCH_QUEUE")
    ended_well(pilot, 71)
    assert "NO_SUCH_QUEUE" in pilot.output
    assert "round 1" not in pilot.log


def test_no_job_ends_the_pilot_well_after_the_allowed_requests(farm: Farm) -> None:
    pilot = ended_well(farm.run_pilot("-v", "3"))
    assert sum(request.operation == "acquire_jobs" for request in farm.server.requests) == 3
    assert "reached maximum number of getjob requests: 3" in pilot.log


@pytest.mark.parametrize(("kind", "code", "word"), [("status_60", 1177, "role"), ("status_10", 0, "getjob")])
def test_answers_without_a_job(farm: Farm, kind: str, code: int, word: str) -> None:
    farm.submit_job()
    farm.server.faults.add("acquire_jobs", kind, times=None)
    pilot = farm.run_pilot("--server-api", "v1")
    assert word in pilot.log
    assert "Traceback" not in pilot.output
    assert (pilot.process.returncode != 0) is bool(code), pilot.output[-3000:]


def test_request_that_the_server_calls_wrong_is_not_blamed_on_the_proxy(farm: Farm) -> None:
    farm.submit_job()
    text = '{"success": false, "message": "Type error: \'memory\' must be of type int, got str.", "data": null}'
    farm.server.faults.add("acquire_jobs", "body", times=None, text=text)
    pilot = ended_well(farm.run_pilot("--server-api", "v1"), 79)
    assert "must be of type int" in pilot.output and "proxy" not in pilot.output.splitlines()[-1]


def test_closed_job_in_debug_mode_gets_no_more_heartbeats(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), log=False)
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1, "pilot.debug_heartbeat": 1})
    gate.reached()
    assert farm.server.debug(job, True)
    pilot.wait_output("debug mode on")
    farm.server.faults.add("update_job", "command", text="alreadydone")
    pilot.wait_output("no more heartbeats")
    before = len(farm.server.job(job)["updates"])
    time.sleep(3)  # three periods, in which nothing may come but what was on its way when the answer arrived
    gate.open()
    pilot.wait()
    ended_well(pilot)
    states = [update["state"] for update in farm.server.job(job)["updates"][before:]]
    assert "debug mode off" not in pilot.log and states in (["finished"], ["running", "finished"])


def test_server_that_has_one_dialect_only(farm: Farm) -> None:
    assert farm.server.server.options.v1
    farm.server.server.options = farm.server.server.options.__class__(False, True, *list(
        vars(farm.server.server.options).values())[2:])
    job = farm.submit_job()
    pilot = ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert "speaks the legacy API" in pilot.log


def test_report_that_the_server_calls_invalid_is_kept_and_not_repeated(farm: Farm) -> None:
    job = farm.submit_job(log=False)
    fault = farm.server.faults.add("update_job", "status_50", times=None, when=in_state("finished"))
    pilot = ended_well(farm.run_pilot(), 79)
    assert fault.hits == 1
    assert farm.server.job(job)["final"] is None
    assert "--recover" in pilot.log


def test_report_without_acknowledgement_stays_in_the_store_after_the_patience(farm: Farm) -> None:
    job = farm.submit_job(log=False)
    farm.server.faults.add("update_job", "http_500", times=None, when=in_state("finished"))
    pilot = ended_well(farm.run_pilot(settings={"server.final_patience": 1}), 79)
    assert farm.server.job(job)["final"] is None
    farm.server.faults.clear()
    recovered = farm.recover(pilot.directory)
    assert recovered.process.returncode == 0, recovered.output
    assert farm.final(job)["state"] == "finished"


def test_second_refusal_sends_the_report_without_its_optional_fields(farm: Farm) -> None:
    job = farm.submit_job("""echo '{"a": 1}' > jobReport.json""", log=False)
    farm.server.faults.add("update_job", "status_30", times=None,
                           when=lambda p: "finished" in (p.get("state"), p.get("job_status"))
                           and bool(p.get("metaData") or p.get("meta_data")))
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert not farm.final(job)["metaData"]
