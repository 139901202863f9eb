"""``--status``: one screen for people, stable keys for programs, and no string of a stranger steers either."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from jobstory import SECRET, nasty_story, told_story

from pilot.report.status import FORMAT, status_document, status_text
from pilot.report.text import duration, size
from pilot.store.pilotdb import DATABASE_NAME, PilotDB

JOB_KEYS = {"id", "attempt", "transformation", "stage", "granted", "ended", "exit_code", "workdir", "result", "report",
            "stages", "story", "errors", "transfers", "worst_transfers", "running_transfers", "use", "limits", "notes"}
"""Programs depend on them: new ones may come, none may go."""


def test_one_screen_says_what_goes_on(tmp_path: Path) -> None:
    store, clock = told_story(tmp_path)
    text = status_text(store, True, clock.now)
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) < 400
    for words in ("queue TEST_QUEUE", "running", "stage-out  since", "job 7: log", "job 7  attempt 2  transform.py",
                  "received 0.0 s  stagein 40 s  payload 2 h 00 min  stageout for 2.0 s",
                  "payload: 1.90 cores, CPU 1 h 49 min, PSS 900 MB, 5 process(es)",
                  "limit memory: 4.00 GB, used 900 MB (22%)  (maxrss of the queue x 2)",
                  "limit time: 1 d 00 h, used 2 h 00 min (8%)",
                  "stage-in  big.root  420 B of 1.00 kB (42%)  42 B/s  for 10 s  by rucio",
                  "stage-in: 1 file(s), 4.00 GB in 38 s", "stage-in: 1 failed attempt(s)",
                  "cannot measure: smaps_rollup is not readable", "outbox: 0 message(s)"):
        assert words in text, f"{words}\n{text}"
    assert text.index("error 1305") < text.index("error 1137"), "the root cause stands first"
    store.close()


def test_a_dead_pilot_runs_nothing(tmp_path: Path) -> None:
    store, clock = told_story(tmp_path)
    text = status_text(store, False, clock.now + 1000)
    assert "died without an orderly end" in text and "stageout not ended" in text
    assert "big.root" not in text and "since" not in text
    store.close()


def test_the_keys_for_programs_stay(tmp_path: Path) -> None:
    store, clock = told_story(tmp_path)
    store.put_message("7", {"state": "failed", "jobId": 7}, final=True, state="failed")
    document = json.loads(json.dumps(status_document(store, True, clock.now)))
    assert set(document) >= {"format", "database", "problem", "at", "alive", "facts", "pilots", "components", "jobs",
                             "outbox", "traces_waiting"}
    assert (document["format"], document["alive"], document["problem"]) == (FORMAT, True, "")
    assert set(document["pilots"][0]) >= {"version", "pid", "host", "queue", "started", "ended", "exit_code"}
    assert document["components"][0].keys() >= {"name", "since", "line"}
    (job,) = document["jobs"]
    assert set(job) >= JOB_KEYS
    assert [(stage["name"], stage["seconds"]) for stage in job["stages"]] == [
        ("received", 0.0), ("stagein", 40.0), ("payload", 7200.0), ("stageout", 2.0)]
    assert [error["code"] for error in job["errors"]] == [1305, 1137]
    assert job["errors"][0].keys() >= {"at", "code", "diagnosis", "who", "retry", "evidence", "rank"}
    (copy,) = job["running_transfers"]
    assert (copy["lfn"], copy["bytes"], copy["total"]) == ("big.root", 420, 1000)
    assert job["use"].keys() >= {"at", "cpu", "cores", "rss", "processes", "pss", "swap", "read_bytes", "write_bytes",
                                 "workdir"}
    assert {limit["name"]: limit["used"] for limit in job["limits"]} == {"memory": 900000119.0, "time": 7200.0}
    assert job["report"] == {"state": "failed", "acknowledged": None, "last_error": ""}
    assert document["outbox"]["unacknowledged"] == 1
    assert document["outbox"]["messages"][0].keys() >= {"job", "state", "final", "created", "attempts", "last_error"}
    store.close()


def test_hostile_strings_steer_nothing(tmp_path: Path) -> None:
    store, clock = nasty_story(tmp_path, 1000)
    for text in (status_text(store, True, clock.now), json.dumps(status_document(store, True, clock.now))):
        assert not {"\x1b", "\x00", "\u202e", "\r"} & set(text)
        assert SECRET not in text
        assert len(text) < 1_000_000
    store.close()


def test_a_database_of_an_old_version_can_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    connection = sqlite3.connect(path)
    connection.executescript("""
        CREATE TABLE pilot (token TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, boot_id TEXT NOT NULL,
            version TEXT NOT NULL, queue TEXT NOT NULL DEFAULT '', base_url TEXT NOT NULL DEFAULT '',
            started REAL NOT NULL, ended REAL, exit_code INTEGER);
        CREATE TABLE jobs (job_id TEXT PRIMARY KEY, attempt INTEGER NOT NULL DEFAULT 0, token TEXT NOT NULL,
            granted REAL NOT NULL, state TEXT NOT NULL, workdir TEXT NOT NULL DEFAULT '',
            definition TEXT NOT NULL DEFAULT '', skeleton TEXT NOT NULL DEFAULT '',
            transformation TEXT NOT NULL DEFAULT '', exit_code INTEGER, timing TEXT NOT NULL DEFAULT '', ended REAL);
        CREATE TABLE samples (job_id TEXT NOT NULL, at REAL NOT NULL, cpu REAL NOT NULL, cores REAL NOT NULL,
            rss INTEGER NOT NULL, processes INTEGER NOT NULL);
        CREATE TABLE errors (job_id TEXT NOT NULL, at REAL NOT NULL, code INTEGER NOT NULL, diagnosis TEXT NOT NULL);
        INSERT INTO jobs VALUES ('7', 1, 't', 100.0, 'payload', '', '', '', 'old.sh', NULL, '', NULL);
        INSERT INTO samples VALUES ('7', 160.0, 50.0, 0.9, 1000000, 2);
        INSERT INTO errors VALUES ('7', 170.0, 1305, 'Failed to execute payload');
        """)
    connection.commit()
    connection.close()
    before = path.read_bytes()
    store = PilotDB(path, read_only=True)
    text = status_text(store, False, 200.0)
    assert "old.sh" in text and "error 1305: Failed to execute payload" in text
    document = status_document(store, False, 200.0)
    assert json.dumps(document)
    store.close()
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [DATABASE_NAME]


@pytest.mark.parametrize(("value", "words"), [
    (0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (90000, "1 d 01 h"), (-5, "0.0 s")])
def test_durations(value: float, words: str) -> None:
    assert duration(value) == words


@pytest.mark.parametrize(("value", "words"), [
    (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_960_000, "100 MB"), (999_600_000, "1.00 GB"), (5e15, "5000 TB")])
def test_sizes(value: float, words: str) -> None:
    assert size(value) == words
