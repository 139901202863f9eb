"""Payloads that do nothing any more, real ones, with shortened clocks: verdict, evidence, and what changes neither."""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any, Dict

import pytest
from harness import Farm, Pilot

QUICK: Dict[str, object] = {
    "limits.looping_production": 2, "limits.looping_analysis": 2, "pilot.looping_limit_min_default": 1,
    "pilot.looping_verification_time": 1, "pilot.disk_space_verification_time": 1, "monitor.cpu_interval": 1,
    "shutdown.term_grace": 1, "monitor.gdb_time": 30,
}
"""Everything within seconds; nothing here depends on how many there are."""


def fake_gdb(farm: Farm, text: str) -> Dict[str, str]:
    """A program gdb that is found first; returns the environment for it."""
    place = farm.directory / "tools"
    place.mkdir()
    (place / "gdb").write_text(f"#!/bin/bash\n{text}\n")
    (place / "gdb").chmod(0o755)
    return {"PATH": f"{place}:/usr/local/bin:/usr/bin:/bin"}


def assert_looping(farm: Farm, job: int) -> str:
    """The job has failed with 1150, its log is there; returns the text of the diagnosis."""
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1150), final["pilotErrorDiag"]
    assert farm.payload_processes() == []
    assert log_of(farm, job).exists()
    return str(final["pilotErrorDiag"])


def log_of(farm: Farm, job: int) -> Path:
    return farm.outputs / str(farm.server.job(job)["definition"]["logFile"])


def members(farm: Farm, job: int) -> Dict[str, int]:
    with tarfile.open(log_of(farm, job)) as archive:
        return {Path(item.name).name: item.size for item in archive.getmembers()}


def run(farm: Farm, job: int, **how: Any) -> Pilot:
    pilot = farm.start_pilot(settings={**QUICK, **how.pop("settings", {})}, **how)
    assert pilot.wait() == 0
    return pilot


def test_a_silent_payload_is_ended_with_code_and_numbers(farm: Farm) -> None:
    job = farm.submit_job("echo began > notes.txt; exec python3 -c 'import time; time.sleep(3600)'"
                          " --token=Sup3rS3cretValue")
    pilot = run(farm, job, settings={"monitor.gdb_time": 0})
    text = assert_looping(farm, job)
    assert text.startswith("Looping job killed by pilot: no file changed for ") and "limits.looping_production" in text
    assert "(limit 2 s" in text and "notes.txt" in text and "CPU 0.0 s" in text
    assert "processes of the looping payload" in pilot.log and "files of the looping payload" in pilot.log
    assert "time.sleep(3600)" in pilot.log and "Sup3rS3cretValue" not in pilot.log + text
    assert pilot.log.index("processes of the looping payload") < pilot.log.index("ending the payload")
    with contextlib.closing(pilot.store()) as store:
        assert [(limit.value, limit.origin) for limit in store.limits(str(job)) if limit.name == "looping"] == [
            (2.0, "limits.looping_production")]
        assert "looping" in [note.topic for note in store.notes(str(job))]


def test_the_pilots_own_files_reset_no_clock(farm: Farm) -> None:
    names = "setup.stdout container_script.sh pilot_heartbeat.json memorymonitor_stdout.txt gdb_output.txt"
    job = farm.submit_job(f"while :; do for name in {names}; do echo x >> $name; done; sleep 0.2; done")
    run(farm, job, settings={"monitor.gdb_time": 0, "limits.looping_cpu_stretch": 1})
    assert "newest of" in (text := assert_looping(farm, job)) and ": payload.std" in text


def test_a_busy_loop_is_ended_later(farm: Farm) -> None:
    job = farm.submit_job("while :; do :; done")
    # time enough for some samples of its CPU time before the plain limit, on a busy machine, too
    run(farm, job, settings={"monitor.gdb_time": 0, "limits.looping_cpu_stretch": 2, "limits.looping_production": 6})
    assert "x 2.0 as CPU is used" in assert_looping(farm, job)


def test_the_queue_says_the_limit(farm: Farm) -> None:
    farm.set_queue(params={"looping_limit": 3})
    job = farm.submit_job("exec sleep 3600")
    run(farm, job, settings={"monitor.gdb_time": 0, "limits.looping_production": 86400})
    assert "(limit 3 s; params.looping_limit of the queue)" in assert_looping(farm, job)


