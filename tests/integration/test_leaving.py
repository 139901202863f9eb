"""The time by which a pilot has to leave: who may set it, what then becomes of a job, when none is taken any more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import pytest
from harness import Farm, Pilot
from looks import ended_well

QUICK = {"limits.leave_by_check": 1, "limits.shortest_job": 0, "limits.leave_margin": 16}
"""Looks each second; so late an announcement is obeyed 16 s before the node goes."""


@pytest.fixture
def machine(farm: Farm) -> Path:
    """A directory for $MACHINEFEATURES."""
    path = farm.directory / "machinefeatures"
    path.mkdir()
    return path


def announce(machine: Path, seconds: float) -> None:
    """The node will be shut down."""
    (machine / "new").write_text(f"{time.time() + seconds:.0f}\n")
    (machine / "new").rename(machine / "shutdowntime")


def requests(farm: Farm) -> List[Mapping[str, Any]]:
    return [request.params for request in farm.server.requests if request.operation == "acquire_jobs"]


def test_no_job_is_taken_18_minutes_before_the_announced_end_of_the_node(farm: Farm, machine: Path) -> None:
    job = farm.submit_job()
    announce(machine, 18 * 60)
    pilot = farm.run_pilot(env={"MACHINEFEATURES": str(machine)})
    ended_well(pilot, 0)
    assert (farm.state(job), requests(farm)) == ("activated", [])
    assert "too few for another job (1800 s, setting limits.shortest_job): $MACHINEFEATURES/shutdowntime" in pilot.log


def test_a_shutdown_that_is_announced_in_mid_job_ends_it_in_time(farm: Farm, machine: Path) -> None:
    farm.set_queue(timefloor=3600)
    gate = farm.gate("payload")
    job, after = farm.submit_job(gate.shell()), farm.submit_job()
    pilot = farm.start_pilot(settings=QUICK, env={"MACHINEFEATURES": str(machine)})
    gate.reached()
    announce(machine, 17)
    pilot.wait_output("the leave-by time has moved")
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1213)
    assert final["pilotErrorDiag"].startswith(
        "Reached batch system time limit: the max batch system time limit has been reached: $MACHINEFEATURES/"
        "shutdowntime announces ")
    assert list(farm.outputs.glob("log.*.tgz")), "its log was stored before the node goes"
    assert farm.state(after) == "activated"
    store = pilot.store()
    (limit,) = [limit for limit in store.limits(str(job)) if limit.name == "time"]
    store.close()
    assert "shutdowntime" in limit.origin


def test_a_shutdown_that_is_taken_back_is_none(farm: Farm, machine: Path) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    announce(machine, 3 * 3600)
    pilot = farm.start_pilot(settings=QUICK, env={"MACHINEFEATURES": str(machine)})
    gate.reached()
    (machine / "shutdowntime").unlink()
    pilot.wait_output("the queue's maxtime is 86400 s, less 16 s for the way out")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def in_stageout(farm: Farm, machine: Path) -> tuple[int, Pilot, Any]:
    """A job whose output is on its way when the node announces its end."""
    out = farm.gate("copyout")
    job = farm.submit_job("echo result > out.dat", outputs=["out.dat"])
    pilot = farm.start_gated(settings=QUICK, env={"MACHINEFEATURES": str(machine)})
    out.reached()
    announce(machine, 17)
    pilot.wait_output("what its payload has made may still leave until the slot ends")
    return job, pilot, out


def test_outputs_that_are_on_their_way_still_leave(farm: Farm, machine: Path) -> None:
    job, pilot, out = in_stageout(farm, machine)
    out.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert (farm.outputs / "out.dat").exists()


def test_a_shutdown_that_is_taken_back_lets_outputs_go_on(farm: Farm, machine: Path) -> None:
    """The last call, 12 s later, is for nobody any more."""
    job, pilot, out = in_stageout(farm, machine)
    (machine / "shutdowntime").unlink()
    pilot.wait_output("the leave-by time has moved: now in 8")  # a day
    out.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


def test_outputs_that_do_not_leave_are_broken_off_for_log_and_report(farm: Farm, machine: Path) -> None:
    job, pilot, _ = in_stageout(farm, machine)
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1213)
    assert list(farm.outputs.glob("log.*.tgz"))


def test_the_margin_follows_what_is_written_and_how_fast_the_storage_is(farm: Farm) -> None:
    """Inputs came at 100 kB/s: 1.2 MB of output need 18 s, more than the tenth of the slot that is always kept."""
    farm.set_queue(maxtime=0, copytools={"slow": {"copy_in": "cp", "copy_out": "cp"}}, acopytools={"default": ["slow"]})
    gate = farm.gate("payload")
    job = farm.submit_job(f"head -c 1200000 /dev/zero > out.dat\n{gate.shell()}", inputs={"in.dat": b"x" * 200_000},
                          outputs=["out.dat"])
    pilot = farm.start_pilot("-l", "120", settings={
        "plugins.copytools": {"slow": "slowstore:SlowTool"}, "shutdown.term_grace": 1,
        "pilot.disk_space_verification_time": 1})
    gate.reached()
    pilot.wait_output("B, as inputs came)")
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert (farm.outputs / "out.dat").stat().st_size == 1_200_000
    store = pilot.store()
    (limit,) = [limit for limit in store.limits(str(job)) if limit.name == "time"]
    store.close()
    assert "option -l is 120 s, less " in limit.origin


def slurm(farm: Farm) -> Dict[str, str]:
    now = time.time()
    return {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": f"{now - 80:.0f}", "SLURM_JOB_END_TIME": f"{now + 20:.0f}"}


def pbs(farm: Farm) -> Dict[str, str]:
    return {"PBS_JOBID": "7.ce", "PBS_WALLTIME": "10"}


def condor(farm: Farm) -> Dict[str, str]:
    ad = farm.directory / "job.ad"
    ad.write_text(f'GlobalJobId = "schedd#1.0#17"\nJobCurrentStartDate = {time.time():.0f}\nMaxRuntime = 12\n')
    return {"_CONDOR_JOB_AD": str(ad)}


def old_slurm(farm: Farm) -> Dict[str, str]:
    tools = farm.directory / "bin"
    tools.mkdir()
    (tools / "squeue").write_text('#!/bin/sh\n[ "$*" = "-h -j 7 -o %L" ] && echo 0:24\n')
    (tools / "squeue").chmod(0o755)
    return {"SLURM_JOB_ID": "7", "PATH": f"{tools}:/usr/bin:/bin"}


@pytest.mark.parametrize(("batch", "words"), [
    (slurm, "SLURM_JOB_END_TIME is "), (pbs, "PBS_WALLTIME is 10 s"), (condor, "MaxRuntime of HTCondor's job ad is 12"),
    (old_slurm, "squeue gave job 7 24 s more")])
def test_the_batch_systems_end(farm: Farm, batch: Callable[[Farm], Dict[str, str]], words: str) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell(), maxWalltime=1)  # the server is told how little is left
    pilot = farm.start_pilot(env=batch(farm), settings=QUICK)
    gate.reached()
    assert pilot.wait() == 0
    assert farm.final(job)["pilotErrorCode"] == 1213
    assert words in farm.final(job)["pilotErrorDiag"]


def test_a_lease_that_was_given_is_a_limit(farm: Farm) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot("-L", "10")
    gate.reached()
    assert pilot.wait() == 0
    assert "option -L is 10 s" in farm.final(job)["pilotErrorDiag"]


def test_the_server_is_told_what_is_left_and_gives_no_longer_job(farm: Farm, machine: Path) -> None:
    long, short = farm.submit_job(maxWalltime=9000, currentPriority=900), farm.submit_job(maxWalltime=3000)
    announce(machine, 2 * 3600)
    pilot = farm.run_pilot(env={"MACHINEFEATURES": str(machine)})
    assert pilot.process.returncode == 0
    assert (farm.state(long), farm.final(short)["state"]) == ("activated", "finished")
    (asked,) = requests(farm)
    assert 3000 < int(asked["remaining_time"]) <= 7200 - 600


def test_a_new_slot_asks_for_jobs_of_any_length(farm: Farm) -> None:
    job = farm.submit_job(maxWalltime=86400)
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "finished"
    assert not requests(farm)[0].get("remaining_time")


def test_the_site_is_told_when_its_notice_is_too_short(farm: Farm, machine: Path) -> None:
    (machine / "grace_secs").write_text("60")
    job = farm.submit_job()
    pilot = farm.run_pilot(env={"MACHINEFEATURES": str(machine), "JOBFEATURES": "/nowhere"})
    assert farm.final(job)["state"] == "finished"
    assert "announces shutdowns 60 s ahead" in pilot.log


def test_the_limit_is_that_of_all_jobs_of_a_pilot_together(farm: Farm) -> None:
    farm.set_queue(maxtime=12, timefloor=3600)
    gate = farm.gate("payload")
    first = farm.submit_job(maxWalltime=1, currentPriority=900)
    second = farm.submit_job(gate.shell(), maxWalltime=1)
    pilot = farm.start_pilot()
    gate.reached()
    assert pilot.wait() == 0
    assert farm.final(first)["state"] == "finished"
    assert farm.final(second)["pilotErrorCode"] == 1213
    assert "the queue's maxtime is 12 s, less 1 s for the way out" in farm.final(second)["pilotErrorDiag"]


def test_a_report_that_nobody_takes_keeps_the_pilot_no_longer_than_its_slot(farm: Farm) -> None:
    """server.final_patience is two hours; a pilot that is killed at the end of its slot could say nothing."""
    farm.set_queue(maxtime=0)
    gate = farm.gate("payload")
    farm.submit_job(gate.shell(), log=False)
    pilot = farm.start_pilot("-l", "20")
    gate.reached()
    farm.server.down()
    gate.open()
    assert pilot.wait() == 79
    assert "pilot.py --recover" in pilot.output
