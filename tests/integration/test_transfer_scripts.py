"""Transfers by a script of their own (container_type ``bash:middleware``): real pilots, real processes."""

from __future__ import annotations

import json
import os
import select
from typing import Any

import pytest
from harness import PATIENCE, Farm, Pilot
from looks import archive, ended_well

SCRIPTS = {"container_type": "bash:middleware"}
TOOLS = {"stubborn": "stubborn:StubbornTool", "crashing": "stubborn:CrashingTool"}


def run_with(farm: Farm, tool: str, **how: Any) -> Pilot:
    farm.set_queue(**SCRIPTS, copytools={tool: {"copy_in": "cp", "copy_out": "cp"}}, acopytools={"default": [tool]})
    return farm.start_pilot(settings={"plugins.copytools": TOOLS}, **how)


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def attempts(pilot: Pilot, job: int) -> list[tuple[Any, ...]]:
    store = pilot.store()
    try:
        return [(row["direction"], row["lfn"], row["tool"], row["status"], row["code"]) for row in
                store.transfers(str(job))]
    finally:
        store.close()


def test_inputs_outputs_and_log_are_moved_by_the_scripts(farm: Farm) -> None:
    farm.set_queue(**SCRIPTS)
    job = farm.submit_job("cat 'a b.txt' b.txt > out.txt; test ! -e pilot-source.zip && test ! -e pilot",
                          inputs={"a b.txt": b"one", "b.txt": b"two"}, outputs=["out.txt"])
    pilot = ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert (farm.outputs / "out.txt").read_bytes() == b"onetwo"
    log = log_of(farm, job)
    inputs = f"file://localhost{farm.inputs}"
    assert json.loads(log["stagein_status.json"]) == {
        "a b.txt": ["transferred", 0, f"{inputs}/a b.txt", ""], "b.txt": ["transferred", 0, f"{inputs}/b.txt", ""],
        "error": ["", 0, None, None]}
    assert {"stagein.py", "stageout.py", "stagein_replicas.json", "stagein_stdout.txt", "stagein_stderr.txt",
            "stageout_stdout.txt", "stageout_stderr.txt", "stageinlog.txt", "stageoutlog.txt", "stageout_status.json",
            "PoolFileCatalog.xml"} <= log.keys()
    assert b"stage-in of a b.txt: 3 B" in log["stageinlog.txt"]
    assert b"stage-in of a b.txt: 3 B" not in log["pilotlog.txt"], "another process has moved it"
    logfile = farm.server.job(job)["definition"]["logFile"]
    assert sorted(attempts(pilot, job)) == sorted([
        ("stage-in", "a b.txt", "mv", "DONE", 0), ("stage-in", "b.txt", "mv", "DONE", 0),
        ("stage-out", "out.txt", "mv", "DONE", 0), ("log", logfile, "mv", "DONE", 0)])
    assert farm.server.run_adder() == [job]


def test_a_missing_input_has_the_same_error_as_without_a_script(farm: Farm) -> None:
    definition = {"inFiles": "gone.txt", "GUID": "A", "fsize": "1", "checksum": "ad:00010001", "scopeIn": "test",
                  "realDatasetsIn": "ds"}
    plain = farm.submit_job("echo it ran", **definition)
    ended_well(farm.run_pilot())
    farm.set_queue(**SCRIPTS)
    scripted = farm.submit_job("echo it ran", **definition)
    pilot = ended_well(farm.run_pilot())
    one, other = farm.final(plain), farm.final(scripted)
    assert (other["state"], int(other["pilotErrorCode"])) == ("failed", 1331)
    head = "Input file is missing in storage element: input gone.txt not found, looked for "
    for final in (one, other):
        assert final["pilotErrorDiag"].startswith(head) and "copytools=['mv']" in final["pilotErrorDiag"]
    status = json.loads(log_of(farm, scripted)["stagein_status.json"])
    assert status["gone.txt"][:2] == ["failed", 1331]
    assert status["error"][1] == 1331 and "gone.txt not found" in status["error"][0]
    assert ("stage-in", "gone.txt", "mv", "MISSING_INPUT", 1331) in attempts(pilot, scripted)


