"""The tables of the PilotDB that views for people are made from: samples, limits, notes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """What a payload has used at one moment; bytes, s. What is 0 from ``pss`` on is unknown."""

    at: float
    """Epoch s."""
    cpu: float
    """CPU s since its start."""
    cores: float
    """In use since the sample before."""
    rss: int
    processes: int
    pss: int = 0
    swap: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    workdir: int = 0
    """Bytes in the job's directory."""


class Limit(NamedTuple):
    """A limit of a job: ``memory`` (bytes), ``workdir`` (bytes), ``time`` (s), ``looping`` (s) ..."""

    name: str
    value: float
    unit: str
    origin: str
    """Where it comes from."""


class Note(NamedTuple):
    """What a check has to say beside errors."""

    at: float
    topic: str
    text: str


class ViewRows:
    """Part of the PilotDB; thread-safe."""

    _clock: Any

    def _execute(self, statement: str, values: Iterable[object] = ()) -> sqlite3.Cursor:
        raise NotImplementedError

    def _query(self, statement: str, values: Iterable[object] = ()) -> list[Any]:
        raise NotImplementedError

    def add_sample(self, job_id: str, sample: Sample) -> None:
        """Store one sample."""
        self._execute("INSERT INTO samples (job_id, at, cpu, cores, rss, processes, pss, swap, read_bytes, write_bytes,"
                      " workdir) VALUES (?,?,?,?,?,?,?,?,?,?,?)", (job_id, *sample))

    def samples(self, job_id: str) -> list[Sample]:
        """The samples of a job, oldest first."""
        return [Sample._make(row) for row in self._query(
            f"SELECT {','.join(Sample._fields)} FROM samples WHERE job_id=? ORDER BY at", (job_id,))]  # noqa: S608

    def set_limit(self, job_id: str, limit: Limit) -> None:
        """Store a limit of a job, once it is known; a later one replaces it."""
        self._execute("INSERT OR REPLACE INTO limits VALUES (?,?,?,?,?)", (job_id, *limit))

    def limits(self, job_id: str) -> list[Limit]:
        """The limits of a job by name."""
        return [Limit._make(row) for row in self._query(
            "SELECT name, value, unit, origin FROM limits WHERE job_id=? ORDER BY name", (job_id,))]

    def add_note(self, job_id: str, topic: str, text: str) -> None:
        """Store what a check has to say."""
        self._execute("INSERT INTO notes VALUES (?,?,?,?)", (job_id, self._clock(), topic, text))

    def notes(self, job_id: str) -> list[Note]:
        """What the checks had to say, oldest first."""
        return [Note._make(row) for row in self._query(
            "SELECT at, topic, text FROM notes WHERE job_id=? ORDER BY rowid", (job_id,))]
