"""Signals in every stage: what is reported, what ends, how the pilot exits."""

from __future__ import annotations

import os
import socket
import tarfile
import time
from pathlib import Path

import pytest
from harness import PATIENCE, Farm, Pilot

# name, pilot code, shell exit code: the user's table (decision 1 of the design)
SIGNALS = [
    ("SIGTERM", 1201, 143), ("SIGINT", 1200, 130), ("SIGQUIT", 1202, 131), ("SIGSEGV", 1203, 139),
    ("SIGXCPU", 1204, 152), ("SIGUSR1", 1206, 138), ("SIGBUS", 1207, 135), ("SIGHUP", 1200, 129),
]


def stop(pilot: Pilot, name: str, effect: str) -> None:
    """Send a signal and wait until the pilot says what it makes of it."""
    pilot.send(name)
    pilot.wait_output(effect)


def log_members(farm: Farm, job: int) -> list[str]:
    """Names in the log archive that the job has left in the storage."""
    with tarfile.open(farm.outputs / farm.server.job(job)["definition"]["logFile"]) as archive:
        return [Path(member.name).name for member in archive.getmembers()]


def assert_failed_with_log(farm: Farm, job: int, code: int, name: str) -> None:
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", code)
    assert name in final["pilotErrorDiag"]
    assert "pilotlog.txt" in log_members(farm, job)
    assert len(farm.final_updates(job)) == 1
    assert farm.payload_processes() == []


@pytest.mark.parametrize(("name", "code", "shell"), SIGNALS)
def test_a_signal_in_the_payload_ends_it_and_the_pilot(farm: Farm, name: str, code: int, shell: int) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), outputs=["out.dat"])
    pilot = farm.start_pilot()
    gate.reached()
    pilot.send(name)
    assert pilot.wait() == shell
    assert_failed_with_log(farm, job, code, name)
    assert not (farm.outputs / "out.dat").exists()


@pytest.mark.parametrize(("name", "code", "shell"), SIGNALS)
@pytest.mark.parametrize("stage", ["copyin", "setup", "validation"])
def test_a_signal_before_the_payload_fails_the_job(farm: Farm, stage: str, name: str, code: int, shell: int) -> None:
    gate = farm.gate(stage)
    job = farm.submit_job("touch started; exec sleep 3600", inputs={"in.dat": b"data"}, outputs=["out.dat"])
    pilot = farm.start_gated()
    gate.reached()
    stop(pilot, name, "signal in stage")
    gate.open()
    assert pilot.wait() == shell
    assert_failed_with_log(farm, job, code, name)
    assert "started" not in log_members(farm, job)


@pytest.mark.parametrize(("name", "code", "shell"), SIGNALS)
@pytest.mark.parametrize("stage", ["copyout", "copylog", "reporting"])
def test_a_signal_after_the_payload_lets_its_results_leave(
        farm: Farm, stage: str, name: str, code: int, shell: int) -> None:
    gate = farm.gate(stage)
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_gated()
    gate.reached()
    stop(pilot, name, f"received {name}" if stage == "reporting" else "what is done may still leave")
    gate.open()
    assert pilot.wait() == shell
    assert farm.final(job)["state"] == "finished"
    assert farm.server.run_adder() == [job]
    assert farm.state(job) == "finished"
    assert (farm.outputs / "out.dat").read_text() == "result\n"


@pytest.mark.parametrize(("name", "code", "shell"), SIGNALS)
def test_a_job_granted_while_the_signal_comes_is_reported(farm: Farm, name: str, code: int, shell: int) -> None:
    # the server has given the job away and its answer is on the way
    job = farm.submit_job("touch started")
    farm.server.faults.add("acquire_jobs", "delay", seconds=0.5, after_processing=True)
    pilot = farm.start_pilot()
    farm.wait_state(job, "sent")
    pilot.send(name)
    assert pilot.wait() == shell
    assert_failed_with_log(farm, job, code, name)
    assert "started" not in log_members(farm, job)


@pytest.mark.parametrize(("name", "code", "shell"), SIGNALS)
def test_a_signal_between_two_requests_for_a_job_ends_the_pilot(farm: Farm, name: str, code: int, shell: int) -> None:
    pilot = farm.start_pilot("-x", "100", settings={"server.getjob_wait": 3600, "server.getjob_wait_max": 3600})
    pilot.wait_output("next attempt to get a job")
    pilot.send(name)
    assert pilot.wait() == shell
    assert [request.operation for request in farm.server.requests].count("acquire_jobs") == 1


def test_a_signal_before_the_first_request_ends_the_pilot(farm: Farm) -> None:
    job = farm.submit_job()
    gate = farm.gate("sanity")
    pilot = farm.start_gated()
    gate.reached()
    pilot.send("SIGTERM")
    gate.open()
    assert pilot.wait() == 143
    assert farm.state(job) == "activated" or farm.final(job)["pilotErrorCode"] == 1201


def test_a_signal_while_the_queue_data_come_ends_the_pilot(farm: Farm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE)
        pilot = farm.start_pilot("--queuedata-url", f"http://127.0.0.1:{silent.getsockname()[1]}/queue.json")
        connection, _ = silent.accept()
        with connection:
            pilot.send("SIGTERM")
            assert pilot.wait() == 143