def test_a_job_without_looping_check_is_left_alone(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), loopingCheck=False)
    pilot = farm.start_pilot(settings={**QUICK, "monitor.gdb_time": 0, "limits.looping_cpu_stretch": 1})
    gate.reached()
    threading.Event().wait(5)  # well beyond what ends others
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_hostile_names_of_files_and_processes_break_nothing(farm: Farm) -> None:
    job = farm.submit_job("mkdir -p \"$(printf 'a\\nb\\377')\"; touch \"$(printf 'a\\nb\\377/%0200d\\n\\033[2J' 7)\"\n"
                          "exec -a \"$(printf 'x\\377\\n\\033[31m')\" sleep 3600")
    pilot = run(farm, job, settings={"monitor.gdb_time": 0})
    text = assert_looping(farm, job)
    assert text.isprintable() and "...000" in text
    assert "\x1b" not in pilot.log


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gdb", "said"), [
    ("echo ptrace: Operation not permitted. >&2; exit 1", "does not let process"),
    ("exec sleep 3600", "gdb: ended after 1 s"),
    ("kill -SEGV $$", "looping payload"),
    ("head -c 50000000 /dev/zero; exit 0", "looping payload"),
])
def test_a_core_dump_that_fails_cancels_no_verdict(farm: Farm, gdb: str, said: str) -> None:
    job = farm.submit_job("exec sleep 3600")
    pilot = run(farm, job, env=fake_gdb(farm, gdb), settings={"monitor.gdb_time": 1})
    assert_looping(farm, job)
    assert said in pilot.log


def test_without_gdb_the_verdict_is_the_same(farm: Farm) -> None:
    tools = farm.directory / "few-tools"
    tools.mkdir()
    for name in ("bash", "sleep", "sh", "env"):
        found = next(Path(place) / name for place in ("/bin", "/usr/bin") if (Path(place) / name).exists())
        (tools / name).symlink_to(found)
    job = farm.submit_job("exec sleep 3600")
    pilot = run(farm, job, env={"PATH": str(tools)})
    assert_looping(farm, job)
    assert "gdb is not installed on this node" in pilot.log


def test_the_core_is_of_the_worker_not_of_the_monitor_beside_it(farm: Farm) -> None:
    """A transform starts a prmon of its own, the youngest of its processes; the worker is older."""
    monitor = farm.directory / "prmon"
    monitor.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    monitor.chmod(0o755)
    worker = "python3 -c 'import time, os; open(\"worker.pid\", \"w\").write(str(os.getpid())); sum(range(3000000)); " \
             "time.sleep(3600)'"
    job = farm.submit_job(f"({worker}) & sleep 0.5; {monitor} 3600 & wait", outputs=[])
    words = farm.directory / "gdb-words"
    env = fake_gdb(farm, f'echo "$@" > {words}\nfor word in "$@"; do case "$word" in generate-core-file*) '
                         'echo core > "${word#generate-core-file }";; esac; done')
    pilot = run(farm, job, env=env)
    assert_looping(farm, job)
    inside = members(farm, job)
    pid = words.read_text().split("-p ")[1].split()[0]
    with tarfile.open(log_of(farm, job)) as archive:
        member = next(item for item in archive.getmembers() if item.name.endswith("/worker.pid"))
        stream = archive.extractfile(member)
        assert stream is not None and stream.read().decode() == pid
    assert inside[f"core.{pid}"] == 5 and "gdb_output.txt" in inside
    assert f"its core file is core.{pid}" in pilot.log


@pytest.mark.parametrize("settings", [{"monitor.looping_core": False}, {"limits.log_archive_max_file": 1000}])
def test_no_core_file_that_nobody_wants_or_that_is_too_large(farm: Farm, settings: Dict[str, object]) -> None:
    job = farm.submit_job("exec sleep 3600")
    words = farm.directory / "gdb-words"
    run(farm, job, env=fake_gdb(farm, f'echo "$@" > {words}'), settings=settings)
    assert_looping(farm, job)
    assert "thread apply all bt" in words.read_text() and "generate-core-file" not in words.read_text()


# --- suspensions ------------------------------------------------------------------------------------------------------


def test_a_suspended_pilot_ends_no_payload_for_the_time_it_has_slept(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={
        **QUICK, "limits.looping_production": 10, "monitor.suspension": 4, "pilot.thread_check": 1,
        "pilot.pilot_heartbeat": 1, "monitor.gdb_time": 0})
    gate.reached()
    farm.wait_state(job, "running")
    pilot.send("SIGSTOP")
    threading.Event().wait(11)
    pilot.send("SIGCONT")
    pilot.wait_output("the pilot has stood still for")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    assert pilot.log.count("has stood still") == 1


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
def test_a_real_gdb_leaves_backtrace_and_core_file(farm: Farm) -> None:
    job = farm.submit_job("exec sleep 3600")
    pilot = run(farm, job, settings={"monitor.gdb_time": 60})
    assert_looping(farm, job)
    if "this node does not let process" in pilot.log:
        pytest.skip("ptrace is not permitted here")
    inside = members(farm, job)
    cores = [name for name in inside if name.startswith("core.")]
    assert len(cores) == 1 and inside[cores[0]] > 10_000 and "gdb_output.txt" in inside
