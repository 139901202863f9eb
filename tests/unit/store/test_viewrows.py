"""The tables for views stay small however long a job runs, and lose no maximum."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from pilot.common.errors import JobError
from pilot.store.pilotdb import _TABLES, PilotDB
from pilot.store.viewrows import NOTES_KEPT, Limit, Moving, Sample

DAY = 86400
START = 1_760_000_000.0


class Clock:
    """A wall clock that the test sets."""

    now = START

    def __call__(self) -> float:
        return self.now


def size(path: Path) -> int:
    return sum(os.path.getsize(file) for file in path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("period", [60, 10])
def test_a_day_of_a_job_is_less_than_two_megabytes(tmp_path: Path, period: int) -> None:
    path, clock = tmp_path / "pilot.db", Clock()
    store = PilotDB(path, clock)
    store.begin("token", "1", "host")
    store.add_job("7", 1, "token", START, "{}" * 10_000, "x")
    largest = 0
    for number in range(DAY // period):
        clock.now = START + number * period
        peak = 9_000_000_000 if number == 5000 // period else 1_000_000_000 + number
        store.add_sample("7", Sample(clock.now, 0.9 * number * period, 1.0, peak, 3, read_bytes=number * 100))
        store.set_status("monitor", f"sample {number}")
        if number % 30 == 0:
            store.add_note("7", "memory", f"cannot measure: {number} " + "x" * 500)
            store.mark_delivered(store.put_message("7", {"n": "x" * 4000}, final=False, state="running"))
        if number % 100 == 0:
            largest = max(largest, size(path))
    assert 0 < largest < 2_000_000
    samples = store.samples("7")
    assert len(samples) < 1000
    assert max(sample.rss for sample in samples) == 9_000_000_000, "a peak that a limit is compared with stays"
    assert samples[-1].cpu == 0.9 * (DAY // period - 1) * period
    gaps = [later.at - sooner.at for sooner, later in zip(samples, samples[1:])]
    assert min(gaps) > 0 and max(gaps) <= 900
    assert [sample.cpu for sample in samples] == sorted(sample.cpu for sample in samples)
    first, last = NOTES_KEPT
    notes = store.notes("7")
    assert len(notes) <= first + last + last // 4
    assert notes[0].text.startswith("cannot measure: 0 ")
    store.close()


def test_a_clock_that_is_set_back_an_hour_costs_nothing_but_order(tmp_path: Path) -> None:
    clock = Clock()
    store = PilotDB(tmp_path / "pilot.db", clock)
    store.add_job("7", 1, "token", START, "{}", "x")
    for number in range(600):
        clock.now = START + number * 60 - (3600 if number > 300 else 0)
        store.add_sample("7", Sample(clock.now, 60.0 * number, 1.0, 1000 + number, 1))
        store.add_transition("7", "step", str(number))
    samples = store.samples("7")
    assert max(sample.cpu for sample in samples) == 60.0 * 599
    assert max(sample.rss for sample in samples) == 1599
    assert [state for _, _, state, _ in store.story("7")] == [str(number) for number in range(600)]
    assert not store.degraded
    store.close()


def test_progress_is_replaced_and_goes_with_its_end(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    slow = Moving("stage-in", "slow", "rucio", 1.0, 9.0, 10, 100)
    other = Moving("stage-out", "result", "mv", 2.0, 9.0, 0, 0)
    store.set_progress("7", "stage-in", [slow, slow._replace(lfn="b", began=0.5)])
    store.set_progress("8", "stage-out", [other])
    assert [copy.lfn for copy in store.progress("7")] == ["b", "slow"]
    store.set_progress("7", "stage-in", [slow._replace(bytes=50)])
    assert [(copy.lfn, copy.bytes) for copy in store.progress()] == [("slow", 50), ("result", 0)]
    store.set_progress("7", "stage-in", ())
    assert store.progress() == [other]
    store.begin("next", "1", "host")
    assert store.progress() == [], "copies of a process that is gone"
    store.close()


def fill(store: PilotDB) -> None:
    store.begin("token", "1", "host")
    store.set_facts({"node": "n1"})
    store.add_job("7", 1, "token", START, "{}", "x")
    store.add_error("7", JobError(1305, "failed"))
    store.add_transition("7", "accepted", "payload")
    store.add_transfer("7", "f", "stage-in", trace={"a": 1})
    store.flush()
    store.add_sample("7", Sample(START, 1.0, 1.0, 1, 1))
    store.set_limit("7", Limit("memory", 2.0, "bytes", "queue"))
    store.add_note("7", "memory", "cannot measure")
    store.set_status("job", "idle")
    store.put_message("7", {"n": 1}, final=True, state="failed")


def test_nothing_is_lost_when_the_disk_refuses_in_the_middle(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    fill(store)
    schema = Path(__file__).parents[3] / "pilot/store/schema.sql"
    connection = sqlite3.connect(":memory:")
    connection.executescript(schema.read_text())
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    assert set(_TABLES) == tables - {"progress", "sqlite_sequence"}, "a new table has to be listed"
    store._db.execute("PRAGMA query_only=ON")  # type: ignore[union-attr]
    store.set_status("job", "busy")
    assert store.degraded
    for table in _TABLES:
        assert store._query(f"SELECT COUNT(*) FROM {table}")[0][0] >= 1, table
    store.close()
    after = PilotDB(tmp_path / "pilot.db", read_only=True)
    assert [line for _, _, line in after.statuses()] == ["busy"], "written back at the end"
    after.close()
