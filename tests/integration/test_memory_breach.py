"""Whole pilots and the memory of payloads: the limit and its origin, a breach, what the views and the server get."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import PATIENCE, Farm
from looks import archive, ended_well

from tests import groups

QUICK = {"pilot.memory_usage_verification_time": 1, "pilot.process_verification_time": 1}
HUNGRY = f"exec {sys.executable} -c 'x = bytearray(b\"x\" * (200 << 20)); import time; time.sleep(1000)'"


def small_queue(farm: Farm, megabytes: int = 60) -> None:
    """A limit that a payload of 200 MB breaks and a shell does not; by the rule of SCORE_VHIMEM."""
    farm.set_queue(maxrss=megabytes, corecount=1, params={"pilot_rss_grace": 0})


def test_breach(farm: Farm) -> None:
    small_queue(farm)
    job = farm.submit_job(f"(setsid sleep 1000 &)\n{HUNGRY}", resource_type="SCORE_VHIMEM")
    pilot = ended_well(farm.run_pilot(settings=QUICK))
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1235)
    text = final["pilotErrorDiag"]
    assert text.startswith("Payload exceeded maximum allowed memory: job has exceeded the memory limit ")
    assert (" kB > 61440 kB (subresource=SCORE_VHIMEM, corecount=1; PSS; the queue's maxrss 60 MB / 1 x 1 x grace 1)"
            in text)
    assert int(text.partition("memory limit ")[2].split()[0]) > 60 << 10  # seen while it grows, perhaps
    assert not farm.payload_processes()
    assert int(final["maxPSS"]) > 60 << 10
    assert archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert "(python" in pilot.log and "kB (anon " in pilot.log, "the largest processes are in the log"
    with contextlib.closing(pilot.store()) as store:
        limit = next(item for item in store.limits(str(job)) if item.name == "memory")
        assert (limit.value, limit.unit) == (60 << 20, "bytes") and "maxrss 60 MB" in limit.origin
        samples = store.samples(str(job))
        assert max(sample.pss for sample in samples) > 60 << 20
        assert [error.code for error in store.errors(str(job))][0] == 1235


def can_unshare() -> bool:
    """True where pid name spaces can be made."""
    return subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no permission to make a pid name space")
def test_breach_in_a_pid_name_space_of_the_pilot(farm: Farm) -> None:
    """As in a pod: the pilot is process 1."""
    small_queue(farm)
    job = farm.submit_job(f"(setsid sleep 1000 &)\n{HUNGRY}", resource_type="SCORE_VHIMEM")
    ended_well(farm.run_pilot(settings=QUICK, prefix=["unshare", "--pid", "--fork", "--mount-proc"]))
    assert int(farm.final(job)["pilotErrorCode"]) == 1235 and not farm.payload_processes()


@pytest.mark.skipif(not can_unshare(), reason="no permission to make a pid name space")
def test_breach_in_a_pid_name_space_of_the_payload(farm: Farm) -> None:
    """As in a container with a name space of its own: the pilot sees its processes under other numbers."""
    small_queue(farm)
    inside = farm.script(f"setsid sleep 1000 &\n{HUNGRY}")
    job = farm.submit_job(f"unshare --pid --fork --mount-proc {inside}", resource_type="SCORE_VHIMEM")
    pilot = ended_well(farm.run_pilot(settings=QUICK))
    assert int(farm.final(job)["pilotErrorCode"]) == 1235, pilot.log[-3000:]
    assert not farm.payload_processes()


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_resource_types_of_the_server(farm: Farm, dialect: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), resource_type="MCORE", coreCount=4)
    pilot = farm.start_pilot(settings={**QUICK, "server.api": dialect})
    pilot.wait_output(f"job {job}: memory limit ")
    gate.open()
    ended_well_pilot(pilot)
    with contextlib.closing(pilot.store()) as store:
        limit = next(item for item in store.limits(str(job)) if item.name == "memory")
    assert limit.origin == "MCORE (server) 2000 MB/core x 4 x grace 2" and limit.value == 16000 << 20
    assert pilot.log.count("memory per core (MB) of the server's resource types") == 1
    assert f"job {job}: the payload has 1 processes, at most 1 so far" in pilot.log


def ended_well_pilot(pilot: Any) -> None:
    """Wait, then look."""
    assert pilot.wait(PATIENCE) == 0, pilot.output[-3000:]


def test_a_server_in_trouble_leaves_the_built_in_values(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), resource_type="SCORE_HIMEM")
    farm.server.faults.add("get_resource_types", "http_503", times=5)
    pilot = farm.start_pilot("--resource-type", "SCORE_HIMEM", settings=QUICK)
    pilot.wait_output(f"job {job}: memory limit 6144000 kB: SCORE_HIMEM (built-in) 3000 MB/core x 1 x grace 2")
    gate.open()
    ended_well_pilot(pilot)


def test_a_short_payload_costs_no_request(farm: Farm) -> None:
    job = farm.submit_job("true")
    pilot = ended_well(farm.run_pilot(settings=QUICK))
    assert farm.final(job)["state"] == "finished" and "resource types" not in pilot.log


BOMB = f"""exec {sys.executable} -c '
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
'"""


