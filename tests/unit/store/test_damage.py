"""A PilotDB that is removed, replaced, cut or overwritten while its owner works with it: it comes back, and says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from pilot.store.pilotdb import DATABASE_NAME, PilotDB

JOBS = [str(number) for number in range(40)]


def removed(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replaced(path: Path) -> None:
    other = PilotDB(path.with_name("other.db"))
    other.add_job("stranger", 1, "x", 1.0, "{}", "x")
    other.close()
    os.replace(other.path or "", path)


def cut(path: Path) -> None:
    os.truncate(path, 0)


def cut_journal(path: Path) -> None:
    os.truncate(f"{path}-wal", 100)


def journal_removed(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def overwritten(path: Path) -> None:
    with open(path, "r+b") as stream:
        stream.write(os.urandom(os.path.getsize(path)))


def journal_overwritten(path: Path) -> None:
    with open(f"{path}-wal", "r+b") as stream:
        stream.write(os.urandom(os.path.getsize(f"{path}-wal")))


def everything_overwritten(path: Path) -> None:
    overwritten(path)
    journal_overwritten(path)


def all_companions_cut(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        os.truncate(file, 0)


ACCIDENTS = [removed, replaced, cut, journal_removed, cut_journal, overwritten, journal_overwritten,
             everything_overwritten, all_companions_cut]


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_what_was_known_is_on_disk_again_with_the_next_report(tmp_path: Path, accident: Callable[[Path], None]) -> None:
    path = tmp_path / DATABASE_NAME
    store = PilotDB(path)
    store.begin("token", "1", "host")
    for job in JOBS:
        store.add_job(job, 1, "token", 100.0, "{}" * 200, "true")
        store.add_transition(job, "accepted", "payload")
    accident(path)
    store.put_message("7", {"n": 1}, final=True, state="finished")
    store.add_note("7", "memory", "still here")
    assert [entry.job_id for entry in store.undelivered()] == ["7"]
    assert {job.job_id for job in store.jobs()} == set(JOBS)
    # the pilot may be killed now: what is on disk tells it
    disk = PilotDB(path, read_only=True)
    assert [entry.job_id for entry in disk.undelivered()] == ["7"], disk.problem
    disk.close()
    assert path.stat().st_mode & 0o777 == 0o600
    store.mark_delivered(store.undelivered()[0].id)
    store.end("token", 0)
    store.close()
    after = PilotDB(path)
    assert {job.job_id for job in after.jobs()} == set(JOBS)
    assert after.undelivered() == []
    assert [job.job_id for job in after.unreported_jobs()] == [job for job in JOBS if job != "7"]
    after.close()


def test_no_file_is_mapped_into_the_process(tmp_path: Path) -> None:
    """A mapped file that somebody cuts ends the process with SIGBUS."""
    store = PilotDB(tmp_path / DATABASE_NAME)
    store.begin("token", "1", "host")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not list(tmp_path.glob("*-shm"))
    store.close()


def test_a_disk_that_damages_everything_is_not_tried_for_ever(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / DATABASE_NAME)
    store.begin("token", "1", "host")
    for number in range(8):
        overwritten(tmp_path / DATABASE_NAME)
        store.put_message(str(number), {"n": number}, final=True, state="finished")
    assert store.degraded
    assert len(list(tmp_path.glob("*.damaged-*"))) <= 3
    assert len(store.undelivered()) == 8
    store.close()


def test_garbage_can_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    path.write_bytes(os.urandom(50_000))
    before = path.read_bytes()
    view = PilotDB(path, read_only=True)
    assert view.jobs() == [] and "not a database" in view.problem
    view.close()
    assert path.read_bytes() == before


def test_looking_leaves_nothing_behind_and_disturbs_nobody(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    store = PilotDB(path)
    for job in JOBS:
        store.add_job(job, 1, "token", 100.0, "{}", "true")
        view = PilotDB(path, read_only=True)
        assert view.jobs()[-1].job_id == job or len(view.jobs()) == int(job) + 1
        view.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [path.name, f"{path.name}-wal"]
    os.chmod(tmp_path, 0o500)
    try:
        view = PilotDB(path, read_only=True)
        assert len(view.jobs()) == len(JOBS)
        view.close()
    finally:
        os.chmod(tmp_path, 0o700)
    store.close()
