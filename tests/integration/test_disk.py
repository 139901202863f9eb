"""Disks that are full or read-only, at the start and under a running job: real small file systems made by the test."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from harness import Farm
from looks import archive, ended_well, report_of

TIGHT = {"pilot.free_space_limit": "1 kB", "pilot.free_space_limit_running": "1 kB"}
"""Start all the same: what is tested comes later."""

Mount = Callable[[int], Path]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """Makes file systems of so many bytes; pilots can be launched on them."""
    made: list[Path] = []

    def make(size: int) -> Path:
        path = tmp_path / f"disk{len(made)}"
        path.mkdir()
        try:
            mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no right to mount file systems here")
        made.append(path)
        return path

    yield make
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


def submit(farm: Farm, payload: str = "true", **how: Any) -> int:
    """Submit a job that the server gives to nodes with little space."""
    return farm.submit_job(payload, maxDiskCount=1, **how)


FILL = "dd if=/dev/zero of=ballast bs=64k 2> /dev/null; dd if=/dev/zero of=ballast2 bs=1 count=4096 2> /dev/null"


def test_too_little_space_at_the_start_asks_for_no_job(farm: Farm, disk: Mount) -> None:
    submit(farm)
    pilot = farm.run_pilot(directory=disk(4 << 20), settings={"pilot.free_space_limit": "1 GB"})
    ended_well(pilot, 69)
    assert "too little space left" in pilot.output
    assert "acquire_jobs" not in [request.operation for request in farm.server.requests]


@pytest.mark.parametrize("copy_in", ["cp", "symlink"])
def test_inputs_that_do_not_fit(farm: Farm, disk: Mount, copy_in: str) -> None:
    farm.set_queue(copytools={"mv": {"copy_in": copy_in}})
    job = submit(farm, "cat in.dat | wc -c", inputs={"in.dat": bytes(6 << 20)})
    ended_well(farm.run_pilot(directory=disk(4 << 20), settings=TIGHT))
    final = farm.final(job)
    if copy_in == "symlink":  # takes no space
        assert final["state"] == "finished", final["pilotErrorDiag"]
    else:
        assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1098)
        assert "6291456" in final["pilotErrorDiag"]
        assert list(report_of(final)) == [farm.server.job(job)["definition"]["logFile"]]


def test_payload_that_fills_the_disk_and_says_so(farm: Farm, disk: Mount) -> None:
    job = submit(farm, "dd if=/dev/zero of=ballast bs=64k || exit 4", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot(directory=disk(4 << 20), settings=TIGHT))
    final = farm.final(job)
    assert (final["state"], int(final["transExitCode"])) == ("failed", 4)
    assert int(final["pilotErrorCode"]) == 1098, (final["pilotErrorDiag"], pilot.output[-2000:])
    assert "the disk is full" in final["pilotErrorDiag"] or "No space left" in final["pilotErrorDiag"]


def test_payload_that_fills_the_disk_in_silence(farm: Farm, disk: Mount) -> None:
    job = submit(farm, f"echo result > out.dat\n{FILL}\ntrue", outputs=["out.dat"], log=False)
    ended_well(farm.run_pilot(directory=disk(4 << 20), settings=TIGHT))
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert (farm.outputs / "out.dat").read_text() == "result\n"
    farm.server.run_adder()
    assert farm.state(job) == "finished"


@pytest.mark.parametrize("pod", [False, True])
def test_payload_that_takes_the_last_space_is_ended_while_there_is_room_for_its_log(
    farm: Farm, disk: Mount, pod: bool
) -> None:
    job = submit(farm, "head -c 7000000 /dev/zero > ballast; echo done; exec sleep 1000",
                 inputs={"in.dat": bytes(100_000)})
    space = {"storageLimitMiB": "8", "storageRequestMiB": "1"} if pod else {}
    pilot = farm.run_pilot(directory=disk(64 << 20 if pod else 8 << 20), env=space, settings={
        "pilot.free_space_limit": "1 kB", "limits.reserve_space": "1 kB", "pilot.free_space_limit_running": "2 MB",
        "pilot.disk_space_verification_time": 1})
    ended_well(pilot)
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1098), final["pilotErrorDiag"]
    assert "too little space left on local disk to run job: " in final["pilotErrorDiag"]
    assert "(need > 2097152 B, setting pilot.free_space_limit_running" in final["pilotErrorDiag"]
    assert ("storageLimitMiB=8" in final["pilotErrorDiag"]) is pod
    assert "7000000 B (7" in pilot.output, "what is large is in the log"
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert "in.dat" not in members and "payload.stdout" in members
    assert farm.payload_processes() == []


def test_no_space_for_the_log_fails_the_job_with_its_own_code(farm: Farm, disk: Mount) -> None:
    job = submit(farm, f"echo result > out.dat\n{FILL}\ntrue", outputs=["out.dat"])
    ended_well(farm.run_pilot(directory=disk(4 << 20), settings=TIGHT))
    final = farm.final(job)
    # either the output's place was enough for the log, or its loss is told
    if final["state"] == "failed":
        assert int(final["pilotErrorCode"]) == 1320, final["pilotErrorDiag"]
        assert "No space left" in final["pilotErrorDiag"]
    else:
        assert archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def test_reports_leave_from_a_full_disk_while_the_server_is_away(farm: Farm, disk: Mount) -> None:
    gate = farm.gate("payload")
    job = submit(farm, f"{FILL}\n{gate.shell()}", log=False)
    pilot = farm.start_pilot(directory=disk(4 << 20), settings={**TIGHT, "pilot.heartbeat": 1})
    gate.reached()
    fault = farm.server.faults.add("update_job", "http_503", times=5)
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert fault.hits == 5
    assert farm.final(job)["state"] == "finished"


def test_full_output_directory(farm: Farm, disk: Mount) -> None:
    place = disk(1 << 20)
    job = submit(farm, "head -c 3000000 /dev/urandom > out.dat", outputs=["out.dat"])
    ended_well(farm.run_pilot("--output-dir", str(place)))
    final = farm.final(job)
    assert final["state"] == "failed"
    assert int(final["pilotErrorCode"]) == 1333, final["pilotErrorDiag"]
    assert "space" in final["pilotErrorDiag"].lower()
    assert "out.dat" not in report_of(final)
    assert not (place / "out.dat").exists(), "no half copies"


@pytest.mark.parametrize("where", [".", "..", ". .."])
@pytest.mark.parametrize("log", [True, False])
def test_directories_that_become_read_only_under_the_job(farm: Farm, where: str, log: bool) -> None:
    job = submit(farm, f"echo result > out.dat; chmod 555 {where}", outputs=["out.dat"], log=log)
    # without these capabilities the permissions of its own files bind root, too
    pilot = farm.run_pilot(prefix=["setpriv", "--bounding-set=-dac_override,-dac_read_search"], settings=TIGHT)
    ended_well(pilot)
    final = farm.final(job)
    if final["state"] == "finished":
        assert (farm.outputs / "out.dat").read_text() == "result\n"
    else:
        assert int(final["pilotErrorCode"]) in (1137, 1320), final["pilotErrorDiag"]
        assert "ermission denied" in final["pilotErrorDiag"], final["pilotErrorDiag"]
    for directory in pilot.directory.glob("**/"):
        directory.chmod(0o755)


@pytest.mark.parametrize("options", [(), ("-a", "work")])
def test_launch_directory_that_is_read_only(farm: Farm, disk: Mount, options: tuple[str, ...]) -> None:
    job = submit(farm)
    place = disk(4 << 20)
    mount("-o", "remount,ro", str(place))
    command = farm.command(*options)
    done = subprocess.run(command, cwd=place, env=farm.environment(), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode not in (0, 1), done.stdout[-3000:]
    assert "not writable" in done.stderr or "ead-only" in done.stderr, done.stderr
    assert farm.state(job) == "activated", "no job is taken that cannot be run"


def test_job_directory_that_cannot_be_made(farm: Farm) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    job = submit(farm, "echo it ran")
    (launch / f"PanDA_Pilot-{job}").write_text("a file in its place")
    ended_well(farm.run_pilot(directory=launch))
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1199), final["pilotErrorDiag"]
