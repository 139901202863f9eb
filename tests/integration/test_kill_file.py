"""The kill file of Raythena: the payload ends, what it has made is its result, and the next job lives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Dict

import pytest
from harness import Farm, Pilot

QUICK: Dict[str, object] = {
    "pilot.kill_instruction_time": 1, "pilot.disk_space_verification_time": 1, "shutdown.term_grace": 5,
}
WAITS = "trap 'echo bye >> out.dat; exit 7' TERM\necho result > out.dat\n{gate}while :; do sleep 0.1; done"


def order(pilot: Pilot) -> Path:
    path = pilot.directory / "pilot_kill_payload"
    path.touch()
    return path


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_the_payload_ends_and_the_job_is_finished(farm: Farm, dialect: str) -> None:
    farm.set_queue(timefloor=3600)
    gate, second = farm.gate("payload"), farm.gate("second")
    job = farm.submit_job(WAITS.format(gate=gate.say()), outputs=["out.dat"])
    after = farm.submit_job(second.shell())
    pilot = farm.start_pilot("--server-api", dialect, "-x", "1", settings=QUICK)
    gate.reached()
    path = order(pilot)
    second.reached()
    assert not path.exists()
    second.open()
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], int(final.get("pilotErrorCode") or 0), int(final["transExitCode"])) == ("finished", 0, 0)
    assert int(final.get("exeErrorCode") or 0) == 0 and "1363" not in json.dumps(final)
    assert (farm.outputs / "out.dat").read_text() == "result\nbye\n"
    assert farm.final(after)["state"] == "finished"
    assert farm.payload_processes() == []


def test_a_payload_that_does_not_listen_is_killed_and_finished(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"trap '' TERM\n{gate.say()}while :; do sleep 0.1; done")
    pilot = farm.start_pilot(settings={**QUICK, "shutdown.term_grace": 1})
    gate.reached()
    order(pilot)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_a_report_of_the_interrupted_payload_fails_nothing(farm: Farm) -> None:
    """Production demands a report, and one with exit code 0; of a payload that was ended nobody may demand that."""
    farm.set_queue(environ="")
    gate = farm.gate("payload")
    report = json.dumps({"exitCode": 8, "exitAcronym": "TRF_EXC", "exitMsg": "terminated", "files": {"output": []}})
    job = farm.submit_job(f"trap 'echo {json.dumps(report)} > jobReport.json; exit 143' TERM\n"
                          f"{gate.say()}while :; do sleep 0.1; done")
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    order(pilot)
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], int(final.get("exeErrorCode") or 0)) == ("finished", 0)


def test_the_turns_of_a_search_end(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(
        f"trap 'exit 1' TERM\n{gate.say()}while :; do sleep 0.1; done", isHPO=True, outputs=[],
        preprocess={"command": "true", "args": ""}, postprocess={"command": "echo x >> turns.txt; true", "args": ""})
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    order(pilot)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert pilot.log.count("payload runs, process") + pilot.log.count("payload ended with exit code") == 1


def test_a_missing_output_still_fails_the_job(farm: Farm) -> None:
    """The server fails a job whose report lacks an expected file: better with the cause."""
    gate = farm.gate("payload")
    job = farm.submit_job(f"{gate.say()}while :; do sleep 0.1; done", outputs=["out.dat"])
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    order(pilot)
    assert pilot.wait() == 0
    assert (farm.final(job)["state"], farm.final(job)["pilotErrorCode"]) == ("failed", 1165)


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "pipe"])
def test_other_things_of_that_name_end_nothing(farm: Farm, kind: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    path = pilot.directory / "pilot_kill_payload"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/hostname" if kind == "link" else "/nowhere")
    pilot.wait_output("is no regular file")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert pilot.log.count("is no regular file") == 1 and os.path.lexists(path)


def test_a_kill_by_the_server_wins(farm: Farm) -> None:
    gate, going = farm.gate("payload"), farm.gate("going")
    job = farm.submit_job(f"trap '{going.shell().replace(chr(10), ';')} exit 0' TERM\n{gate.say()}"
                          "while :; do sleep 3600 & wait; done")
    pilot = farm.start_pilot(settings={**QUICK, "shutdown.term_grace": 60, "pilot.heartbeat": 1})
    gate.reached()
    order(pilot)
    going.reached()
    farm.server.kill(job)
    pilot.wait_output("kill in stage")
    going.open()
    assert pilot.wait() == 0
    assert (farm.final(job)["state"], farm.final(job)["pilotErrorCode"]) == ("failed", 1144)
