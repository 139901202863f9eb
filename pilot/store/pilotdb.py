"""The PilotDB: one SQLite file in the main work directory; what concerns reports is committed when the call returns.

::

    PilotDB ──► disk (WAL; on network file systems a rollback journal), for this process alone
       │ the file was removed, cut, overwritten ──► put aside, written anew from what is known
       │ a write fails (disk full, read-only, quota)
       └──► memory: said once, the pilot goes on; final reports and the end are written to the file if it takes them

The lock file beside the database tells whether the owner is alive: the living pilot holds a ``flock`` on it, which the
kernel drops with the process, however it dies.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, Optional

from pilot.common.errors import JobError
from pilot.store.opening import FileMark, is_damage, open_memory, open_owned, open_view, put_aside
from pilot.store.place import OwnerLock, boot_id, file_system_type
from pilot.store.transferrows import TransferRows, storable
from pilot.store.viewrows import ViewRows

__all__ = ["DATABASE_NAME", "ErrorRow", "JobRow", "OutboxEntry", "OwnerLock", "PilotDB", "boot_id", "file_system_type"]

logger = logging.getLogger(__name__)

DATABASE_NAME = "pilot.db"

_TABLES = ("pilot", "facts", "jobs", "errors", "transitions", "transfers", "samples", "limits", "notes", "status",
           "outbox", "traces")
"""What goes into memory when the file is lost, the important first."""
_RENEWALS = 3
"""How often a damaged file is written anew; after that the database stays in memory."""

class OutboxEntry(NamedTuple):
    """One stored message for the server."""

    id: int
    job_id: str
    final: bool
    state: str
    message: Mapping[str, object]
    created: float
    attempts: int
    last_error: str


class JobRow(NamedTuple):
    """What the database knows of a job."""

    job_id: str
    attempt: int
    token: str
    granted: float
    state: str
    workdir: str
    definition: str
    skeleton: str
    transformation: str
    exit_code: Optional[int]
    timing: str
    ended: Optional[float]


class ErrorRow(NamedTuple):
    """One error of a job; see ``pilot.common.errors.JobError``. ``at``: epoch seconds."""

    at: float
    code: int
    diagnosis: str
    who: str
    retry: str
    evidence: str
    rank: Optional[int]


class PilotDB(TransferRows, ViewRows):
    """The database of one main work directory; thread-safe. A disk that refuses never makes a method fail.

    Args:
        path: the file, normally ``pilot.db`` in the main work directory; None keeps everything in memory.
        clock: wall clock, epoch seconds.
        read_only: for views: nothing is changed, created or repaired.
    """

    def __init__(self, path: Optional[Path], clock: Any = time.time, *, read_only: bool = False) -> None:
        super().__init__()
        self.path = path
        self.problem = ""
        """Why the file cannot be used."""
        self._read_only = read_only
        self.degraded = path is None
        self._complete = False
        """What is in memory is all that the file holds: then it may be written over the file."""
        self._filemark: Optional[FileMark] = None
        self._beside: Optional[Path] = None
        self._renewals = 0
        self._clock = clock
        self._lock = RLock()
        self._statuses: dict[str, str] = {}
        self._db = self._open_disk() if path is not None else None
        if self._db is None:
            self._db = open_memory()

    # --- opening, falling back, closing ------------------------------------------------------------------------------

    def _open_disk(self) -> Optional[sqlite3.Connection]:
        path = self.path
        assert path is not None
        try:
            return open_view(path) if self._read_only else self._prepare(path)
        except (sqlite3.Error, OSError) as exc:
            if self._read_only:
                self.degraded, self.problem = True, str(exc)
                return None
            if is_damage(exc):
                return self._replace_damaged(path, exc)
            self._say_degraded(exc)
            return None

    def _prepare(self, path: Path) -> sqlite3.Connection:
        connection = open_owned(path)
        self._filemark = FileMark(path)
        return connection

    def _replace_damaged(self, path: Path, exc: Exception) -> Optional[sqlite3.Connection]:
        try:
            aside = put_aside(path, self._clock())
            logger.error("the PilotDB %s is damaged (%s); put aside as %s, a new one is begun", path, exc, aside.name)
            return self._prepare(path)
        except (sqlite3.Error, OSError) as second:
            self._say_degraded(second)
            return None

    def _say_degraded(self, exc: BaseException) -> None:
        self.degraded, self.problem = True, str(exc)
        logger.error(
            "the PilotDB %s cannot be written (%s): reports are kept in memory from here on, and are lost if this "
            "process is killed; free space or make the directory writable", self.path, exc)

    def _fall_back(self, exc: sqlite3.Error) -> None:
        """Go on with everything that can still be read: in a new file if the old one is damaged, else in memory."""
        memory = open_memory()
        disk, self._db = self._db, memory
        assert disk is not None
        self._complete = _copy_tables(disk, memory)
        try:
            disk.close()
        except sqlite3.Error as second:
            logger.debug("closing the PilotDB: %s", second)
        self._forget_file()
        if is_damage(exc) and self._renewals < _RENEWALS and self._renew(exc):
            return
        self._say_degraded(exc)

    def _renew(self, exc: sqlite3.Error) -> bool:
        """Write a new file from what is in memory, and go on in it."""
        assert self._db is not None and self.path is not None
        self._renewals += 1
        aside = "; nothing was left of it"
        try:
            if os.path.lexists(self.path):
                aside = f"; put aside as {put_aside(self.path, self._clock()).name}"
            fresh = self._prepare(self.path)
            self._db.backup(fresh)
        except (sqlite3.Error, OSError) as second:
            logger.warning("the PilotDB %s could not be written anew: %s", self.path, second)
            return False
        self._db.close()
        self._db = fresh
        logger.error("the PilotDB %s was damaged while in use (%s)%s; a new one was written from %s", self.path, exc,
                     aside, "what is known" if self._complete else "what could still be read")
        return True

    def _execute(self, statement: str, values: Iterable[object] = ()) -> sqlite3.Cursor:
        values = tuple(storable(value) for value in values)
        with self._lock:
            assert self._db is not None
            self.flush()
            try:
                return self._db.execute(statement, values)
            except sqlite3.Error as exc:
                if self.degraded:
                    raise
                self._fall_back(exc)
                return self._execute_again(statement, values)

    def _execute_again(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        assert self._db is not None
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as exc:
            if self.degraded:
                raise
            self._renewals = _RENEWALS  # the new file is no better
            self._fall_back(exc)
            return self._db.execute(statement, values)

    def _query(self, statement: str, values: Iterable[object] = ()) -> list[Any]:
        with self._lock:
            return self._execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the file. In memory with undelivered reports: write the file again, if the disk permits by now."""
        with self._lock:
            if self._db is None:
                return
            self.flush()
            if not self._read_only:
                self._lost_file()
                if self.degraded and self.path is not None:
                    self._write_back()
            try:
                self._db.close()
            except sqlite3.Error as exc:
                logger.debug("closing the PilotDB: %s", exc)
            self._db = None
            self._forget_file()

    def _write_back(self) -> None:
        """Write what is in memory to disk: over the file, which else tells of a job that never ended; or beside it.

        Beside it, and only for undelivered reports, when the file may hold what could not be read.
        """
        assert self._db is not None and self.path is not None
        path, waiting = self.path, len(self.undelivered())
        try:
            if not os.path.lexists(path):
                for suffix in ("-wal", "-shm", "-journal"):  # of the file that is gone: they are not the new one's
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
            elif not self._complete:
                if not waiting:
                    return
                path = self._beside = self._beside or path.with_name(f"pilot-{os.getpid()}-{os.urandom(4).hex()}.db")
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            disk = sqlite3.connect(str(path), timeout=2)
            try:
                self._db.backup(disk)
            finally:
                disk.close()
            logger.info("the PilotDB could be written to %s after all", path)
        except (sqlite3.Error, OSError) as exc:
            logger.log(logging.ERROR if waiting else logging.WARNING, "the PilotDB could not be written to %s: %s; %d "
                       "undelivered message(s) are lost with this process", path, exc, waiting)

    def _forget_file(self) -> None:
        if self._filemark is not None:
            self._filemark.close()
            self._filemark = None

    def _lost_file(self) -> None:
        """Notice a file that was removed, replaced or cut below us, which SQLite does not: what it writes is lost."""
        if self.degraded or self._filemark is None:
            return
        problem = self._filemark.problem()
        if problem:
            self._fall_back(sqlite3.OperationalError(problem))

    # --- pilot and status ---------------------------------------------------------------------------------------------

    def begin(self, token: str, version: str, host: str) -> None:
        """Note this pilot process."""
        self._execute("INSERT OR REPLACE INTO pilot (token, pid, host, boot_id, version, started) VALUES (?,?,?,?,?,?)",
                      (token, os.getpid(), host, boot_id(), version, self._clock()))
        self.clear_progress()

    def set_server(self, token: str, queue: str, base_url: str) -> None:
        """Note where the reports of this pilot go."""
        self._execute("UPDATE pilot SET queue=?, base_url=? WHERE token=?", (queue, base_url, token))

    def end(self, token: str, exit_code: int) -> None:
        """Note the orderly end of this pilot process."""
        self._execute("UPDATE pilot SET ended=?, exit_code=? WHERE token=?", (self._clock(), exit_code, token))

    def set_facts(self, facts: Mapping[str, str]) -> None:
        """Note what else there is to know of this pilot: node, batch job, settings that were changed ..."""
        with self._lock:
            self._execute("BEGIN IMMEDIATE")
            for name, value in facts.items():
                self._execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (name, value[:2000]))
            self._commit()

    def facts(self) -> dict[str, str]:
        """The facts in the order in which they were noted."""
        return {str(row[0]): str(row[1]) for row in self._query("SELECT name, value FROM facts ORDER BY rowid")}

    def pilots(self) -> list[dict[str, object]]:
        """All pilots that have used this directory, oldest first."""
        names = ("token", "pid", "host", "boot_id", "version", "queue", "base_url", "started", "ended", "exit_code")
        rows = self._query(f"SELECT {','.join(names)} FROM pilot ORDER BY started")  # noqa: S608 - fixed names
        return [dict(zip(names, row)) for row in rows]

    def set_status(self, component: str, line: str) -> None:
        """Publish one line: what ``component`` is doing now. Repeated lines cost nothing."""
        if self._statuses.get(component) == line:
            return
        self._statuses[component] = line
        self._execute("INSERT OR REPLACE INTO status VALUES (?,?,?)", (component, self._clock(), line))

    def present_status(self, component: str) -> str:
        """What ``component`` of this process is doing, '' when it has not said; costs no query."""
        return self._statuses.get(component, "")

    def statuses(self) -> list[tuple[str, float, str]]:
        """(component, since, line) of each component."""
        return [tuple(row) for row in self._query("SELECT component, at, line FROM status ORDER BY component")]

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(
        self, job_id: str, attempt: int, token: str, granted: float, definition: str, transformation: str
    ) -> None:
        """Store a job in the moment it was granted (from here on a killed pilot cannot lose it)."""
        self._execute(
            "INSERT OR REPLACE INTO jobs (job_id, attempt, token, granted, state, definition, transformation) "
            "VALUES (?,?,?,?,'received',?,?)", (job_id, attempt, token, granted, definition, transformation))

    def set_job(self, job_id: str, **columns: object) -> None:
        """Update columns of a job: workdir, skeleton, exit_code, timing, ended."""
        names = ", ".join(f"{name}=?" for name in columns)
        self._execute(f"UPDATE jobs SET {names} WHERE job_id=?", (*columns.values(), job_id))  # noqa: S608

    def add_transition(self, job_id: str, event: str, state: str, detail: str = "") -> None:
        """Store a step of the job's story and its new state."""
        with self._lock:
            self._execute("INSERT INTO transitions VALUES (?,?,?,?,?)", (job_id, self._clock(), event, state, detail))
            self._execute("UPDATE jobs SET state=? WHERE job_id=?", (state, job_id))

    def add_error(self, job_id: str, error: JobError) -> None:
        """Store an error of a job."""
        row = (job_id, self._clock(), error.code, error.diagnosis, error.who, error.retry, error.evidence, error.rank)
        self._execute("INSERT INTO errors (job_id, at, code, diagnosis, who, retry, evidence, rank) "
                      "VALUES (?,?,?,?,?,?,?,?)", row)

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        columns = ",".join(JobRow._fields)
        return [JobRow(*row) for row in self._query(f"SELECT {columns} FROM jobs ORDER BY granted")]  # noqa: S608

    def job(self, job_id: str) -> Optional[JobRow]:
        """A job, None when it is not known."""
        columns = ",".join(JobRow._fields)
        rows = self._query(f"SELECT {columns} FROM jobs WHERE job_id=?", (job_id,))  # noqa: S608
        return JobRow(*rows[0]) if rows else None

    def story(self, job_id: str) -> list[tuple[float, str, str, str]]:
        """(time, event, state, detail) of each step of a job."""
        return [tuple(row) for row in self._query(
            "SELECT at, event, state, detail FROM transitions WHERE job_id=? ORDER BY rowid", (job_id,))]

    def errors(self, job_id: str) -> list[ErrorRow]:
        """The errors of a job in the order of time."""
        names = ErrorRow._fields
        known = self._table_columns("errors")  # an older version's, when it is only looked at
        columns = ",".join(name if name in known else f"'' AS {name}" for name in names)
        rows = self._query(f"SELECT {columns} FROM errors WHERE job_id=? ORDER BY rowid", (job_id,))  # noqa: S608
        return [ErrorRow._make((*row[:-1], row[-1] if row[-1] != "" else None)) for row in rows]

    def unreported_jobs(self, exclude_token: str = "") -> list[JobRow]:
        """Granted jobs without a final report in the outbox, taken by another pilot than ``exclude_token``."""
        columns = ",".join(f"j.{name}" for name in JobRow._fields)
        rows = self._query(
            f"SELECT {columns} FROM jobs j WHERE j.token<>? AND NOT EXISTS "  # noqa: S608 - fixed names
            "(SELECT 1 FROM outbox o WHERE o.job_id=j.job_id AND o.final=1 AND o.created>=j.granted) "
            "ORDER BY j.granted",
            (exclude_token,))
        return [JobRow(*row) for row in rows]

    # --- outbox -------------------------------------------------------------------------------------------------------

    def put_message(self, job_id: str, message: Mapping[str, object], *, final: bool, state: str) -> int:
        """Store a message for the server and return its number.

        Older undelivered heartbeats of the job are superseded. After a job's final report nothing is stored for it any
        more, neither a late heartbeat nor a second final report (the server takes only the first anyway); the number of
        that report is returned.
        """
        text = json.dumps(dict(message))
        with self._lock:
            self._lost_file()
            # 'newer than the grant' tells this attempt's report from that of an older one
            known = self._query("SELECT o.id FROM outbox o JOIN jobs j ON j.job_id=o.job_id WHERE o.job_id=? AND "
                                "o.final=1 AND o.created>=j.granted", (job_id,))
            if known:
                return int(known[0][0])
            try:
                self._execute("BEGIN IMMEDIATE")
                self._execute("DELETE FROM outbox WHERE job_id=? AND final=0 AND delivered IS NULL", (job_id,))
                cursor = self._execute("INSERT INTO outbox (job_id, final, state, message, created) VALUES (?,?,?,?,?)",
                                       (job_id, int(final), state, text, self._clock()))
                row = int(cursor.lastrowid or 0)
                self._execute("UPDATE jobs SET skeleton=? WHERE job_id=?", (text, job_id))
            finally:
                assert self._db is not None
                if self._db.in_transaction:
                    self._commit()
            if final and self.degraded and self.path is not None:
                self._write_back()  # this process may be killed before its end
            return row

    def _commit(self) -> None:
        """Commit; when the disk refuses, redo the open rows in memory."""
        assert self._db is not None
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            rows = self._db.execute("SELECT * FROM outbox WHERE delivered IS NULL").fetchall()
            if self.degraded:
                raise
            self._fall_back(exc)
            assert self._db is not None
            self._db.executemany("INSERT OR REPLACE INTO outbox VALUES (?,?,?,?,?,?,?,?,?,?)", rows)

    def undelivered(self, *, finals_only: bool = False) -> list[OutboxEntry]:
        """Messages that wait for delivery, final reports first, then by age."""
        extra = " AND final=1" if finals_only else ""
        rows = self._query(
            "SELECT id, job_id, final, state, message, created, attempts, last_error FROM outbox "  # noqa: S608 - fixed
            f"WHERE delivered IS NULL AND refused=0{extra} ORDER BY final DESC, id")
        return [OutboxEntry(row[0], row[1], bool(row[2]), row[3], json.loads(row[4]), *row[5:]) for row in rows]

    def unacknowledged(self) -> int:
        """Number of final reports that the server has not acknowledged, refused ones included."""
        return int(self._query("SELECT COUNT(*) FROM outbox WHERE final=1 AND delivered IS NULL")[0][0])

    def mark_delivered(self, entry_id: int) -> None:
        """The server has acknowledged the message; a heartbeat is then forgotten, the job keeps the newest."""
        self._execute("DELETE FROM outbox WHERE id=? AND final=0", (entry_id,))
        self._execute("UPDATE outbox SET delivered=? WHERE id=?", (self._clock(), entry_id))

    def mark_attempt(self, entry_id: int, error: str) -> None:
        """A delivery failed; it will be tried again."""
        self._execute("UPDATE outbox SET attempts=attempts+1, last_error=? WHERE id=?", (error[:500], entry_id))

    def mark_refused(self, entry_id: int, error: str) -> None:
        """The server called the message invalid: keep it for people, do not repeat it."""
        self._execute("UPDATE outbox SET refused=1, attempts=attempts+1, last_error=? WHERE id=?",
                      (error[:500], entry_id))

    def drop_heartbeats(self, job_id: str) -> None:
        """Forget undelivered heartbeats of a job."""
        self._execute("DELETE FROM outbox WHERE job_id=? AND final=0 AND delivered IS NULL", (job_id,))

    def final_report(self, job_id: str) -> Optional[tuple[Mapping[str, object], Optional[float], str]]:
        """(message, time of delivery or None, last error) of a job's newest final report; None when there is none."""
        rows = self._query("SELECT message, delivered, last_error FROM outbox WHERE job_id=? AND final=1 "
                           "ORDER BY id DESC LIMIT 1", (job_id,))
        return (json.loads(rows[0][0]), rows[0][1], rows[0][2]) if rows else None


def _copy_tables(disk: sqlite3.Connection, memory: sqlite3.Connection) -> bool:
    """Copy what can be read; returns whether that is all."""
    complete = True
    try:
        disk.rollback()
    except sqlite3.Error as exc:
        logger.debug("rolling back: %s", exc)
    for table in _TABLES:
        try:
            rows = disk.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - fixed names
            if rows:
                marks = ",".join("?" * len(rows[0]))
                memory.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)  # noqa: S608
        except sqlite3.Error as exc:
            complete = False
            logger.warning("older entries of the PilotDB's table '%s' could not be read: %s", table, exc)
    return complete
