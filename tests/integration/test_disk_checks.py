"""What a job may write: real pilots end jobs that fill the disk, with code, figures and limit; the log is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from deadmount import DeadMount
from harness import Farm, Pilot
from looks import archive, ended_well, report_of

from pilot.monitoring.workdir import WorkdirTracker

CHECKS = {"pilot.disk_space_verification_time": 1}
INPUTS = {"in1.dat": b"input" * 1000, "in2.dat": b"more" * 1000}


@pytest.fixture
def dead() -> Iterator[Callable[..., DeadMount]]:
    made = []

    def make(place: Path, **how: Any) -> DeadMount:
        try:
            made.append(DeadMount(place, 1000, **how))
        except PermissionError as exc:
            pytest.skip(f"no right to mount file systems here: {exc}")
        return made[-1]

    yield make
    for mount in made:
        mount.close()


def failed_by(farm: Farm, job: int, pilot: Pilot, code: int) -> tuple[str, dict[str, bytes]]:
    """Assert that the job has failed with ``code``, its log only stored, nothing left; returns diagnosis and log."""
    ended_well(pilot)
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    assert farm.payload_processes() == []
    log = farm.server.job(job)["definition"]["logFile"]
    assert list(report_of(final)) == [log]
    members = archive(farm.outputs / log)
    assert not set(INPUTS) & set(members)
    return str(final["pilotErrorDiag"]), members


def forever(words: str, gate: str = "") -> str:
    return f"{words}\n{gate}exec sleep 1000"


def test_work_directory_over_the_limit_of_the_queue(farm: Farm) -> None:
    farm.set_queue(maxwdir=2)
    job = farm.submit_job(forever(f"mkdir -p a/b; head -c 3000000 /dev/zero > {farm.directory}/large\n"
                                  f"mv {farm.directory}/large a/b/large.dat"), inputs=INPUTS, maxDiskCount=1)
    pilot = farm.run_pilot(settings=CHECKS)
    diagnosis, members = failed_by(farm, job, pilot, 1104)
    assert "is too large: 30" in diagnosis
    assert "(must be < 2097152 B, queue's maxwdir 2 MB x 1.2)" in diagnosis
    assert "2 input files are removed" in pilot.log
    assert "3000000 B (3" in pilot.log and "a/b/large.dat" in pilot.log, "the log lists what is large"
    store = pilot.store()
    limits = {limit.name: (limit.value, limit.unit) for limit in store.limits(str(job))}
    store.close()
    assert limits["workdir"] == (2 << 20, "bytes")
    assert {"free", "stdout", "output"} <= set(limits)


def test_a_file_with_holes_counts_in_full_and_the_text_says_both(farm: Farm) -> None:
    farm.set_queue(maxwdir=2000, corecount=4)
    job = farm.submit_job(forever("truncate -s 1T huge"))
    diagnosis, members = failed_by(farm, job, farm.run_pilot(settings=CHECKS), 1104)
    assert "1099511" in diagnosis and "on disk)" in diagnosis
    assert "maxwdir 2000 MB / 4 cores of the queue x 1.2" in diagnosis
    assert "huge" not in members


def test_a_queue_without_maxwdir_has_no_limit(farm: Farm) -> None:
    farm.set_queue(maxwdir=0)
    gate = farm.gate("payload")
    job = farm.submit_job(f"truncate -s 1T huge\n{gate.shell()}rm huge")
    pilot = farm.start_pilot(settings=CHECKS)
    gate.reached()
    pilot.wait_output("limits on disk: free space")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"
    assert "work directory size" not in pilot.log


def test_stdout_over_its_limit_is_cut_for_the_log(farm: Farm) -> None:
    text = (farm.directory / "text").absolute()
    text.write_text("the beginning\n" + "y\n" * 300_000 + "the end\n")
    job = farm.submit_job(forever(f"dd if={text} bs=1M status=none"), inputs=INPUTS)  # one write: seen whole or not
    pilot = farm.run_pilot(settings={**CHECKS, "pilot.local_size_limit_stdout": 500})
    diagnosis, members = failed_by(farm, job, pilot, 1106)
    assert "payload.stdout is too large: 600" in diagnosis
    assert "(must be <= 512000 B, setting pilot.local_size_limit_stdout)" in diagnosis
    kept = members["payload.stdout"]
    assert kept.startswith(b"the beginning\n") and kept.endswith(b"the end\n") and b"the pilot has left out" in kept
    assert len(kept) < 512_000


@pytest.mark.parametrize("name", ["log.RAWtoALL", "workDir/tmp.stdout.4711"])
def test_log_files_of_the_payload_over_the_limit(farm: Farm, name: str) -> None:
    job = farm.submit_job(forever(f"mkdir workDir; head -c 3000000 /dev/zero > x; mv x {name}"))
    pilot = farm.run_pilot(settings={**CHECKS, "pilot.local_size_limit_stdout": 2000})
    diagnosis, members = failed_by(farm, job, pilot, 1106)
    assert f"{name} is too large: 3000000 B" in diagnosis
    assert 1_000_000 < len(members[name]) < 2_048_000


def test_an_output_that_no_storage_takes(farm: Farm) -> None:
    job = farm.submit_job(forever(": > empty.dat; truncate -s 600G out.dat"), outputs=["empty.dat", "out.dat"],
                          inputs=INPUTS)
    farm.set_queue(maxwdir=0)
    diagnosis, _ = failed_by(farm, job, farm.run_pilot(settings=CHECKS), 1124)
    assert "output file out.dat is too large: 644245094400 B (0 B on disk)" in diagnosis
    assert "(must be < 536870912000 B, setting pilot.maximum_output_file_size)" in diagnosis


def test_inputs_that_are_links_go_their_targets_stay(farm: Farm) -> None:
    farm.set_queue(maxwdir=2, copytools={"mv": {"copy_in": "symlink"}})
    job = farm.submit_job(forever("head -c 3000000 /dev/zero > large"), inputs=INPUTS, maxDiskCount=1)
    failed_by(farm, job, farm.run_pilot(settings=CHECKS), 1104)
    for name, content in INPUTS.items():
        assert (farm.inputs / name).read_bytes() == content


def test_workdirsize_leaves_inputs_and_outputs_out(farm: Farm) -> None:
    job = farm.submit_job("head -c 200000 /dev/zero > own; head -c 50000 /dev/zero > out.dat", inputs=INPUTS,
                          outputs=["out.dat"])
    ended_well(farm.run_pilot("--pilot-user", "ATLAS"))
    final = farm.final(job)
    metrics = dict(pair.split("=") for pair in final["jobMetrics"].split())
    assert 200_000 <= int(metrics["workDirSize"]) < 205_000, metrics


def test_space_is_watched_while_inputs_come(farm: Farm) -> None:
    gate = farm.gate("copyin")
    job = farm.submit_job("touch started", inputs=INPUTS)
    pilot = farm.start_gated(settings={**CHECKS, "pilot.free_space_limit_running": "1000 TB"})
    gate.reached()  # nobody opens it: the check breaks off the copy
    pilot.wait()
    diagnosis, _ = failed_by(farm, job, pilot, 1098)
    assert "setting pilot.free_space_limit_running)" in diagnosis


# --- mounts whose server has died -------------------------------------------------------------------------------------

def heartbeats(farm: Farm, job: int) -> int:
    return len(farm.server.job(job)["updates"])


def test_a_dead_mount_below_the_job_hides_nothing_and_holds_up_nothing(
    farm: Farm, dead: Callable[..., DeadMount]
) -> None:
    farm.set_queue(maxwdir=2)
    gate = farm.gate("payload")
    job = farm.submit_job(f"mkdir -p a/mount\npwd > {farm.directory}/where\n{gate.shell()}"
                          "head -c 3000000 /dev/zero > a/large\nexec sleep 1000", maxDiskCount=1)
    pilot = farm.start_pilot(settings={**CHECKS, "pilot.heartbeat": 1})
    gate.reached()
    workdir = Path((farm.directory / "where").read_text().strip())
    mount = dead(workdir / "a/mount", mute=True)
    before = heartbeats(farm, job)
    farm.server.wait(lambda: heartbeats(farm, job) > before + 2, 60)
    gate.open()
    pilot.wait()
    assert not mount.reads.is_set(), "somebody has touched the mount"
    mount.close()  # what follows looks through the pilot's directory
    diagnosis, _ = failed_by(farm, job, pilot, 1104)
    assert "is too large: " in diagnosis
    assert "a/mount: another file system" in pilot.output


def test_a_job_directory_on_a_dead_mount_stops_no_heartbeat(farm: Farm, dead: Callable[..., DeadMount]) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"pwd > {farm.directory}/where\n{gate.shell()}", log=False)
    pilot = farm.start_pilot(settings={**CHECKS, "pilot.heartbeat": 1, "monitor.cpu_interval": 1})
    gate.reached()
    mount = dead(Path((farm.directory / "where").read_text().strip()), mute=True)
    pilot.wait_output("a look at the job's directory has not come back for")
    before = heartbeats(farm, job)
    farm.server.wait(lambda: heartbeats(farm, job) > before + 2, 60)
    mount.close()
    pilot.wait_output("a look at the job's directory came back after")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    store = pilot.store()
    notes = [note.text for note in store.notes(str(job)) if note.topic == "files"]
    store.close()
    assert "has not come back for" in notes[0], notes
    assert farm.final(job)["state"] == "finished"


def test_a_directory_that_cannot_be_read_is_said(tmp_path: Path, dead: Callable[..., DeadMount]) -> None:
    (tmp_path / "job").mkdir()
    dead(tmp_path / "job")  # opens, and answers reading with an error
    view = WorkdirTracker(tmp_path / "job").look()
    assert (view.size, view.unread) == (0, 1)
