"""Debug mode as an operator sees it: on, off, commands, refusals; two jobs at once; nothing waits for a command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import pytest
from harness import Farm, Gate
from looks import archive, ended_well
from test_pipelining import finish, overlap

QUICK: Mapping[str, object] = {"pilot.heartbeat": 1, "pilot.debug_heartbeat": 1, "shutdown.term_grace": 5}
CORE = "gdb --pid % -ex generate-core-file"


def texts(farm: Farm, job: int) -> List[str]:
    """``stdout`` of the job's heartbeats, oldest first."""
    return [str(update.get("stdout") or "") for update in farm.server.job(job)["updates"]]


def wait_text(farm: Farm, job: int, fits: Callable[[str], bool]) -> str:
    """Block until the last heartbeat has a text that fits."""
    farm.server.wait(lambda: bool(texts(farm, job)) and fits(texts(farm, job)[-1]))
    return next(text for text in reversed(texts(farm, job)) if fits(text))


def running(params: Mapping[str, Any]) -> bool:
    """True for the parameters of a heartbeat."""
    return params.get("state", params.get("job_status")) in ("starting", "running")


def python_at(gate: Gate) -> str:
    """A payload with a Python below bash that waits at a gate."""
    code = f"open('{gate.arrival}', 'w').write('up\\n'); open('{gate.hold}').readline()"
    return f'{sys.executable} -c "{code}"\ntrue'


def fake(farm: Farm, name: str, text: str) -> Dict[str, str]:
    """Put a program in front of the pilot's PATH; returns the environment."""
    tools = farm.directory / "tools"
    tools.mkdir(exist_ok=True)
    (tools / name).write_text(f"#!/bin/bash\n{text}\n")
    (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}"}


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_on_with_a_command_and_off_again(farm: Farm, dialect: str) -> None:
    gate = farm.gate("payload")
    lines = "for i in {1..20}; do echo line $i; done"
    job = farm.submit_job(f"echo old\nmkdir sub\n{lines} > sub/run.log\n{gate.shell()}")
    pilot = farm.start_pilot("--server-api", dialect, settings=QUICK)
    gate.reached()
    farm.wait_state(job, "running")
    assert set(texts(farm, job)) == {""}
    farm.server.debug(job)
    text = wait_text(farm, job, bool)
    assert text.splitlines() == ["sub/run.log", *(f"line {i}" for i in range(11, 21))]
    farm.server.command(job, "tail -n 2 payload.stdout")
    assert wait_text(farm, job, lambda text: text.startswith("payload.stdout")) == "payload.stdout\nold"
    farm.server.command(job, "ls sub")
    assert wait_text(farm, job, lambda text: "sub/run.log" not in text and "run.log" in text) == "run.log\n"
    farm.server.debug(job, False)
    farm.server.command(job, "debugoff")
    wait_text(farm, job, lambda text: not text)
    gate.open()
    assert pilot.wait() == 0
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"
    assert "debug mode on: tail -n 2 payload.stdout, an update every 1 s" in pilot.output
    assert pilot.output.count("debug mode off") == 1


def test_a_job_with_the_debug_flag_is_in_debug_mode_at_once(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"echo hello\n{gate.shell()}", debug="True")
    pilot = farm.start_pilot(settings={**QUICK, "pilot.heartbeat": 3600})
    assert wait_text(farm, job, lambda text: "hello" in text) == "payload.stdout\nhello"
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_off_when_the_answer_no_longer_names_it(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"echo hello\n{gate.shell()}", debug="True")
    pilot = farm.start_pilot(settings=QUICK)
    wait_text(farm, job, bool)
    farm.server.debug(job, False)
    wait_text(farm, job, lambda text: not text)
    gate.open()
    assert pilot.wait() == 0


def test_failed_and_unreadable_answers_change_nothing(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"echo hello\n{gate.shell()}", debug="True")
    pilot = farm.start_pilot(settings=QUICK)
    wait_text(farm, job, bool)
    faults = [farm.server.faults.add("update_job", kind, when=running, **how) for kind, how in (
        ("http_500", {}), ("processed_then_close", {}), ("html", {}),
        ("body", {"text": '{"success": true, "message": "", "data": {"StatusCode": 10, "command": "NULL"}}'}),
        ("body", {"text": '{"success": true, "message": "", "data": {"StatusCode": 0, "command": "alreadydone"}}'}),
    )]
    farm.server.wait(lambda: all(fault.hits for fault in faults[:-1]))
    assert "debug mode off" not in pilot.output
    farm.server.wait(lambda: faults[-1].hits > 0)
    pilot.wait_output("no more heartbeats")
    gate.open()
    assert pilot.wait() == 0
    assert "debug mode off" not in pilot.output