@pytest.mark.parametrize("name", ["SIGCONT", "SIGUSR2"])
def test_signals_that_end_nothing(farm: Farm, name: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot()
    gate.reached()
    stop(pilot, name, "nothing to do")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_many_signals_are_one(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot()
    gate.reached()
    for name, _, _ in SIGNALS:
        pilot.send(name)
        pilot.wait_output("received SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(job)["pilotErrorCode"] == 1201
    assert len(farm.final_updates(job)) == 1


def test_the_final_report_leaves_within_two_seconds(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"trap 'echo bye > bye.txt; exit 0' TERM\n{gate.say()}\nwhile :; do sleep 3600 & wait; done")
    pilot = farm.start_pilot()
    gate.reached()
    sent = time.time()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    reports = [request for request in farm.server.requests
               if request.params.get("job_status", request.params.get("state")) == "failed"]
    assert len(reports) == 1
    assert reports[0].time - sent < 2.0
    # the payload obeyed and ended well: the job has failed all the same, and what it wrote is in the log
    assert_failed_with_log(farm, job, 1201, "SIGTERM")
    assert "bye.txt" in log_members(farm, job)


DAEMON = """
setsid bash -c 'trap "" TERM HUP INT; (trap "" TERM; echo daemon > {arrival}; exec sleep 3600) & wait' &
disown
"""


def test_the_whole_tree_ends_daemons_and_deaf_ones_too(farm: Farm) -> None:
    daemon, gate = farm.gate("daemon"), farm.gate("payload")
    job = farm.submit_job(f"trap '' TERM\n{DAEMON.format(arrival=daemon.arrival)}{gate.say()}\n"
                          "while :; do sleep 3600; done")
    pilot = farm.start_pilot(settings={"shutdown.term_grace": 0.3})
    daemon.reached()
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert_failed_with_log(farm, job, 1201, "SIGTERM")


@pytest.mark.parametrize("stage", ["copyin", "copyout", "copylog"])
def test_a_transfer_that_hangs_cannot_keep_the_pilot_over_its_deadline(farm: Farm, stage: str) -> None:
    gate = farm.gate(stage)  # never opened
    job = farm.submit_job("echo result > out.dat", inputs={"in.dat": b"data"}, outputs=["out.dat"])
    pilot = farm.start_gated(settings={"shutdown.deadline": 3})
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1201)
    assert len(farm.final_updates(job)) == 1


@pytest.mark.parametrize("stage", ["validation", "setup", "reporting"])
def test_a_stage_that_hangs_cannot_keep_the_pilot_over_its_deadline(farm: Farm, stage: str) -> None:
    gate = farm.gate(stage)  # never opened, and nothing can cancel it
    job = farm.submit_job()
    pilot = farm.start_gated(settings={"shutdown.deadline": 3})
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(job)["pilotErrorCode"] == 1201


def test_a_server_that_hangs_cannot_keep_the_pilot_over_its_deadline(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={"shutdown.deadline": 3})
    gate.reached()
    farm.wait_state(job, "running")
    farm.server.faults.add("update_job", "hang", times=None)
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert "pilot.py --recover" in pilot.output
    farm.server.faults.clear()
    assert farm.recover(pilot.directory).process.returncode == 0
    assert farm.final(job)["pilotErrorCode"] == 1201


def test_one_hanging_request_does_not_delay_the_final_report(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    farm.server.faults.add("update_job", "hang", times=1, when=lambda params: "running" in params.values())
    pilot = farm.start_pilot()
    gate.reached()
    farm.server.wait(lambda: farm.server.faults.hits)
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(job)["pilotErrorCode"] == 1201


def test_a_pod_has_the_shorter_deadline(farm: Farm) -> None:
    gate = farm.gate("copyout")  # never opened
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_gated("--pod", settings={"shutdown.pod_deadline": 2, "shutdown.deadline": 3600})
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(job)["pilotErrorCode"] == 1201


def test_term_on_kubernetes_is_a_preemption(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(env={"K8S_JOB_ID": "job-17"})
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert_failed_with_log(farm, job, 1379, "SIGTERM")


def test_as_session_leader(farm: Farm) -> None:
    gate = farm.gate("payload")
    first, second = farm.submit_job(), farm.submit_job(gate.shell())
    farm.set_queue(timefloor=3600)
    pilot = farm.start_pilot(prefix=["setsid"])
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(first)["state"] == "finished"
    assert_failed_with_log(farm, second, 1201, "SIGTERM")


@pytest.mark.skipif(os.geteuid() != 0, reason="a process id namespace needs root")
def test_as_process_1(farm: Farm) -> None:
    daemon, gate = farm.gate("daemon"), farm.gate("payload")
    first = farm.submit_job()
    second = farm.submit_job(f"{DAEMON.format(arrival=daemon.arrival)}{gate.shell()}")
    farm.set_queue(timefloor=3600)
    pilot = farm.start_pilot(prefix=["unshare", "--pid", "--fork", "--mount-proc"],
                             settings={"shutdown.term_grace": 0.3})
    daemon.reached()
    gate.reached()
    children = Path(f"/proc/{pilot.pid}/task/{pilot.pid}/children").read_text().split()
    pilot.pid = int(children[0])
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert farm.final(first)["state"] == "finished"
    assert_failed_with_log(farm, second, 1201, "SIGTERM")


def test_two_jobs_at_once_are_both_reported(farm: Farm) -> None:
    stageout, payload = farm.gate("copyout"), farm.gate("payload")
    farm.set_queue(timefloor=3600, maxrss=1)
    first = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    second = farm.submit_job(payload.shell())
    pilot = farm.start_gated(settings={"jobs.pipelining": True})
    stageout.reached()
    payload.reached()
    stop(pilot, "SIGTERM", "what is done may still leave")
    stageout.open()
    assert pilot.wait() == 143
    assert farm.final(first)["state"] == "finished"
    assert farm.final(second)["pilotErrorCode"] == 1201
