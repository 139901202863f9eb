"""Stage-in, stage-out and log on disks that are full, read-only, or another one than expected; and cancelled work."""

from __future__ import annotations

import os
import random
import resource
import tarfile
from pathlib import Path
from threading import Event, Thread
from typing import Any, Callable

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction, ToolConfig, Transfer
from pilot.copytool.mv import MoveTool
from pilot.info.filespec import FileSpec
from pilot.staging.context import TransferRecord
from pilot.staging.joblog import create_log_archive
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.archive import NOTES
from pilot.util.cancel import CancelledError, CancelToken
from tests.disks import limited

MB = 1 << 20


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311


def no_part_files(*directories: Path) -> bool:
    return not [path for directory in directories for path in directory.rglob("*.part")]


def test_a_disk_that_fills_up_during_stage_in(site: Any, small_disk: Path) -> None:
    site.job.workdir = small_disk
    site.input("first", noise(3 * MB // 2))
    site.input("second", noise(5 * MB // 2))
    context = site.context({**site.with_mv(copy_in="cp"), "maxinputsize": -1}, transfers__parallel=2)
    with limited(small_disk), pytest.raises(PilotException) as caught:
        stage_in(site.job, context, CancelToken())
    assert caught.value.code == 1098
    assert no_part_files(small_disk)
    assert not (small_disk / "second").exists()


def test_a_disk_without_room_is_noticed_before_the_first_copy(site: Any, small_disk: Path) -> None:
    site.job.workdir = small_disk
    for number in range(3):
        site.input(f"in.{number}", noise(MB))
    used = os.statvfs(small_disk)
    reserve = used.f_bavail * used.f_frsize
    with pytest.raises(PilotException) as caught:
        stage_in(site.job, site.context(site.with_mv(copy_in="cp"), limits__reserve_space=reserve), CancelToken())
    assert caught.value.code == 1098
    assert {(record.code, record.seconds) for record in site.records} == {(1098, 0.0)}
    assert os.listdir(small_disk) == []


def test_a_full_destination_keeps_the_output(site: Any, small_disk: Path) -> None:
    kind = "mv" if os.path.ismount(small_disk) else "cp"  # a rename needs no space
    data = noise(3 * MB)
    spec = site.output("out.root", data)
    context = site.context(site.with_mv(copy_out=kind), {"output_dir": str(small_disk)})
    with limited(small_disk), pytest.raises(PilotException) as caught:
        stage_out(site.job, [spec], context, CancelToken(), log=False)
    assert caught.value.code == 1333
    assert "out.root" in caught.value.detail and "free: " in caught.value.detail
    assert (site.workdir / "out.root").read_bytes() == data
    assert os.listdir(small_disk) == []


def test_a_move_to_another_disk_is_copy_verify_unlink(site: Any, other_disk: Path) -> None:
    data = noise(9 * MB)
    spec = site.output("out.root", data)
    stage_out(site.job, [spec], site.context(options={"output_dir": str(other_disk)}), CancelToken(), log=False)
    assert (other_disk / "out.root").read_bytes() == data
    assert not (site.workdir / "out.root").exists()


def test_an_input_moved_from_another_disk_is_verified_before_it_is_removed_there(site: Any, other_disk: Path) -> None:
    site.input("good", noise(MB), where=other_disk)
    site.input("bad", noise(MB), where=other_disk, checksum={"adler32": "00000002"})
    context = site.context(site.with_mv(copy_in="mv"), {"input_dir": str(other_disk)})
    with pytest.raises(PilotException) as caught:
        stage_in(site.job, context, CancelToken())
    assert caught.value.code == 1171
    assert sorted(os.listdir(other_disk)) == ["bad"]
    assert os.listdir(site.workdir) == ["good"]


@pytest.mark.parametrize("kind", ["symlink", "cp"])
def test_a_read_only_work_directory_fails_the_stage_in(site: Any, read_only_disk: Path, kind: str) -> None:
    site.job.workdir = read_only_disk
    site.input("in.root")
    with pytest.raises(PilotException) as caught:
        stage_in(site.job, site.context(site.with_mv(copy_in=kind)), CancelToken())
    assert caught.value.code in (1098, 1099)
    assert str(read_only_disk) in caught.value.detail


def test_a_read_only_destination_is_a_directory_that_cannot_be_made(site: Any, read_only_disk: Path) -> None:
    spec = site.output("out.root")
    context = site.context(options={"output_dir": str(read_only_disk / "new")})
    with pytest.raises(PilotException) as caught:
        stage_out(site.job, [spec], context, CancelToken(), log=False)
    assert caught.value.code == 1199
    assert (site.workdir / "out.root").exists()


def test_a_log_on_a_full_disk_arrives_reduced(
    make_site: Callable[[Path], Any], small_disk: Path, tmp_path: Path
) -> None:
    site = make_site(tmp_path / "site")
    site.home = small_disk
    (small_disk / "pilotlog.txt").write_text("the pilot's last words")
    (site.workdir / "payload.stdout").write_bytes(b"o" * (3 * MB) + b"payload's last words")
    (site.workdir / "bulk").write_bytes(noise(5 * MB))
    site.job.logdata = [FileSpec("log.tgz", "log")]
    with limited(small_disk):
        spec = create_log_archive(site.job, site.context(), CancelToken())
    assert spec is not None
    with tarfile.open(small_disk / "log.tgz") as tar:
        content = {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert content["pilotlog.txt"] == b"the pilot's last words"
    assert content["payload.stdout"].endswith(b"payload's last words")
    assert len(content["payload.stdout"]) == MB
    assert b"this is a reduced archive" in content[NOTES]
    assert "bulk" not in content
    assert no_part_files(small_disk)


def test_a_log_on_a_read_only_disk_is_a_log_creation_failure(site: Any, read_only_disk: Path) -> None:
    site.home = read_only_disk
    site.job.logdata = [FileSpec("log.tgz", "log")]
    context = site.context()
    with pytest.raises(PilotException) as caught:
        create_log_archive(site.job, context, CancelToken())
    assert caught.value.code == 1320


def test_a_cancel_in_mid_copy_leaves_no_part_file(site: Any) -> None:
    with open(site.home / "big", "wb") as out:
        out.truncate(512 * MB)
    token = CancelToken()
    tool = MoveTool(ToolConfig(options={"copy_in": "cp"}, pilot_home=site.home, launch_dir=site.launch))
    order = Transfer(Direction.IN, "big", site.workdir / "big", size=512 * MB, checksum={"adler32": "1"})
    with pytest.raises(CancelledError):
        tool.copy_in(order, token, lambda _count: token.cancel(1201, "SIGTERM") and None)
    assert os.listdir(site.workdir) == []


def test_a_cancel_stops_all_transfers_side_by_side(site: Any) -> None:
    for number in range(3):
        with open(site.home / f"big.{number}", "wb") as out:
            out.truncate(2048 * MB)
        site.job.indata.append(FileSpec(f"big.{number}", filesize=2048 * MB, checksum={"adler32": "1"}))
    site.job.indata.insert(0, FileSpec("missing", filesize=1))
    token = CancelToken()
    context = site.context({**site.with_mv(copy_in="cp"), "maxwdir": 0})

    def record(entry: TransferRecord) -> None:
        site.records.append(entry)
        token.cancel(1144, "killed by the server")

    context.record = record
    with pytest.raises(CancelledError) as caught:
        stage_in(site.job, context, token)
    assert caught.value.code == 1144
    assert os.listdir(site.workdir) == []
    assert not [spec for spec in site.job.indata if spec.status == "transferred"]


def test_memory_stays_flat_while_a_large_file_is_copied(site: Any) -> None:
    with open(site.home / "big", "wb") as out:
        out.truncate(300 * MB)
    site.input("warm-up", noise(9 * MB))
    site.job.indata.append(FileSpec("big", filesize=300 * MB))
    spec = site.output("out", noise(64))
    context = site.context(site.with_mv(copy_in="cp", copy_out="cp"))
    os.truncate(site.workdir / "out", 300 * MB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stage_in(site.job, context, CancelToken())
    stage_out(site.job, [spec], context, CancelToken(), log=False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (site.workdir / "big").stat().st_size == spec.filesize == 300 * MB
    assert grown < 40 * 1024, f"peak memory grew by {grown} kB"


def test_a_huge_log_is_archived_without_holding_it_in_memory(site: Any) -> None:
    block = b"a line of the payload's output\n" * 40_000
    with open(site.workdir / "payload.stdout", "wb") as out:
        for _ in range(100):
            out.write(block)
    site.job.logdata = [FileSpec("log.tgz", "log")]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    create_log_archive(site.job, site.context(), CancelToken())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 * 1024, f"peak memory grew by {grown} kB"


def test_a_log_of_a_directory_that_changes_all_the_time_is_readable(site: Any) -> None:
    stop = Event()

    def churn() -> None:
        rng = random.Random(7)
        while not stop.is_set():
            path = site.workdir / f"file.{rng.randrange(40)}"
            if rng.random() < 0.4:
                path.unlink(missing_ok=True)
            elif rng.random() < 0.5 and path.exists():
                os.truncate(path, rng.randrange(1000))
            else:
                path.write_bytes(noise(rng.randrange(200_000)))

    for number in range(40):
        (site.workdir / f"file.{number}").write_bytes(noise(100_000 + number))
    site.job.logdata = [FileSpec("log.tgz", "log")]
    thread = Thread(target=churn)
    thread.start()
    try:
        for _ in range(5):
            assert create_log_archive(site.job, site.context(), CancelToken()) is not None
            with tarfile.open(site.home / "log.tgz") as tar:
                for member in tar:
                    source = tar.extractfile(member)
                    assert source is not None
                    assert len(source.read()) == member.size
    finally:
        stop.set()
        thread.join()
