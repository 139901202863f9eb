"""The tables of the PilotDB that views for people are made from: samples, limits, notes, progress of copies.

They stay small however long a job runs: samples become fewer as they age, of notes the first and the last are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

if TYPE_CHECKING:
    import sqlite3  # programs that use the transfers only do not load it

_TIERS = ((600.0, 60.0), (7200.0, 300.0), (86400.0, 900.0))
"""(age of a sample in s, from then on one per so many s)."""
_THIN_EVERY = 50
"""Samples between two times of thinning."""
NOTES_KEPT = (100, 400)
"""First and last notes of a job that are kept."""
_NOTE_LENGTH = 2000


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


class Moving(NamedTuple):
    """A copy that has been running for some seconds."""

    direction: str
    """``stage-in`` or ``stage-out``."""
    lfn: str
    tool: str
    began: float
    """Epoch s."""
    at: float
    """Epoch s of ``bytes``."""
    bytes: int
    """Moved so far; 0 = its tool does not tell."""
    total: int
    """Bytes; 0 = not known."""


class ViewRows:
    """Part of the PilotDB; thread-safe."""

    _clock: Any
    _lock: RLock
    _db: Optional[sqlite3.Connection]

    def __init__(self) -> None:
        super().__init__()
        self._added: dict[str, int] = {}
        """Samples and notes since the last time that there were made fewer, per job and kind."""
        self.newest: dict[str, Sample] = {}
        """The latest sample of each job of this process; looking here costs no query."""
        self.moving: dict[tuple[str, str], Sequence[Moving]] = {}
        """(job, direction) -> its long copies that run now."""

    def _execute(self, statement: str, values: Iterable[object] = ()) -> sqlite3.Cursor:
        raise NotImplementedError

    def _query(self, statement: str, values: Iterable[object] = ()) -> list[Any]:
        raise NotImplementedError

    def _lost_file(self) -> None:
        raise NotImplementedError

    def add_sample(self, job_id: str, sample: Sample) -> None:
        """Store one sample."""
        self.newest[job_id] = sample
        with self._lock:
            self._lost_file()
        self._execute("INSERT INTO samples (job_id, at, cpu, cores, rss, processes, pss, swap, read_bytes, write_bytes,"
                      " workdir) VALUES (?,?,?,?,?,?,?,?,?,?,?)", (job_id, *sample))
        if self._is_time(f"samples {job_id}", _THIN_EVERY):
            for age, step in _TIERS:
                self._thin(job_id, sample.at - age, step)

    def _is_time(self, name: str, every: int) -> bool:
        with self._lock:
            count = self._added[name] = self._added.get(name, 0) + 1
            if count < every:
                return False
            self._added[name] = 0
            return True

    def _thin(self, job_id: str, before: float, step: float) -> None:
        """Make one sample out of those of each ``step`` s: the maxima, which limits are compared with."""
        maxima = ",".join(f"MAX({name})" for name in ("rss", "processes", "pss", "swap", "read_bytes", "write_bytes",
                                                      "workdir"))
        with self._lock:
            newest = self._query("SELECT MAX(rowid) FROM samples")[0][0]
            # whole steps only: each is closed once, so that repeated thinning changes nothing
            span = (job_id, step * (before // step))
            crowded = self._query("SELECT COUNT(*), COUNT(DISTINCT CAST(at/? AS INTEGER)) FROM samples WHERE job_id=? "
                                  "AND at<?", (step, *span))[0]
            if crowded[0] <= crowded[1]:
                return
            self._execute("SAVEPOINT thin")
            self._execute("INSERT INTO samples (job_id, at, cpu, cores, rss, processes, pss, swap, "  # noqa: S608
                          f"read_bytes, write_bytes, workdir) SELECT job_id, MAX(at), MAX(cpu), AVG(cores), {maxima} "
                          "FROM samples WHERE job_id=? AND at<? GROUP BY CAST(at/? AS INTEGER)", (*span, step))
            self._execute("DELETE FROM samples WHERE job_id=? AND at<? AND rowid<=?", (*span, newest))
            if self._db is not None and self._db.in_transaction:  # else the disk has refused in between
                self._execute("RELEASE thin")

    def samples(self, job_id: str) -> list[Sample]:
        """The samples of a job, oldest first."""
        return [Sample._make(row) for row in self._query(
            f"SELECT {','.join(Sample._fields)} FROM samples WHERE job_id=? ORDER BY at", (job_id,))]  # noqa: S608

    def last_sample(self, job_id: str) -> Optional[Sample]:
        """The newest sample of a job."""
        rows = self._query(f"SELECT {','.join(Sample._fields)} FROM samples WHERE job_id=? "  # noqa: S608 - our own names
                           "ORDER BY at DESC LIMIT 1", (job_id,))
        return Sample(*rows[0]) if rows else None

    def set_limit(self, job_id: str, limit: Limit) -> None:
        """Store a limit of a job, once it is known; a later one replaces it."""
        self._execute("INSERT OR REPLACE INTO limits VALUES (?,?,?,?,?)", (job_id, *limit))

    def limits(self, job_id: str) -> list[Limit]:
        """The limits of a job by name."""
        return [Limit._make(row) for row in self._query(
            "SELECT name, value, unit, origin FROM limits WHERE job_id=? ORDER BY name", (job_id,))]

    def add_note(self, job_id: str, topic: str, text: str) -> None:
        """Store what a check has to say."""
        self._execute("INSERT INTO notes VALUES (?,?,?,?)", (job_id, self._clock(), topic, text[:_NOTE_LENGTH]))
        first, last = NOTES_KEPT
        if self._is_time(f"notes {job_id}", last // 4):
            few = "SELECT rowid FROM notes WHERE job_id=? ORDER BY rowid"
            self._execute("DELETE FROM notes WHERE job_id=? AND rowid NOT IN (SELECT * FROM "  # noqa: S608
                          f"({few} LIMIT ?)) AND rowid NOT IN "
                          f"(SELECT * FROM ({few} DESC LIMIT ?))", (job_id, job_id, first, job_id, last))

    def notes(self, job_id: str) -> list[Note]:
        """What the checks had to say, oldest first."""
        return [Note._make(row) for row in self._query(
            "SELECT at, topic, text FROM notes WHERE job_id=? ORDER BY rowid", (job_id,))]

    def set_progress(self, job_id: str, direction: str, copies: Sequence[Moving]) -> None:
        """Store how far the long copies of one direction have come, in place of what was known of them."""
        self.moving[job_id, direction] = copies
        with self._lock:
            self._execute("SAVEPOINT progress")
            self._execute("DELETE FROM progress WHERE job_id=? AND direction=?", (job_id, direction))
            for copy in copies:
                self._execute("INSERT INTO progress VALUES (?,?,?,?,?,?,?,?)", (job_id, *copy))
            if self._db is not None and self._db.in_transaction:
                self._execute("RELEASE progress")

    def progress(self, job_id: str = "") -> list[Moving]:
        """The long copies of a job, or of all, that run now; those that have run for longest first."""
        return [Moving._make(row) for row in self._query(
            f"SELECT {','.join(Moving._fields)} FROM progress WHERE job_id=? OR ?='' ORDER BY began",  # noqa: S608
            (job_id, job_id))]

    def clear_progress(self) -> None:
        """Forget the copies of processes that are gone."""
        self._execute("DELETE FROM progress")
