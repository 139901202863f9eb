"""Transfers and traces in the PilotDB: cheap, kept until sent, bounded; databases of older versions still work."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.common.errors import ErrorList
from pilot.store import transferrows
from pilot.store.opening import open_view
from pilot.store.pilotdb import DATABASE_NAME, PilotDB
from pilot.store.transferrows import BATCH

ROOT = Path(__file__).parents[3]
TRACE = {"filename": "f", "clientState": "DONE"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / DATABASE_NAME


def add(store: PilotDB, number: int, trace: bool = True) -> None:
    store.add_transfer("7", f"f{number}", "stage-in", tool="rucio", status="DONE", size=number,
                       transfer_id=f"7.1.in.f{number}.1", trace={**TRACE, "filename": f"f{number}"} if trace else None)


def raw(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = open_view(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def old_database(path: Path) -> None:
    """A database as the version before transfer ids and traces made it."""
    connection = sqlite3.connect(path)
    connection.executescript("""
        CREATE TABLE pilot (token TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, boot_id TEXT NOT NULL,
            version TEXT NOT NULL, queue TEXT NOT NULL DEFAULT '', base_url TEXT NOT NULL DEFAULT '',
            started REAL NOT NULL, ended REAL, exit_code INTEGER);
        CREATE TABLE transfers (job_id TEXT NOT NULL, lfn TEXT NOT NULL, direction TEXT NOT NULL,
            tool TEXT NOT NULL DEFAULT '', at REAL NOT NULL, seconds REAL NOT NULL DEFAULT 0,
            bytes INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL, code INTEGER NOT NULL DEFAULT 0,
            detail TEXT NOT NULL DEFAULT '', checksum TEXT NOT NULL DEFAULT '');
        CREATE TABLE errors (job_id TEXT NOT NULL, at REAL NOT NULL, code INTEGER NOT NULL, diagnosis TEXT NOT NULL);
        INSERT INTO errors VALUES ('7', 1.0, 1099, 'Failed to stage-in file: gone');
        INSERT INTO transfers VALUES ('7', 'old', 'stage-in', 'mv', 1.0, 0.5, 10, 'DONE', 0, 'OK', '');
        """)
    connection.commit()
    connection.close()


def test_a_transfer_comes_back_with_its_id(path: Path) -> None:
    store = PilotDB(path)
    add(store, 1)
    (row,) = store.transfers("7")
    assert (row["lfn"], row["transfer_id"], row["bytes"]) == ("f1", "7.1.in.f1.1", 1)


def test_many_transfers_share_transactions_and_are_all_there_at_the_end(path: Path) -> None:
    store = PilotDB(path)
    changes = []
    store._db.set_trace_callback(lambda text: changes.append(text) if text.startswith("BEGIN") else None)  # type: ignore[union-attr]
    for number in range(3 * BATCH):
        add(store, number)
    store.close()
    assert len(changes) < 3 * BATCH / 10
    assert raw(path, "SELECT COUNT(*) FROM transfers") == [(3 * BATCH,)]
    assert raw(path, "SELECT COUNT(*) FROM traces") == [(3 * BATCH,)]


def test_any_other_use_of_the_database_stores_what_waits(path: Path) -> None:
    store = PilotDB(path)
    for number in range(5):
        add(store, number)
    store.set_status("data", "working")
    assert raw(path, "SELECT COUNT(*) FROM transfers") == [(5,)]


def test_a_kill_after_the_next_step_of_the_job_loses_no_transfer(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pilot.store.pilotdb import PilotDB\n"
        "store = PilotDB(Path(sys.argv[1])); store.add_job('7', 1, 't', 1.0, '{}', 'x')\n"
        "for number in range(700):\n"
        "    store.add_transfer('7', f'f{number}', 'stage-in', status='DONE', trace={'n': number})\n"
        "store.add_transition('7', 'staged in', 'setup')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    again = PilotDB(path)
    assert len(again.transfers("7")) == 700
    assert [entry.trace["n"] for entry in again.open_traces(1000)] == list(range(700))


def test_traces_wait_until_they_are_sent(path: Path) -> None:
    store = PilotDB(path)
    for number in range(3):
        add(store, number)
    first, second, third = store.open_traces(10)
    assert (first.job_id, first.transfer_id, first.trace["filename"]) == ("7", "7.1.in.f0.1", "f0")
    store.mark_traces_sent([first.id])
    store.mark_traces_failed([second.id], "HTTP 500")
    store.close()
    again = PilotDB(path)
    assert [entry.id for entry in again.open_traces(10)] == [third.id, second.id], "what failed goes last"
    again.mark_traces_dropped([third.id], "HTTP 400: bad")
    assert [entry.id for entry in again.open_traces(10)] == [second.id]
    assert again.waiting_traces() == 1
    again.close()
    assert raw(path, "SELECT trace='', sent IS NULL, last_error FROM traces ORDER BY id") == [
        (1, 0, ""), (0, 1, "HTTP 500"), (1, 1, "HTTP 400: bad")]


def test_more_traces_than_may_wait_push_the_oldest_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transferrows, "TRACE_LIMIT", 10)
    store = PilotDB(path)
    with caplog.at_level(logging.WARNING):
        for number in range(25):
            add(store, number)
            store.flush()
    assert [entry.trace["filename"] for entry in store.open_traces(100)] == [f"f{number}" for number in range(15, 25)]
    assert len(store.transfers("7")) == 25
    assert len([record for record in caplog.records if "dropped" in record.message]) == 2


def test_a_disk_that_refuses_loses_no_trace(path: Path) -> None:
    store = PilotDB(path)
    add(store, 1)
    store._db.execute("DROP TABLE transfers")  # type: ignore[union-attr]  # stands for any refusal of the disk
    add(store, 2)
    assert store.degraded or store.waiting_traces()
    assert [entry.trace["filename"] for entry in store.open_traces(10)] == ["f1", "f2"]


def test_names_that_are_no_text_are_stored(path: Path) -> None:
    store = PilotDB(path)
    name = b"f\xff".decode("utf-8", "surrogateescape")
    store.add_transfer("7", name, "stage-out", status="DONE", transfer_id=f"7.1.out.{name}.1", trace={"filename": name})
    (row,) = store.transfers("7")
    assert row["lfn"] == r"f\udcff"
    assert len(store.open_traces(1)) == 1


def test_a_database_of_the_previous_version_is_extended(path: Path) -> None:
    old_database(path)
    store = PilotDB(path)
    add(store, 1)
    assert not store.degraded
    assert [(row["lfn"], row["transfer_id"]) for row in store.transfers("7")] == [("old", ""), ("f1", "7.1.in.f1.1")]
    assert store.waiting_traces() == 1
    errors = ErrorList()
    errors.add(1305, "exit code 7", who="site", retry="elsewhere", evidence="rule x: payload.stderr line 3",
               rank=6)
    store.add_error("7", next(iter(errors)))
    assert [row[1:] for row in store.errors("7")] == [
        (1099, "Failed to stage-in file: gone", "", "", "", None),
        (1305, "Failed to execute payload: exit code 7", "site", "elsewhere", "rule x: payload.stderr line 3", 6),
    ]


def test_a_database_of_the_previous_version_can_be_looked_at(path: Path) -> None:
    old_database(path)
    view = PilotDB(path, read_only=True)
    assert [(row["lfn"], row["transfer_id"]) for row in view.transfers("7")] == [("old", "")]
    assert view.waiting_traces() == 0
    assert [row[1:] for row in view.errors("7")] == [(1099, "Failed to stage-in file: gone", "", "", "", None)]
    connection = sqlite3.connect(path)
    names = {row[1] for row in connection.execute("PRAGMA table_info(transfers)")}
    connection.close()
    assert "transfer_id" not in names, "only looked at"