@pytest.mark.parametrize(("command", "reason"), [
    ("rm -rf /", "refused: 'rm -rf /'"), ("ls; id", "refused: 'ls; id'"), ("ls $(id)", "shell characters"),
    ("ls | sh", "shell characters"), ("ps && id", "shell characters"), ("tail /etc/passwd", "outside of the job's dir"),
    ("ls ..", "outside of the job's directory"), ("gdb --pid % -ex 'shell id'", "gdb command: 'shell id'"),
    ("gdb --pid 1", "no process 1 in the payload"), ("gdb --pid athena", "there are: "), ("tail x509_proxy", "no file"),
])
def test_what_is_refused_and_why_stands_in_the_answer(farm: Farm, command: str, reason: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"echo secret > x509_proxy\necho hello\n{gate.shell()}", debug="True")
    farm.server.command(job, command)
    pilot = farm.start_pilot(settings=QUICK)
    gate.reached()
    text = wait_text(farm, job, lambda text: reason in text)
    assert "uid=" not in text
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_a_refusal_without_debug_mode_is_told_as_well(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    farm.server.command(job, "cat /etc/passwd")
    pilot = farm.start_pilot(settings=QUICK)
    assert "refused: 'cat /etc/passwd'" in wait_text(farm, job, bool)
    gate.open()
    assert pilot.wait() == 0
    assert "debug mode on" not in pilot.output


def test_heartbeats_and_kills_do_not_wait_for_a_command(farm: Farm) -> None:
    gate, slow = farm.gate("payload"), farm.gate("slow")
    job = farm.submit_job(f"echo hello\n{gate.shell()}", debug="True")
    farm.server.command(job, "du -a")
    pilot = farm.start_pilot(settings=QUICK, env=fake(farm, "du", slow.shell()))
    gate.reached()
    slow.reached()
    before = len(texts(farm, job))
    farm.server.wait(lambda: len(texts(farm, job)) >= before + 2)
    farm.server.kill(job)
    assert pilot.wait() == 0
    assert farm.final(job)["pilotErrorCode"] == 1144
    assert pilot.output.count("debug mode on: du -a") == 1


def test_one_command_at_a_time(farm: Farm) -> None:
    gate, slow = farm.gate("payload"), farm.gate("slow")
    job = farm.submit_job(gate.shell(), debug="True")
    farm.server.command(job, "du")
    env = fake(farm, "du", f"echo x >> {farm.directory}/runs\n{slow.shell()}echo 4")
    pilot = farm.start_pilot(settings=QUICK, env=env)
    slow.reached()
    before = len(texts(farm, job))
    farm.server.wait(lambda: len(texts(farm, job)) >= before + 3)
    assert (farm.directory / "runs").read_text() == "x\n"
    slow.open()
    wait_text(farm, job, lambda text: text == "4\n")
    gate.open()
    slow.open(100)
    assert pilot.wait() == 0


def test_two_jobs_each_with_their_own(farm: Farm) -> None:
    pilot, jobs, gates = overlap(farm, "payload", settings=dict(QUICK))
    for job in jobs:
        farm.server.debug(job)
        farm.server.command(job, "ls *.dat")
    wait_text(farm, jobs[0], lambda text: text == "first.dat\n")
    wait_text(farm, jobs[1], lambda text: text == "in.dat\n")
    farm.server.debug(jobs[0], False)
    farm.server.command(jobs[0], "debugoff")
    wait_text(farm, jobs[0], lambda text: not text)
    before = len(texts(farm, jobs[1]))
    farm.server.wait(lambda: len(texts(farm, jobs[1])) > before)
    assert texts(farm, jobs[1])[-1] == "in.dat\n", "the other one goes on"
    finish(pilot, *gates)
    assert [farm.final(job)["state"] for job in jobs] == ["finished", "finished"]


def test_a_core_file_ends_the_payload_and_goes_into_the_log(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(python_at(gate))
    gdb = "for word; do case $word in gen*) printf core > ${word#* };; esac; done; echo Saved"
    pilot = farm.start_pilot(settings=QUICK, env=fake(farm, "gdb", gdb))
    gate.reached()
    farm.server.command(job, CORE)
    assert pilot.wait() == 0
    ended_well(pilot)
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1144)
    assert "payload was killed after gdb produced requested core file" in final["pilotErrorDiag"]
    text = next(text for text in texts(farm, job) if text)
    name = text.split()[0]
    assert text.startswith(f"{name} (4 bytes) is in the job's directory\nSaved")
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert members[name] == b"core"
    assert members["gdb_output.txt"] == b"Saved\n"
    assert farm.payload_processes() == []


@pytest.mark.parametrize("gdb", ["echo 'ptrace: Operation not permitted.'", "exit 1", ""])
def test_a_healthy_payload_survives_a_gdb_that_fails(farm: Farm, gdb: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(python_at(gate))
    env = fake(farm, "gdb", gdb)
    if not gdb:  # no gdb on this node
        (farm.directory / "tools" / "gdb").unlink()
        for name in ("bash", "env", "cp", "python3"):
            found = next(Path(place, name) for place in os.environ["PATH"].split(":") if Path(place, name).exists())
            (farm.directory / "tools" / name).symlink_to(found)
        env = {"PATH": str(farm.directory / "tools")}
    pilot = farm.start_pilot(settings=QUICK, env=env)
    gate.reached()
    farm.server.command(job, CORE)
    wait_text(farm, job, lambda text: ("no core file was written" if gdb else "gdb is not installed") in text)
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
