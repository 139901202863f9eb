"""The tables ``transfers`` and ``traces`` of the PilotDB: every attempt to move a file, and what Rucio is told of it.

::

    transfer threads ── add_transfer ──► rows in memory ── one transaction ──► transfers, traces
                                              │ at once after a quiet moment, with any other use of the database,
                                              │ after BATCH rows; and always at the end of a group of files
    trace sender ◄── open_traces ─────────────┘         mark_traces_sent | _failed | _dropped

A hundred thousand files cost a few hundred transactions. A pilot that is killed with SIGKILL may lose the rows of its
last moments, never a report.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, NamedTuple, Optional

logger = logging.getLogger(__name__)

BATCH = 500
"""Rows that wait in memory at most."""
QUIET = 0.25
"""A row that comes this many s after the last transaction is stored at once."""
TRACE_LIMIT = 10_000
"""Traces that wait for their delivery at most; the oldest go first."""

_TRANSFER = ("job_id", "lfn", "direction", "tool", "at", "seconds", "bytes", "status", "code", "detail", "checksum",
             "transfer_id")
_TRACE = ("job_id", "transfer_id", "created", "trace")
_IDS_AT_ONCE = 500


# Columns that came later than their table, in the order of the schema.
_TEXT = "TEXT NOT NULL DEFAULT ''"
_ADDED = {
    "transfers": {"transfer_id": _TEXT},
    "samples": dict.fromkeys(("pss", "swap", "read_bytes", "write_bytes", "workdir"), "INTEGER NOT NULL DEFAULT 0"),
    "errors": {"who": _TEXT, "retry": _TEXT, "evidence": _TEXT, "rank": "INTEGER"},
}


class TraceEntry(NamedTuple):
    """One trace that waits for its delivery."""

    id: int
    job_id: str
    transfer_id: str
    trace: Mapping[str, object]
    attempts: int


class TransferSum(NamedTuple):
    """Attempts to move files in one direction with one outcome."""

    direction: str
    good: bool
    attempts: int
    files: int
    bytes: float
    seconds: float
    """Sum over the attempts, which overlap."""
    began: float
    """Epoch s of the first."""
    ended: float
    """Epoch s of the last one's end."""