def test_fork_bomb_that_a_limit_of_processes_holds(farm: Farm) -> None:
    """Pilot and payload share the limit, as in a slot: no process and no thread can be had while the bomb lives. The
    pilot goes on sending heartbeats, ends the bomb, stores the log and reports."""
    with groups.processes_limited(120) as slot:
        job = farm.submit_job(BOMB)
        pilot = farm.start_pilot(settings={**QUICK, "pilot.heartbeat": 1, "shutdown.term_grace": 1},
                                 prefix=groups.joined(slot))
        farm.server.wait(lambda: farm.state(job) == "running", PATIENCE)
        wait_until(lambda: int((slot / "pids.current").read_text()) >= 120, "the bomb fills the slot")
        beats = len(farm.server.job(job)["updates"])
        farm.server.wait(lambda: len(farm.server.job(job)["updates"]) >= beats + 3, PATIENCE)
        farm.server.kill(job)
        assert pilot.wait(PATIENCE) == 0, pilot.output[-5000:]
        assert (slot / "cgroup.procs").read_text() == "" and not farm.payload_processes()
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1144)
    assert archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"not reached: {what}"
        time.sleep(0.05)


def test_a_dead_mount_under_the_monitors_files_holds_up_no_heartbeat(farm: Farm) -> None:
    """prmon's files, and whatever else is in the job's directory, cannot be read any more."""
    from deadmount import DeadMount

    directory = farm.directory / "bin"
    directory.mkdir()
    (directory / "prmon").symlink_to(Path(__file__).resolve().parents[1] / "standins" / "prmon")
    gate = farm.gate("payload")
    job = farm.submit_job(f"pwd > {farm.directory}/where\n"
                          "until [ -s memory_monitor_summary.json_snapshot ]; do read -t 0.1 _ <> <(:); done\n"
                          + gate.shell())
    pilot = farm.start_pilot(settings={**QUICK, "pilot.heartbeat": 1},
                             env={"PATH": f"{directory}:{os.environ['PATH']}"})
    gate.reached()
    try:
        mount = DeadMount(Path((farm.directory / "where").read_text().strip()), 1000)
    except PermissionError as exc:
        pytest.skip(f"no right to mount file systems here: {exc}")
    try:
        assert mount.reads.wait(PATIENCE), "somebody hangs"
        beats = len(farm.server.job(job)["updates"])
        farm.server.wait(lambda: len(farm.server.job(job)["updates"]) >= beats + 3, PATIENCE)
    finally:
        mount.close()
    gate.open()
    assert pilot.wait(PATIENCE) == 0, pilot.output[-3000:]
    assert farm.final(job)["state"] == "finished"


@pytest.mark.parametrize(("catchall", "cores"), [("", 6), ("HPC_HPC", 4)])
def test_core_count_of_the_node_or_of_the_job(farm: Farm, catchall: str, cores: int) -> None:
    farm.set_queue(catchall=catchall)
    job = farm.submit_job("true", coreCount=4)
    ended_well(farm.run_pilot(env={"ATHENA_PROC_NUMBER": "6"}))
    assert int(farm.final(job)["coreCount"]) == cores
