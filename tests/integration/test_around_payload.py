"""What runs around a payload: pre-, co- and postprocess, turns, memory monitor, caches; killed at any moment."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Optional

import pytest
from harness import PATIENCE, Farm, Pilot
from looks import archive, ended_well, wait_for_log

QUICK = {"pilot.heartbeat": 1, "shutdown.term_grace": 1}
STUBBORN = "trap '' TERM INT HUP USR1; (trap '' TERM; sleep 1000) & "
"""A shell that only SIGKILL ends, with a child of the same kind."""


def step(farm: Farm, text: str, args: str = "") -> dict[str, str]:
    """A pre-, co- or postprocess that is this script."""
    return {"command": str(farm.script(text)), "args": args}


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def run_utilized(farm: Farm, utilities: Optional[dict[str, Any]] = None, *, start: bool = False,
                 env: Optional[dict[str, str]] = None, **settings: object) -> Pilot:
    """A pilot of the experiment of utilized.py."""
    path = farm.directory / "utilities.json"
    path.write_text(json.dumps(utilities or {}))
    how: dict[str, Any] = {
        "settings": {"plugins.experiments": {"utilized": "utilized:UtilizedExperiment"}, **QUICK, **settings},
        "env": {"PILOT_TEST_UTILITIES": str(path), **(env or {})}}
    launch = farm.start_pilot if start else farm.run_pilot
    return launch("--pilot-user", "utilized", **how)


# --- before, beside, after --------------------------------------------------------------------------------------------


def test_sequence_with_setup_arguments_and_outputs(farm: Farm) -> None:
    trace = farm.directory / "trace"
    gate = farm.gate("coprocess")
    job = farm.submit_job(
        f'echo "payload $1" >> {trace}; read _ < {gate.arrival}; echo data > out.dat', outputs=["out.dat"],
        jobPars="arg",
        preprocess=step(farm, f'echo "pre $SETUP $1" >> {trace}; echo words; echo more >&2; touch preprocess_x', "one"),
        coprocess=step(farm, f"{gate.say()} sleep 1000"),
        postprocess=step(farm, f'echo "post $SETUP" >> {trace}; ls out.dat'))
    ended_well(run_utilized(farm))
    final = farm.final(job)
    assert final["state"] == "finished", final
    assert trace.read_text() == "pre done one\npayload arg\npost done\n"
    members = log_of(farm, job)
    assert members["preprocess_stdout.txt"] == b"words\n" and members["preprocess_stderr.txt"] == b"more\n"
    assert members["postprocess_stdout.txt"] == b"out.dat\n" and "coprocess_stdout.txt" in members
    assert farm.payload_processes() == []


def test_time_around_the_payload_counts_as_payload(farm: Farm) -> None:
    wait = "read -t 1.1 _ <> <(:); true"
    job = farm.submit_job(wait, preprocess=step(farm, wait), postprocess=step(farm, wait))
    ended_well(farm.run_pilot())
    getjob, stagein, payload, stageout, setup = (int(part) for part in farm.final(job)["pilotTiming"].split("|"))
    assert payload >= 3 and stagein == 0


def test_several_stubborn_companions_of_a_killed_job(farm: Farm) -> None:
    gate = farm.gate("beside")
    hang = {"line": f"{STUBBORN}{gate.say()}while :; do sleep 1000; done", "patience": 1000}
    job = farm.submit_job(f"{STUBBORN}while :; do sleep 1000; done")
    pilot = run_utilized(farm, {"WITH_PAYLOAD": [{**hang, "label": f"beside{n}"} for n in range(4)]}, start=True)
    for _ in range(4):
        gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait()
    ended_well(pilot)
    assert int(farm.final(job)["pilotErrorCode"]) == 1144 and farm.payload_processes() == []


@pytest.mark.parametrize(("code", "said"), [(3, 1356), (255, 1356), (137, 1356)])
def test_preprocess_that_fails(farm: Farm, code: int, said: int) -> None:
    ran = farm.directory / "ran"
    job = farm.submit_job(f"touch {ran}", outputs=["out.dat"], postprocess=step(farm, f"touch {ran}"),
                          preprocess=step(farm, f"echo 'fatal: no configuration' >&2; exit {code}"))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) == said
    assert "no configuration" in final["pilotErrorDiag"] and str(code) in final["pilotErrorDiag"]
    assert int(final["transExitCode"]) == code
    assert not ran.exists()


def test_error_report_of_a_failed_preprocess(farm: Farm) -> None:
    report = json.dumps({"error_code": 5303, "error_diag": "the tarball cannot be had"})
    job = farm.submit_job("true", preprocess=step(farm, f"echo '{report}' > payload_error_report.json; exit 3"))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1356 and "the tarball cannot be had" in final["pilotErrorDiag"]
    assert int(final["exeErrorCode"]) == 5303 and final["exeErrorDiag"] == "the tarball cannot be had"


def test_error_report_of_a_good_preprocess_is_no_failure(farm: Farm) -> None:
    report = json.dumps({"error_code": 5301, "error_diag": "stale"})
    job = farm.submit_job("true", preprocess=step(farm, f"echo '{report}' > payload_error_report.json"))
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"


def test_postprocess_that_fails(farm: Farm) -> None:
    job = farm.submit_job("echo data > out.dat", outputs=["out.dat"],
                          postprocess=step(farm, "echo 'error: cannot merge' >&2; exit 9"))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) == 1357
    assert "cannot merge" in final["pilotErrorDiag"] and int(final["transExitCode"]) == 9
    assert not (farm.outputs / "out.dat").exists()


@pytest.mark.parametrize("code", [160, 161, 162])
def test_postprocess_codes_that_are_no_failure(farm: Farm, code: int) -> None:
    job = farm.submit_job("true", postprocess=step(farm, f"exit {code}"))
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"


def test_postprocess_only_after_success(farm: Farm) -> None:
    ran = farm.directory / "ran"
    job = farm.submit_job("exit 4", postprocess=step(farm, f"touch {ran}"))
    ended_well(farm.run_pilot())
    assert int(farm.final(job)["pilotErrorCode"]) == 1305
    assert not ran.exists()


def test_preprocess_makes_the_containers_script_executable(farm: Farm) -> None:
    job = farm.submit_job("./__run_main_exec.sh", containerOptions={"containerExec": "__run_main_exec.sh"},
                          preprocess=step(farm, "printf '#!/bin/sh\\necho inner' > __run_main_exec.sh"))
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished", farm.final(job)
    assert log_of(farm, job)["payload.stdout"] == b"inner\n"


def test_mode_of_a_file_outside_is_left_alone(farm: Farm) -> None:
    victim = farm.directory / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    for name in ("link", "../../victim"):
        job = farm.submit_job("true", containerOptions={"containerExec": name},
                              preprocess=step(farm, f"ln -s {victim} link"))
        ended_well(farm.run_pilot())
        assert farm.final(job)["state"] == "finished"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def test_step_that_is_not_there_or_not_allowed(farm: Farm) -> None:
    job = farm.submit_job("true", preprocess={"command": "https://evil.example.org/trf/x", "args": ""})
    ended_well(farm.run_pilot())
    assert int(farm.final(job)["pilotErrorCode"]) == 1149


def test_names_of_outputs_that_exist(farm: Farm) -> None:
    job = farm.submit_job("true", inputs={"preprocess_stdout.txt": b"an input\n"},
                          preprocess=step(farm, "echo words; echo more >&2"))
    ended_well(farm.run_pilot())
    members = log_of(farm, job)
    assert members["preprocess_stdout.txt-1"] == b"words\n"
    assert members["preprocess_stderr.txt"] == b"more\n"


def test_utilities_may_change_the_parameters(farm: Farm) -> None:
    job = farm.submit_job('echo "got $*"', jobPars="-i old", preprocess=step(farm, "echo 'parameters -i new'"))
    ended_well(run_utilized(farm))
    assert log_of(farm, job)["payload.stdout"] == b"got -i new\n"


# --- killed in each stage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["preprocess", "payload", "coprocess", "postprocess"])
@pytest.mark.parametrize("manners", ["", STUBBORN], ids=["polite", "stubborn"])
def test_killed_by_the_server(farm: Farm, stage: str, manners: str) -> None:
    gate = farm.gate("stage")
    hang = f"{manners}{gate.shell()}while :; do sleep 1000; done"
    ran = farm.directory / "ran"
    steps: dict[str, Any] = {} if stage == "payload" else {stage: step(farm, hang)}
    if stage != "postprocess":
        steps["postprocess"] = step(farm, f"touch {ran}")
    payload = hang if stage == "payload" else "sleep 1000" if stage == "coprocess" else f"touch {ran}.payload"
    job = farm.submit_job(payload, **steps)
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait()
    ended_well(pilot)
    assert int(farm.final(job)["pilotErrorCode"]) == 1144
    assert farm.payload_processes() == [] and not ran.exists()
    assert (farm.directory / "ran.payload").exists() == (stage == "postprocess")


def test_sigterm_during_the_preprocess(farm: Farm) -> None:
    gate = farm.gate("stage")
    job = farm.submit_job("true", preprocess=step(farm, gate.shell()))
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert int(farm.final(job)["pilotErrorCode"]) == 1201 and farm.payload_processes() == []


# --- hyper-parameters -------------------------------------------------------------------------------------------------


def loop(farm: Farm, turns: int, code: int, report: int = 0) -> dict[str, str]:
    """A preprocess that lets ``turns`` payloads run."""
    said = f"echo '{json.dumps({'error_code': report, 'error_diag': 'no more'})}' > payload_error_report.json; "
    return step(farm, f"echo turn; [ $PILOT_EXEC_ITERATION_COUNT -lt {turns} ] || {{ {said if report else ''}"
                      f"exit {code}; }}")


@pytest.mark.parametrize(("code", "report", "reported"), [
    (160, 0, 0), (161, 0, 161), (162, 0, 162), (12, 5512, 0), (14, 5514, 162), (160, 5512, 0)])
def test_loop_ends_when_there_are_no_more_points(farm: Farm, code: int, report: int, reported: int) -> None:
    job = farm.submit_job('n=$PILOT_EXEC_ITERATION_COUNT; echo "point $n"; echo $n > out.dat_$n',
                          outputs=["out.dat", "other.dat"], isHPO="True", preprocess=loop(farm, 3, code, report),
                          postprocess=step(farm, "echo after"))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 0 and int(final["transExitCode"]) == reported, final
    assert sorted(path.name for path in farm.outputs.iterdir() if path.name.startswith("o")) == [
        "out.dat_0", "out.dat_1", "out.dat_2"]
    members = log_of(farm, job)
    assert members["payload.stdout"] == b"point 0\npoint 1\npoint 2\n"
    assert members["preprocess_stdout.txt-3"] == b"turn\n" and "postprocess_stdout.txt-2" in members


@pytest.mark.parametrize(("code", "report"), [(12, 0), (14, 0), (12, 5514), (13, 5513), (1, 0)])
def test_loop_that_fails_in_the_preprocess(farm: Farm, code: int, report: int) -> None:
    job = farm.submit_job("true", isHPO="True", preprocess=loop(farm, 1, code, report))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1356 and int(final["transExitCode"]) == code


def test_loop_without_any_point(farm: Farm) -> None:
    ran = farm.directory / "ran"
    job = farm.submit_job(f"touch {ran}", outputs=["out.dat"], isHPO="True", preprocess=loop(farm, 0, 160))
    ended_well(farm.run_pilot())
    assert int(farm.final(job)["pilotErrorCode"]) == 0 and not ran.exists()


def test_payload_failure_ends_the_loop(farm: Farm) -> None:
    job = farm.submit_job("exit $((PILOT_EXEC_ITERATION_COUNT * 7))", isHPO="True", preprocess=loop(farm, 9, 160))
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1305 and int(final["transExitCode"]) == 7
    assert "preprocess_stdout.txt-2" not in log_of(farm, job)


def test_reports_of_an_earlier_turn_are_removed(farm: Farm) -> None:
    job = farm.submit_job(
        "ls jobReport.json; [ $PILOT_EXEC_ITERATION_COUNT = 1 ] || echo '{\"exitCode\": 0}' > jobReport.json",
        isHPO="True", preprocess=loop(farm, 2, 161))
    ended_well(farm.run_pilot())
    members = log_of(farm, job)
    assert "jobReport.json" not in members and members["payload.stdout"] == b""


def test_hpo_without_a_preprocess_has_one_turn(farm: Farm) -> None:
    job = farm.submit_job("echo once; echo x > out.dat", outputs=["out.dat"], isHPO="True")
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished" and log_of(farm, job)["payload.stdout"] == b"once\n"


@pytest.mark.parametrize("code", [0, 6])
def test_horovod_has_no_payload_and_one_turn(farm: Farm, code: int) -> None:
    trace = farm.directory / "trace"
    job = farm.submit_job(f"echo payload >> {trace}", isHPO="True", preprocess=loop(farm, 9, 160),
                          coprocess=step(farm, f"echo co >> {trace}; exit {code}"),
                          postprocess=step(farm, f"echo post >> {trace}"))
    ended_well(farm.run_pilot(env={"HARVESTER_HOROVOD": "1"}))
    final = farm.final(job)
    assert final["state"] == ("failed" if code else "finished") and int(final["transExitCode"]) == code
    assert trace.read_text() == ("co\n" if code else "co\npost\n")


# --- utilities of the experiment --------------------------------------------------------------------------------------


def cache(farm: Farm) -> dict[str, Any]:
    """A stand-in for Xcache: a daemon, found and ended by its pid."""
    start = ("setsid sleep 1000 > /dev/null 2>&1 & echo \"export ALRB_XCACHE_PROXY=\\\"root://localhost:1094//\\\"\";"
             "echo \"export CACHE_PID=\\\"$!\\\"\"")
    return {
        "BEFORE_STAGEIN": [{"label": "xcache_start", "line": start, "daemon": True}],
        "AFTER_PAYLOAD_FINISHED": [{"label": "xcache_kill", "timeout": 30,
                                    "line": f"kill $CACHE_PID && echo $CACHE_PID > {farm.directory}/killed"}],
    }


def test_cache_from_before_the_stagein_until_after_the_payload(farm: Farm) -> None:
    job = farm.submit_job("kill -0 $CACHE_PID && echo $ALRB_XCACHE_PROXY", inputs={"in.dat": b"x"})
    ended_well(run_utilized(farm, cache(farm)))
    assert farm.final(job)["state"] == "finished"
    members = log_of(farm, job)
    assert members["payload.stdout"] == b"root://localhost:1094//\n" and "xcache_start_stdout.txt" in members
    assert (farm.directory / "killed").exists() and farm.payload_processes() == []


def test_cache_is_ended_when_the_stagein_fails(farm: Farm) -> None:
    job = farm.submit_job("true", inputs={"in.dat": b"x"})
    (farm.inputs / "in.dat").unlink()
    run_utilized(farm, cache(farm))
    assert farm.final(job)["state"] == "failed"
    assert farm.payload_processes() == [] and (farm.directory / "killed").exists()


def test_cache_is_ended_when_the_job_is_killed(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), inputs={"in.dat": b"x"})
    pilot = run_utilized(farm, cache(farm), start=True)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait()
    assert int(farm.final(job)["pilotErrorCode"]) == 1144 and farm.payload_processes() == []


def test_killed_while_a_utility_before_the_stagein_hangs(farm: Farm) -> None:
    gate = farm.gate("utility")
    job = farm.submit_job("true", inputs={"in.dat": b"x"})
    hang = {"label": "xcache_start", "line": f"{STUBBORN}{gate.shell()}while :; do sleep 1000; done", "daemon": True}
    pilot = run_utilized(farm, {"BEFORE_STAGEIN": [hang]}, start=True)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait()
    assert int(farm.final(job)["pilotErrorCode"]) == 1144 and farm.payload_processes() == []


@pytest.mark.parametrize("moment", ["BEFORE_PAYLOAD", "AFTER_PAYLOAD_FINISHED2", "AFTER_PAYLOAD_FINISHED"])
def test_killed_while_a_utility_without_a_limit_hangs(farm: Farm, moment: str) -> None:
    gate = farm.gate("utility")
    job = farm.submit_job("echo data > out.dat", outputs=["out.dat"])
    hang = {"label": "slow", "line": f"{STUBBORN}{gate.shell()}while :; do sleep 1000; done"}
    pilot = run_utilized(farm, {moment: [hang]}, start=True)
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.kill(job)
    pilot.wait()
    ended_well(pilot)
    assert int(farm.final(job)["pilotErrorCode"]) == 1144 and farm.payload_processes() == []
    assert not (farm.outputs / "out.dat").exists()


@pytest.mark.parametrize("moment", ["BEFORE_STAGEIN", "BEFORE_PAYLOAD", "AFTER_PAYLOAD_FINISHED",
                                    "AFTER_PAYLOAD_FINISHED2"])
def test_hanging_utility_with_a_time_limit(farm: Farm, moment: str) -> None:
    hang = {"label": "slow", "line": f"{STUBBORN}while :; do sleep 1000; done", "timeout": 0.5}
    job = farm.submit_job("true", inputs={"in.dat": b"x"})
    pilot = ended_well(run_utilized(farm, {moment: [hang]}))
    assert farm.final(job)["state"] == "finished" and farm.payload_processes() == []
    assert "slow was ended after" in pilot.log


def test_utility_that_must_not_fail(farm: Farm) -> None:
    bad = {"label": "check", "line": "echo 'error: no licence' >&2; exit 2", "error_code": 1110}
    job = farm.submit_job("true")
    ended_well(run_utilized(farm, {"BEFORE_PAYLOAD": [bad]}))
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1110 and "no licence" in final["pilotErrorDiag"]


@pytest.mark.parametrize("line", ["exit 5", f"{STUBBORN}while :; do sleep 1000; done", "setsid sleep 1000 & exit 0",
                                  "exec /no/such/program", "kill -SEGV $$"])
def test_utilities_beside_never_touch_the_payload(farm: Farm, line: str) -> None:
    gate = farm.gate("started")
    beside = {"label": "beside", "line": f"{gate.say()}{line}", "patience": 0.5}
    job = farm.submit_job(f"read _ < {gate.arrival}; echo done")
    ended_well(run_utilized(farm, {"WITH_PAYLOAD": [beside]}))
    assert farm.final(job)["state"] == "finished" and farm.payload_processes() == []


# --- memory -----------------------------------------------------------------------------------------------------------

PRMON = Path(__file__).resolve().parents[1] / "standins" / "prmon"


def with_prmon(farm: Farm, text: str = "") -> dict[str, str]:
    """A PATH with the stand-in for prmon, or with a script of this text under that name."""
    directory = farm.directory / "bin"
    directory.mkdir()
    program = directory / "prmon"
    if text:
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    else:
        program.symlink_to(PRMON)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


MEMORY_LINE = "cd $PWD;prmon --pid {pid} --filename memory_monitor_output.txt --json-summary " \
              "memory_monitor_summary.json --interval 60"


def test_prmon_beside_the_payload(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("until [ -s memory_monitor_summary.json_snapshot ]; do read -t 0.1 _ <> <(:); done\n"
                          + gate.shell())
    pilot = farm.start_pilot(settings=QUICK, env=with_prmon(farm))
    gate.reached()
    farm.server.wait(lambda: any("maxPSS" in update for update in farm.server.job(job)["updates"]), PATIENCE)
    gate.open()
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    # the stand-in says fixed numbers
    assert {name: int(final[name]) for name in ("maxRSS", "maxVMEM", "maxSWAP", "maxPSS")} == {
        "maxRSS": 3000, "maxVMEM": 9000, "maxSWAP": 12, "maxPSS": 2500}
    assert int(final["avgPSS"]) == 1700 and int(final["totRCHAR"]) == 4096000 and int(final["rateWBYTES"]) == 700
    members = log_of(farm, job)
    # the signal, unless it has seen by itself that the payload is gone
    assert members["memorymonitor_stdout.txt"].strip() in (b"SIGUSR1", b"process gone")
    assert farm.payload_processes() == []
    summary = json.loads(members["memory_monitor_summary.json"])
    assert summary["Max"]["pss"] == 2500


def test_prmon_that_is_killed_is_started_again(farm: Farm) -> None:
    pids = farm.gate("prmon")
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    env = {**with_prmon(farm), "PRMON_GATE": str(pids.arrival)}
    pilot = farm.start_pilot(settings=QUICK, env=env)
    for _ in range(6):
        os.kill(int(pids.reached()), 9)
    wait_for_log(pilot, "has died 6 times")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert final["state"] == "finished" and int(final["maxPSS"]) == 2500
    assert farm.payload_processes() == []


@pytest.mark.parametrize("text", ["exit 127", "trap '' USR1 TERM; while :; do sleep 1000; done", "kill -9 $$"])
def test_prmon_that_does_not_work(farm: Farm, text: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("for i in 1 2 3 4 5 6 7 8; do [ -s memory_monitor_output.txt ] || sleep 0.5; done\n"
                          + gate.shell())
    pilot = farm.start_pilot(settings={**QUICK, "pilot.debug_heartbeat": 1}, env=with_prmon(farm, text))
    gate.reached()
    farm.server.wait(lambda: any("maxRSS" in update for update in farm.server.job(job)["updates"]), PATIENCE)
    farm.server.kill(job)
    pilot.wait()
    ended_well(pilot)
    assert int(farm.final(job)["pilotErrorCode"]) == 1144 and int(farm.final(job)["maxRSS"]) > 0
    assert farm.payload_processes() == []


def test_memory_without_any_monitor(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("until [ -s memory_monitor_output.txt ]; do read -t 0.1 _ <> <(:); done\n" + gate.shell())
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    farm.server.wait(lambda: any("maxRSS" in update for update in farm.server.job(job)["updates"]), PATIENCE)
    gate.open()
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert 100 < int(final["maxPSS"]) <= int(final["maxRSS"]) < int(final["maxVMEM"])
    members = log_of(farm, job)
    assert members["memory_monitor_output.txt"].startswith(b"Time\t")
    assert json.loads(members["memory_monitor_summary.json"])["Max"]["rss"] == int(final["maxRSS"])


def test_files_of_the_pilot_are_no_outputs(farm: Farm) -> None:
    job = farm.submit_job("until [ -s memory_monitor_output.txt ]; do sleep 0.1; done\n"
                          "echo x > mine.txt; echo {} > mine.json",
                          outputs=["regex|.*\\.txt", "regex|.*json.*"], preprocess=step(farm, "echo words"))
    ended_well(farm.run_pilot(settings=QUICK, env=with_prmon(farm)))
    assert farm.final(job)["state"] == "finished", farm.final(job)
    assert {path.name for path in farm.outputs.iterdir() if path.suffix != ".tgz"} == {"mine.txt", "mine.json"}


def test_no_monitor_is_wanted(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={**QUICK, "pilot.utility_after_payload_started": ""}, env=with_prmon(farm))
    gate.reached()
    farm.server.wait(lambda: any("maxRSS" in update for update in farm.server.job(job)["updates"]), PATIENCE)
    gate.open()
    pilot.wait()
    members = log_of(farm, job)
    assert not [name for name in members if name.startswith("memory")]


@pytest.mark.parametrize("content", ["", "{", '{"Max": {"rss": NaN, "pss": 1, "vmem": 1, "swap": 0}, "Avg": {}}',
                                     '{"Max": [], "Avg": 3}', "[" * 100000])
def test_broken_files_of_the_monitor(farm: Farm, content: str) -> None:
    (farm.directory / "content").write_text(content)
    text = (f"cp {farm.directory}/content memory_monitor_summary.json; "
            "printf 'Time\\tpss\\n1\\tx\\n\\xff' > memory_monitor_output.txt; "
            "trap 'exit 0' USR1; while :; do sleep 0.1; done")
    job = farm.submit_job("until [ -e memory_monitor_output.txt ]; do read -t 0.1 _ <> <(:); done; true")
    ended_well(farm.run_pilot(settings=QUICK, env=with_prmon(farm, text)))
    final = farm.final(job)
    assert final["state"] == "finished"
    said = final.get("maxRSS")
    assert (int(said) == -1) if "NaN" in content else (said is None or int(said) > 0)


def test_process_in_the_container_is_watched(farm: Farm) -> None:
    gate = farm.gate("prmon")
    text = ('bash -c "export PandaID=$PANDAID; echo \\$\\$ > inner; read _ < $1; true"\ncat inner')
    script = farm.scripts / "runcontainer"
    script.write_text(f"#!/bin/bash\n{text}\n")
    script.chmod(0o755)
    job = farm.submit_job("true", transformation=str(script), jobPars=str(gate.arrival))
    watched = farm.directory / "watched"
    prmon = f"echo $2 > {watched}; {gate.say()} trap 'exit 0' USR1; while :; do sleep 0.1; done"
    farm.run_pilot(settings=QUICK, env=with_prmon(farm, prmon))
    assert farm.final(job)["state"] == "finished", farm.final(job)
    assert log_of(farm, job)["payload.stdout"].decode() == watched.read_text()


# --- ATLAS ------------------------------------------------------------------------------------------------------------


def test_atlas_with_stand_ins_for_everything(farm: Farm) -> None:
    """prmon by lsetup, Xcache, the benchmark suite: the real lines against small scripts."""
    import shutil
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Event, Thread

    received: list[Any] = []
    came = Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            came.set()

        def log_message(self, format: str, *args: object) -> None:
            return

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=collector.serve_forever, daemon=True).start()
    cvmfs = farm.directory / "cvmfs"
    shutil.copytree(PRMON.parent / "cvmfs", cvmfs)
    suite = cvmfs / "atlas.cern.ch/repo/benchmarks/cern/current"
    suite.mkdir(parents=True)
    benchmarked = farm.gate("benchmarked")
    (suite / "cern-benchmark").write_text(
        "#!/bin/bash\nmkdir -p $BMK_LOGDIR/bmk_tmp\n"
        'echo \'{"metadata": {"UID": 1}, "profiles": {"whetstone": {"score": 3}}}\' >'
        " $BMK_LOGDIR/bmk_tmp/result_profile.json\n")
    (suite / "cern-benchmark").chmod(0o755)
    env = with_prmon(farm)
    program = farm.directory / "bin" / "xcache"
    program.write_text(
        "#!/bin/bash\n[ $1 = kill ] && { kill $3; exit; }\n[ $1 = start ] || exit 0\nmkdir -p $3; echo x > $3/cached\n"
        "setsid sleep 1000 > /dev/null 2>&1 &\n"
        "echo ' export ALRB_XCACHE_PROXY=\"root://localhost:1//\"'; echo \" ALRB_XCACHE_MYPROCESS=$!\"\n"
        "echo cache says hello > /$PWD/cache.log\n"
        "echo \"xcache started successfully.  Messages logged in $PWD/cache.log\"\n")
    program.chmod(0o755)
    farm.set_queue(catchall="pilotXcache")
    job = farm.submit_job(
        "kill -0 $ALRB_XCACHE_MYPROCESS && echo $ALRB_XCACHE_PROXY; echo '{\"exitCode\": 0}' > jobReport.json\n"
        "until [ -s memory_monitor_summary.json_snapshot ] && [ -s benchmark/bmk_tmp/result_profile.json ]; do\n"
        f"sleep 0.1; done; echo > {benchmarked.arrival}; read _ < {benchmarked.hold}", inputs={"in.dat": b"x"})
    pilot = farm.start_pilot("--pilot-user", "atlas", env={**env, "ATLAS_SW_BASE": str(cvmfs)}, settings={
        **QUICK, "monitor.benchmark_fraction": 1,
        "monitor.benchmark_url": f"http://127.0.0.1:{collector.server_port}/"})
    benchmarked.reached()
    assert came.wait(PATIENCE)
    benchmarked.open()
    pilot.wait()
    collector.shutdown()
    collector.server_close()
    ended_well(pilot)
    final = farm.final(job)
    assert final["state"] == "finished", final
    assert int(final["maxPSS"]) == 2500 and "nGPU=1" in final["jobMetrics"]
    members = log_of(farm, job)
    assert members["payload.stdout"] == b"root://localhost:1//\n"
    assert members["xcache-messages.log"] == b"cache says hello\n"
    assert b"standin lsetup prmon" in members["memorymonitor_stdout.txt"]
    assert not [name for name in members if "cached" in name]
    assert received[0]["type"] == "BenchmarkData" and received[0]["profiles"] == {"whetstone": {"score": 3.0}}
    assert json.loads(members["jobReport.json"])["resource"]["machine"]["benchmark"]["profiles"]
    assert farm.payload_processes() == []