class TransferRows:
    """Part of the PilotDB; thread-safe."""

    _lock: RLock
    _db: Optional[sqlite3.Connection]
    _clock: Any
    degraded: bool

    def __init__(self) -> None:
        super().__init__()
        self._transfer_rows: list[tuple[object, ...]] = []
        self._trace_rows: list[tuple[object, ...]] = []
        self._flushed = 0.0
        """Monotonic s of the last transaction."""
        self._flushing = False
        self._dropped = 0

    def _execute(self, statement: str, values: Iterable[object] = ()) -> sqlite3.Cursor:
        raise NotImplementedError

    def _query(self, statement: str, values: Iterable[object] = ()) -> list[Any]:
        raise NotImplementedError

    def _fall_back(self, exc: sqlite3.Error) -> None:
        raise NotImplementedError

    # --- writing ------------------------------------------------------------------------------------------------------

    def add_transfer(self, job_id: str, lfn: str, direction: str, *, tool: str = "", seconds: float = 0.0,
                     size: int = 0, status: str = "", code: int = 0, detail: str = "", checksum: str = "",
                     at: Optional[float] = None, transfer_id: str = "",
                     trace: Optional[Mapping[str, object]] = None) -> None:
        """Store one attempt to move a file, and its trace when there is one to be sent."""
        now = self._clock()
        row = (job_id, lfn, direction, tool, now if at is None else at, seconds, size, status, code, detail, checksum,
               transfer_id)
        with self._lock:
            self._transfer_rows.append(tuple(storable(value) for value in row))
            if trace is not None:
                self._trace_rows.append((job_id, storable(transfer_id), now, json.dumps(dict(trace))))
            if len(self._transfer_rows) >= BATCH or time.monotonic() - self._flushed > QUIET:
                self.flush()

    def flush(self) -> None:
        """Store what waits in memory."""
        with self._lock:
            if self._flushing or not self._transfer_rows or self._db is None:
                return
            transfers, traces = self._transfer_rows, self._trace_rows
            self._transfer_rows, self._trace_rows = [], []
            self._flushing = True
            try:
                self._store_rows(transfers, traces)
            finally:
                self._flushing = False
                self._flushed = time.monotonic()

    def _store_rows(self, transfers: Sequence[tuple[object, ...]], traces: Sequence[tuple[object, ...]]) -> None:
        try:
            self._insert_rows(transfers, traces)
        except sqlite3.Error as exc:
            if self.degraded:
                logger.warning("%d transfers could not be stored in the PilotDB: %s", len(transfers), exc)
                return
            self._fall_back(exc)
            self._insert_rows(transfers, traces)

    def _insert_rows(self, transfers: Sequence[tuple[object, ...]], traces: Sequence[tuple[object, ...]]) -> None:
        assert self._db is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(_insert("transfers", _TRANSFER), transfers)
            if traces:
                self._db.executemany(_insert("traces", _TRACE), traces)
                self._limit_traces()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _limit_traces(self) -> None:
        """Drop the oldest traces beyond the limit: the trace server is away for long."""
        assert self._db is not None
        waiting = int(self._db.execute("SELECT COUNT(*) FROM traces WHERE done IS NULL").fetchone()[0])
        over = waiting - TRACE_LIMIT
        if over <= 0:
            return
        self._db.execute("UPDATE traces SET done=?, trace='', last_error='too many traces wait' WHERE id IN "
                         "(SELECT id FROM traces WHERE done IS NULL ORDER BY id LIMIT ?)", (self._clock(), over))
        before, self._dropped = self._dropped, self._dropped + over
        if not before or before // TRACE_LIMIT < self._dropped // TRACE_LIMIT:
            logger.warning("more than %d traces wait for the trace server: the oldest are dropped, %d so far",
                           TRACE_LIMIT, self._dropped)

    # --- traces -------------------------------------------------------------------------------------------------------

    def open_traces(self, limit: int) -> list[TraceEntry]:
        """Traces that wait for their delivery, at most ``limit``: those that failed least often first, then by age."""
        rows = self._query("SELECT id, job_id, transfer_id, trace, attempts FROM traces WHERE done IS NULL "
                           "ORDER BY attempts, id LIMIT ?", (limit,))
        return [TraceEntry(row[0], row[1], row[2], json.loads(row[3]), row[4]) for row in rows]

    def waiting_traces(self) -> int:
        """Number of traces that wait for their delivery."""
        if not self._table_columns("traces"):
            return 0  # a database of an older version that is only looked at
        return int(self._query("SELECT COUNT(*) FROM traces WHERE done IS NULL")[0][0])

    def mark_traces_sent(self, ids: Sequence[int]) -> None:
        """The trace server has them; their text is forgotten."""
        self._mark(ids, "sent=?, done=?, trace='', last_error=''", (self._clock(),) * 2)

    def mark_traces_failed(self, ids: Sequence[int], error: str) -> None:
        """A delivery failed; it will be tried again."""
        self._mark(ids, "attempts=attempts+1, last_error=?", (error[:500],))

    def mark_traces_dropped(self, ids: Sequence[int], error: str) -> None:
        """The trace server does not want them; they are not tried again."""
        self._mark(ids, "attempts=attempts+1, done=?, trace='', last_error=?", (self._clock(), error[:500]))

    def _mark(self, ids: Sequence[int], change: str, values: tuple[object, ...]) -> None:
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start:start + _IDS_AT_ONCE]
            marks = ",".join("?" * len(some))
            self._execute(f"UPDATE traces SET {change} WHERE id IN ({marks})", (*values, *some))  # noqa: S608

    # --- reading ------------------------------------------------------------------------------------------------------

    def moved(self, direction: str, least: int) -> tuple[int, float]:
        """Bytes and seconds of the transfers of ``direction`` (``stage-in``, ``stage-out``) that succeeded, of files of
        ``least`` bytes and more; a hundred thousand of them are added up in some ms."""
        self.flush()
        row = self._query("SELECT TOTAL(bytes), TOTAL(seconds) FROM transfers WHERE direction=? AND status='DONE' AND "
                          "bytes>=?", (direction, least))[0]
        return int(row[0]), float(row[1])

    def transfers(self, job_id: str) -> list[dict[str, object]]:
        """All transfer attempts of a job."""
        names = _TRANSFER[1:]
        known = self._table_columns("transfers")
        columns = ",".join(name if name in known else f"'' AS {name}" for name in names)
        rows = self._query(f"SELECT {columns} FROM transfers WHERE job_id=? ORDER BY rowid", (job_id,))  # noqa: S608
        return [dict(zip(names, row)) for row in rows]

    def transfer_sums(self, job_id: str) -> list[TransferSum]:
        """What the transfers of a job have come to, per direction and outcome, without a row for each of them."""
        return [TransferSum(row[0], not row[1], *row[2:]) for row in self._query(
            "SELECT direction, code<>0, COUNT(*), COUNT(DISTINCT lfn), TOTAL(bytes), TOTAL(seconds), MIN(at), "
            "MAX(at+seconds) FROM transfers WHERE job_id=? GROUP BY 1, 2 ORDER BY 1, 2", (job_id,))]

    def worst_transfers(self, job_id: str, limit: int) -> list[dict[str, object]]:
        """At most ``limit`` attempts: failed ones first, then those that took longest."""
        names = _TRANSFER[1:]
        rows = self._query(f"SELECT {','.join(names)} FROM transfers WHERE job_id=? "  # noqa: S608 - fixed names
                           "ORDER BY code<>0 DESC, seconds DESC, rowid LIMIT ?", (job_id, limit))
        return [dict(zip(names, row)) for row in rows]

    def _table_columns(self, table: str) -> set[str]:
        return {str(row[1]) for row in self._query(f"PRAGMA table_info({table})")}


def storable(value: object) -> object:
    """Return ``value`` as SQLite takes it: names of files that are not valid UTF-8 come with backslashes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def migrate(connection: sqlite3.Connection) -> None:
    """Add to a database of an older version what its tables lack; new tables come with the schema."""
    for table, columns in _ADDED.items():
        known = {str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}
        for column, kind in columns.items():
            if column not in known:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"  # noqa: S608