def test_an_output_that_cannot_be_stored_fails_the_job_and_the_log_still_leaves(farm: Farm) -> None:
    farm.set_queue(**SCRIPTS)
    job = farm.submit_job("echo new > out.txt", outputs=["out.txt"])
    (farm.outputs / "out.txt").mkdir()
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1221), final["pilotErrorDiag"]
    assert str(farm.outputs / "out.txt") in final["pilotErrorDiag"]
    assert json.loads(log_of(farm, job)["stageout_status.json"])["out.txt"][:2] == ["failed", 1221]


def test_a_script_that_crashes_tells_its_last_words(farm: Farm) -> None:
    job = farm.submit_job("echo it ran", inputs={"a.txt": b"one"})
    ended_well(run_with_end(farm, "crashing"))
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1099)
    log = log_of(farm, job)
    error, code, *_ = json.loads(log["stagein_status.json"])["error"]
    assert "ended with exit code 7 and left no result" in error and code == 1099
    assert "libworse: assertion 'never' failed" in error and "stagein.py" in final["pilotErrorDiag"]
    assert b"libworse" in log["stagein_stderr.txt"]


def test_a_stage_out_script_that_crashes_is_a_failed_stage_out(farm: Farm) -> None:
    job = farm.submit_job("echo new > out.txt", outputs=["out.txt"])
    ended_well(run_with_end(farm, "crashing"))
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1137)
    assert "signal 11" in final["pilotErrorDiag"]


def run_with_end(farm: Farm, tool: str) -> Pilot:
    pilot = run_with(farm, tool)
    pilot.wait()
    return pilot


def test_a_signal_in_the_stage_in_ends_the_script_in_good_order(farm: Farm) -> None:
    gate = farm.gate("copyin")
    job = farm.submit_job("echo it ran", inputs={"a.txt": b"one"})
    pilot = start_gated_scripts(farm)
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert (farm.final(job)["state"], farm.final(job)["pilotErrorCode"]) == ("failed", 1201)
    assert ("stage-in", "a.txt", "gated", "STAGEIN_ATTEMPT_FAILED", 1200) in attempts(pilot, job), "in good order"
    assert b"broken off by the pilot" in log_of(farm, job)["stageinlog.txt"]
    assert farm.processes() == []


def test_a_signal_in_the_stage_out_lets_the_script_finish(farm: Farm) -> None:
    gate = farm.gate("copyout")
    job = farm.submit_job("echo result > out.txt", outputs=["out.txt"])
    pilot = start_gated_scripts(farm)
    gate.reached()
    pilot.send("SIGTERM")
    pilot.wait_output("what is done may still leave")
    gate.open()
    assert pilot.wait() == 143
    assert farm.final(job)["state"] == "finished"
    assert (farm.outputs / "out.txt").read_bytes() == b"result\n"


def start_gated_scripts(farm: Farm) -> Pilot:
    farm.queue.update(SCRIPTS)
    return farm.start_gated()


def test_a_script_that_hears_nothing_is_killed_with_its_children_and_its_half_file(farm: Farm) -> None:
    gate = farm.gate("stubborn")
    job = farm.submit_job("echo it ran", inputs={"a.txt": b"one"})
    pilot = run_with(farm, "stubborn")
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert (farm.final(job)["state"], farm.final(job)["pilotErrorCode"]) == ("failed", 1201)
    assert "a.txt.part" not in log_of(farm, job)
    assert farm.processes() == []


def test_the_death_of_the_pilot_ends_the_script(farm: Farm) -> None:
    gate = farm.gate("copyin")
    farm.submit_job("echo it ran", inputs={"a.txt": b"one"})
    pilot = start_gated_scripts(farm)
    script = int(gate.reached())
    handle = os.pidfd_open(script)
    try:
        pilot.kill()
        assert select.select([handle], [], [], PATIENCE)[0] == [handle]
    finally:
        os.close(handle)


@pytest.mark.parametrize("mode", ["docker", "none"])
def test_an_unknown_mode_leaves_the_transfers_in_the_pilot(farm: Farm, mode: str) -> None:
    farm.set_queue(container_type=f"{mode}:middleware")
    job = farm.submit_job("cat a.txt", inputs={"a.txt": b"one"})
    pilot = ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert f"container_type {mode}:middleware is not known" in pilot.log
