"""The PilotDB: what is stored survives, what is superseded goes, and a disk that refuses stops nobody."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.store.pilotdb import DATABASE_NAME, OwnerLock, PilotDB, file_system_type


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DATABASE_NAME


def store_with_job(path: Path, job_id: str = "7") -> PilotDB:
    store = PilotDB(path)
    store.begin("token", "2.13.0.1", "host")
    store.add_job(job_id, 1, "token", 100.0, "{}", "true")
    return store


def test_what_is_stored_is_there_after_a_crash(path: Path) -> None:
    store = store_with_job(path)
    store.put_message("7", {"jobId": 7, "state": "finished"}, final=True, state="finished")
    # no close: the process is simply gone
    again = PilotDB(path, read_only=True)
    assert [entry.message for entry in again.undelivered()] == [{"jobId": 7, "state": "finished"}]
    assert [job.job_id for job in again.jobs()] == ["7"]


def test_kill_minus_nine_between_two_reports_loses_none(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pilot.store.pilotdb import PilotDB\n"
        "store = PilotDB(Path(sys.argv[1])); store.begin('t', 'v', 'h')\n"
        "for number in range(1, 51):\n"
        "    store.add_job(str(number), 1, 't', 1.0, '{}', 'x')\n"
        "    store.put_message(str(number), {'jobId': number}, final=True, state='finished')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n")
    path = tmp_path / DATABASE_NAME
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=os.getcwd(), check=False)
    assert done.returncode == -9
    assert [entry.job_id for entry in PilotDB(path).undelivered()] == [str(number) for number in range(1, 51)]


def test_stale_heartbeats_are_superseded_and_final_reports_are_not(path: Path) -> None:
    store = store_with_job(path)
    store.put_message("7", {"n": 1}, final=False, state="starting")
    store.put_message("7", {"n": 2}, final=False, state="running")
    assert [entry.message for entry in store.undelivered()] == [{"n": 2}]
    store.put_message("7", {"n": 3}, final=True, state="finished")
    assert [entry.message for entry in store.undelivered()] == [{"n": 3}], "the final report replaces the heartbeat"
    store.put_message("7", {"n": 4}, final=True, state="failed")
    assert [entry.message for entry in store.undelivered()] == [{"n": 3}], "the first final report stays"


def test_a_late_heartbeat_never_follows_the_final_report(path: Path) -> None:
    store = store_with_job(path)
    final = store.put_message("7", {"n": 1}, final=True, state="finished")
    assert store.put_message("7", {"n": 2}, final=False, state="running") == final
    assert [entry.message for entry in store.undelivered()] == [{"n": 1}]


def test_heartbeats_of_other_jobs_are_not_touched(path: Path) -> None:
    store = store_with_job(path)
    store.add_job("8", 1, "token", 100.0, "{}", "true")
    store.put_message("7", {"n": 1}, final=False, state="running")
    store.put_message("8", {"n": 2}, final=False, state="running")
    assert sorted(entry.job_id for entry in store.undelivered()) == ["7", "8"]


def test_a_new_attempt_of_a_job_may_report_again(path: Path) -> None:
    now = [100.0]
    store = PilotDB(path, clock=lambda: now[0])
    store.add_job("7", 1, "token", 100.0, "{}", "true")
    now[0] = 110.0
    store.put_message("7", {"attempt": 1}, final=True, state="failed")
    now[0] = 120.0
    store.add_job("7", 2, "token", 120.0, "{}", "true")
    assert [job.job_id for job in store.unreported_jobs()] == ["7"]
    store.put_message("7", {"attempt": 2}, final=True, state="finished")
    assert [entry.message for entry in store.undelivered()] == [{"attempt": 1}, {"attempt": 2}]


def test_final_reports_come_first(path: Path) -> None:
    store = store_with_job(path)
    store.add_job("8", 1, "token", 100.0, "{}", "true")
    store.put_message("7", {"n": 1}, final=False, state="running")
    store.put_message("8", {"n": 2}, final=True, state="finished")
    assert [entry.job_id for entry in store.undelivered()] == ["8", "7"]


def test_delivered_and_refused_messages_are_not_offered_again(path: Path) -> None:
    store = store_with_job(path)
    store.add_job("8", 1, "token", 100.0, "{}", "true")
    first = store.put_message("7", {"n": 1}, final=True, state="finished")
    second = store.put_message("8", {"n": 2}, final=True, state="finished")
    store.mark_attempt(first, "server down")
    assert store.undelivered()[0].attempts == 1
    store.mark_delivered(first)
    store.mark_refused(second, "Invalid job status")
    assert store.undelivered() == []
    assert store.unacknowledged() == 1, "a refused report was not acknowledged"


def test_jobs_without_a_final_report_are_found(path: Path) -> None:
    store = store_with_job(path)
    store.add_job("8", 1, "other", 100.0, "{}", "true")
    store.put_message("7", {"n": 1}, final=True, state="finished")
    assert [job.job_id for job in store.unreported_jobs()] == ["8"]
    assert store.unreported_jobs("other") == [], "a living pilot's own jobs are left alone"


def test_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    old = os.umask(0)
    try:
        PilotDB(path).close()
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_put_aside(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)
    store = store_with_job(path)
    assert not store.degraded
    assert list(path.parent.glob("pilot.db.damaged-*"))


def test_a_directory_that_cannot_be_written_keeps_the_outbox_in_memory(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "missing" / DATABASE_NAME)
    assert store.degraded
    store.add_job("7", 1, "token", 100.0, "{}", "true")
    store.put_message("7", {"n": 1}, final=True, state="finished")
    assert len(store.undelivered()) == 1
    store.close()


def test_reports_survive_a_database_that_fails_in_the_middle(path: Path) -> None:
    store = store_with_job(path)
    store.put_message("7", {"n": 1}, final=True, state="finished")
    # from here on every write fails, as on a full disk
    store._db.execute("PRAGMA query_only=ON")  # type: ignore[union-attr]
    store.add_job("8", 1, "token", 100.0, "{}", "true")
    store.put_message("8", {"n": 2}, final=True, state="finished")
    assert store.degraded
    assert [entry.job_id for entry in store.undelivered()] == ["7", "8"]
    store.close()
    assert [entry.job_id for entry in PilotDB(path).undelivered()] == ["7", "8"], "written back when the disk permits"


def test_a_view_changes_nothing(path: Path) -> None:
    store_with_job(path).close()
    before = path.read_bytes()
    view = PilotDB(path, read_only=True)
    assert [job.job_id for job in view.jobs()] == ["7"]
    view.close()
    assert path.read_bytes() == before


def test_the_lock_tells_whether_the_owner_lives(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pilot.store.pilotdb import OwnerLock\n"
        "lock = OwnerLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()\n")
    owner = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "True\n"
    assert not OwnerLock(path).acquire()
    owner.kill()
    owner.wait()
    lock = OwnerLock(path)
    assert lock.acquire(), "the kernel drops the lock with the process"
    lock.release()
    owner.stdout.close()


def test_a_child_process_does_not_keep_the_lock(path: Path) -> None:
    lock = OwnerLock(path)
    assert lock.acquire()
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        assert OwnerLock(path).acquire()
    finally:
        child.kill()
        child.wait()


def test_file_system_types_are_read_from_the_mount_table() -> None:
    assert file_system_type(Path("/proc/self/mounts")) == "proc"


def test_status_lines_are_kept_per_component(path: Path) -> None:
    store = store_with_job(path)
    store.set_status("data", "stage-in")
    store.set_status("data", "idle")
    assert [(component, line) for component, _, line in store.statuses()] == [("data", "idle")]


def test_the_schema_is_one_that_sqlite_accepts() -> None:
    import pilot.store.pilotdb as module

    connection = sqlite3.connect(":memory:")
    connection.executescript(Path(module.__file__).with_name("schema.sql").read_text())
    assert connection.execute("SELECT COUNT(*) FROM outbox").fetchone() == (0,)


def test_a_file_that_is_removed_below_us_comes_back_with_the_report(path: Path) -> None:
    store = store_with_job(path)
    for name in ("pilot.db", "pilot.db-wal", "pilot.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    store.put_message("7", {"n": 1}, final=True, state="finished")
    # the pilot may be killed now: what is on disk tells it
    assert [entry.job_id for entry in PilotDB(path, read_only=True).undelivered()] == ["7"]
    assert path.stat().st_mode & 0o777 == 0o600
    store.mark_delivered(store.undelivered()[0].id)
    store.close()
    after = PilotDB(path)
    assert after.undelivered() == [] and after.unreported_jobs() == []


def test_nobody_can_lock_the_database_of_a_living_pilot(path: Path) -> None:
    store = store_with_job(path)
    attempt = ("import sqlite3, sys; other = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n"
               "try:\n    other.execute('BEGIN EXCLUSIVE')\nexcept sqlite3.OperationalError as exc: print(exc)")
    for number in range(3):
        said = subprocess.run([sys.executable, "-c", attempt, str(path)], capture_output=True, text=True, check=True)
        assert "locked" in said.stdout
        store.put_message(str(number), {"n": number}, final=True, state="finished")  # has a look at the file, too
    assert not store.degraded
    store.close()


def test_a_view_needs_no_lock(path: Path) -> None:
    store = store_with_job(path)
    view = PilotDB(path, read_only=True)
    assert [job.job_id for job in view.jobs()] == ["7"]
    view.close()
    store.close()


def test_reports_that_cannot_go_into_a_locked_file_go_beside_it(path: Path) -> None:
    store_with_job(path).close()
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("PRAGMA locking_mode=EXCLUSIVE")
    blocker.execute("PRAGMA journal_mode=DELETE")
    blocker.execute("BEGIN EXCLUSIVE")
    store = PilotDB(path)
    store.add_job("8", 1, "token", 100.0, "{}", "true")
    store.put_message("8", {"n": 2}, final=True, state="finished")
    store.close()
    blocker.close()
    beside = list(path.parent.glob("pilot-*.db"))
    assert [entry.job_id for file in beside for entry in PilotDB(file).undelivered()] == ["8"]
    assert [job.job_id for job in PilotDB(path).jobs()] == ["7"], "what was there is not overwritten"
