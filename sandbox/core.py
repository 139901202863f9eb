"""The job rules of a PanDA server over SQLite; no HTTP in here.

All public methods may be called from any thread; a lock serialises them, and ``on_change`` is called after each change.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Union

from sandbox import rules
from sandbox.adder import judge_final
from sandbox.definition import as_key, complete
from sandbox.fields import ColumnError, stored_values
from sandbox.identity import clean_dn
from sandbox.selection import JobRequest, condition
from sandbox.store import open_store

Job = Dict[str, Any]
Row = sqlite3.Row

@dataclass(frozen=True)
class UpdateAnswer:
    """The answer to a job update: StatusCode, command (None: no command key), pilotSecrets, metadata diagnosis."""

    status_code: int
    command: Optional[str] = None
    secrets: Optional[str] = None
    metadata_failed: bool = False


class Core:
    """One server: its jobs, its clock, its queues and its users' secrets (the latter in memory only)."""

    def __init__(
        self,
        db: Union[str, Path] = ":memory:",
        *,
        first_id: int = 7000000001,
        queues: Optional[Mapping[str, Mapping[str, Any]]] = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.lock = threading.RLock()
        self.db = open_store(db)
        self.first_id = first_id
        self.queues: Dict[str, Dict[str, Any]] = {name: dict(doc) for name, doc in (queues or {}).items()}
        self.secrets: Dict[str, Dict[str, str]] = {}
        self.on_change = on_change
        self.on_final: Callable[[int], None] = lambda job_id: None
        self._offset = 0.0
        self._sent_production = itertools.count(1)
        self._n_sent = 0

    # -- clock ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The server's clock, s since the epoch; ``advance_clock`` shifts it."""
        return time.time() + self._offset

    def advance_clock(self, seconds: float) -> None:
        """Let ``seconds`` pass for the server."""
        self._offset += seconds

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self.lock:
            self.db.execute("BEGIN")
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")
        self.on_change()

    def _row(self, job_id: Any) -> Optional[Row]:
        key = as_key(job_id)
        if key is None:
            return None
        row: Optional[Row] = self.db.execute("SELECT * FROM jobs WHERE panda_id=?", (key,)).fetchone()
        return row

    def _set(self, job_id: int, **columns: Any) -> None:
        names = ", ".join(f"{name}=?" for name in columns)
        self.db.execute(f"UPDATE jobs SET {names} WHERE panda_id=?", (*columns.values(), job_id))

    def _state(self, job_id: int, state: str, **columns: Any) -> None:
        self._set(job_id, state=state, **columns)
        self.db.execute("INSERT INTO history VALUES (?,?,?)", (job_id, self.now(), state))

    # -- submission and dispatch ------------------------------------------------------------------------------------

    def submit(self, definition: Mapping[str, Any], site: str = "TEST_QUEUE", raw: bool = False) -> int:
        """Add a job in state activated; returns its PandaID. ``raw``: dispatch the fields verbatim, add nothing."""
        with self._change() as db:
            key = as_key(definition.get("PandaID"))
            if key is None or self._row(key) is not None:
                highest = db.execute("SELECT MAX(panda_id) FROM jobs").fetchone()[0]
                key = max(self.first_id, (highest or 0) + 1)
            queue = str(definition.get("computingSite") or site)
            if raw:
                dispatched = {"PandaID": key, **{k: v for k, v in definition.items() if k != "computingSite"}}
            else:
                dispatched = complete(definition, key, queue, self._out_endpoint(queue))
            self._insert(db, key, queue, dispatched, definition, raw)
        return key

    def _insert(self, db: sqlite3.Connection, key: int, queue: str, dispatched: Job, given: Mapping[str, Any],
                raw: bool) -> None:
        def number(name: str) -> Optional[int]:
            return as_key(dispatched.get(name))

        now = self.now()
        columns = {
            "panda_id": key, "site": queue, "label": str(dispatched.get("prodSourceLabel") or "managed"),
            "state": "activated", "attempt_nr": number("attemptNr") or 1, "priority": number("currentPriority") or 0,
            "min_ram": number("minRamCount") or 0, "max_disk": number("maxDiskCount") or 0,
            "max_walltime": number("maxWalltime"), "resource_type": str(dispatched.get("resource_type") or ""),
            "task_id": number("taskID"), "prod_user": clean_dn(str(dispatched.get("prodUserID") or "")),
            "processing_type": str(dispatched.get("processingType") or ""),
            "backgroundable": int(bool(given.get("backgroundable"))), "use_secrets": int(bool(given.get("useSecrets"))),
            "definition": json.dumps(dispatched), "raw": int(raw), "debug": int(dispatched.get("debug") == "True"),
            "created": now, "modified": now,
        }
        marks = ",".join("?" * len(columns))
        db.execute(f"INSERT INTO jobs ({','.join(columns)}) VALUES ({marks})", tuple(columns.values()))
        db.execute("INSERT INTO history VALUES (?,?,?)", (key, now, "activated"))

    def _out_endpoint(self, queue: str) -> str:
        storages = self.queues.get(queue, {}).get("astorages") or {}
        for activity in ("write_lan", "pw", "w"):
            if isinstance(storages, dict) and storages.get(activity):
                return str(storages[activity][0])
        return ""

    def acquire(self, request: JobRequest, only_owner: Optional[str] = None) -> List[Job]:
        """Hand out up to ``n_jobs`` activated jobs; they become sent. only_owner: clean name of the one user served."""
        with self._change() as db:
            in_test = self.queues.get(request.site, {}).get("status") == "test"
            where, values = condition(request, in_test, only_owner)
            rows = db.execute(
                f"SELECT * FROM jobs WHERE state='activated' AND {where} "
                "ORDER BY priority DESC, panda_id LIMIT ?", (*values, request.n_jobs)).fetchall()
            jobs = [self._dispatch(row, request) for row in rows]
            for job, row in zip(jobs, rows):
                if "nSent" in job:
                    # counted after the whole request: every job of a bulk answer has the same number (recorded)
                    job["nSent"] = 0 if row["label"] in ("user", "panda") else self._n_sent
            return jobs

    def _dispatch(self, row: Row, request: JobRequest) -> Job:
        job_id = int(row["panda_id"])
        self._state(job_id, "sent", started=self.now(), modified=self.now(), node=(request.node or "")[:128],
                    harvester_id=request.harvester_id, worker_id=request.worker_id)
        definition: Job = json.loads(row["definition"])
        if row["label"] not in ("user", "panda"):
            self._n_sent = next(self._sent_production)
        job: Job = {"StatusCode": 0, **definition}
        if row["raw"]:
            return job
        job["nSent"] = 0
        if request.proxy_key:
            job.update(credname="", myproxy="")
        if row["use_secrets"] and self.secrets.get(row["prod_user"]):
            job["secrets"] = json.dumps(self.secrets[row["prod_user"]])
        if row["debug"]:
            job["pilotSecrets"] = "{}"
        return job

    # -- updates ----------------------------------------------------------------------------------------------------

    def update(self, message: Mapping[str, Any], dialect: str, strict_metadata: bool) -> UpdateAnswer:
        """Apply one update (legacy names). strict_metadata: v1 refuses metadata of an unknown job, legacy says 0."""
        with self._change():
            answer, stored = self._update(message, strict_metadata)
            key = as_key(message.get("jobId"))
            if key is not None:
                kept = {key: value for key, value in message.items() if value is not None}
                self.db.execute("INSERT INTO updates VALUES (?,?,?,?,?,?,?)", (
                    key, self.now(), dialect, int(stored), answer.status_code, answer.command, json.dumps(kept)))
        if stored and message["state"] in rules.FINAL_STATES:
            self.on_final(int(message["jobId"]))
        return answer

    def _update(self, message: Mapping[str, Any], strict_metadata: bool) -> tuple[UpdateAnswer, bool]:
        row, asked = self._row(message.get("jobId")), str(message["state"])
        if message.get("metaData"):
            if row is None:
                # the data base keeps metadata apart and needs the job for it (server-api.md 6.8)
                failed = UpdateAnswer(30, metadata_failed=True) if strict_metadata else UpdateAnswer(0)
                return failed, False
            if asked != "failed" and row["meta_data"] is None:
                self._set(row["panda_id"], meta_data=str(message["metaData"]))
        if row is None:
            return UpdateAnswer(0, "tobekilled"), False
        attempt = message.get("attemptNr")
        verdict = rules.judge(
            state=row["state"], archived=bool(row["archived"]), final_accepted=row["finals"] > 0,
            by_pilot=bool(row["by_pilot"]), attempt_nr=row["attempt_nr"], asked=asked,
            asked_attempt=as_key(attempt))
        if verdict.effect in ("tobekilled", "alreadydone"):
            return UpdateAnswer(0, verdict.effect), False
        if verdict.effect == "store":
            if rules.batch_ids_clash(row["batch_id"], message.get("batchID")):
                return UpdateAnswer(30), False
            try:
                values = stored_values(message)
            except ColumnError:
                return UpdateAnswer(30), False
            self._store(row, verdict.state, message, values)
        secrets = "{}" if row["debug"] else None
        return UpdateAnswer(0, self._command(row), secrets), verdict.effect == "store"

    def _store(self, row: Row, state: str, message: Mapping[str, Any], values: Job) -> None:
        job_id, asked, now = row["panda_id"], str(message["state"]), self.now()
        columns: Job = {"fields": json.dumps({**json.loads(row["fields"]), **values}), "modified": now,
                        "by_pilot": int(asked in ("holding", "transferring"))}
        for column, name in (("batch_id", "batchID"), ("node", "node")):
            if values.get(name):
                columns[column] = values[name]
        if state == "running" and row["state"] in ("sent", "starting"):
            columns["started"] = now
        if asked in rules.FINAL_STATES:
            columns.update(final=json.dumps(dict(message)), finals=row["finals"] + 1, ended=now, by_pilot=0)
        if state != row["state"] or asked in rules.FINAL_STATES:
            self._state(job_id, state, **columns)
        else:
            self._set(job_id, **columns)

    @staticmethod
    def _command(row: Row) -> str:
        """All commands that are set; they stay set and are joined with a comma (recorded)."""
        words = (["debug"] if row["debug"] else []) + ([row["command"]] if row["command"] else [])
        return ",".join(words) or "NULL"

    def status(self, job_id: Any) -> Optional[tuple[str, int, Optional[str]]]:
        """State, attempt number and raw command of a job, None when unknown."""
        with self.lock:
            row = self._row(job_id)
        if row is None:
            return None
        return row["state"], row["attempt_nr"], None if row["archived"] else row["command"]

    # -- operators --------------------------------------------------------------------------------------------------

    def command(self, job_id: int, text: str) -> bool:
        """Set the command of a job (at most 250 characters); False when the job is unknown or over."""
        with self._change():
            row = self._row(job_id)
            if row is None or row["archived"] or row["command"] == "tobekilled":
                return False
            commands = [*json.loads(row["commands"]), text[:250]]
            self._set(job_id, command=text[:250], commands=json.dumps(commands))
            return True

    def debug(self, job_id: int, on: bool) -> bool:
        """Set or clear the debug flag; False when the job is unknown or over."""
        with self._change():
            row = self._row(job_id)
            if row is None or row["archived"]:
                return False
            self._set(job_id, debug=int(on))
            return True

    def kill(self, job_id: int) -> bool:
        """Kill a job: closed at once before it has run, else the command tobekilled (recorded)."""
        with self._change():
            row = self._row(job_id)
            if row is None or row["archived"]:
                return False
            commands = json.dumps([*json.loads(row["commands"]), "tobekilled"])
            if row["state"] in ("activated", "sent"):
                self._state(job_id, "closed", archived=1, commands=commands, ended=self.now())
            else:
                self._set(job_id, command="tobekilled", commands=commands)
            return True

    def set_state(self, job_id: int, state: str, archived: Optional[bool] = None) -> None:
        """Force a state, as daemons of the real server do (transferring, merging); archived: default by the state."""
        with self._change():
            over = state in rules.ARCHIVED_STATES if archived is None else archived
            self._state(job_id, state, archived=int(over), by_pilot=0)

    def run_adder(self, job_id: Optional[int] = None) -> List[int]:
        """Let the adder look at the accepted final reports (of one job, or of all); returns the jobs it ended."""
        done: List[int] = []
        with self._change() as db:
            rows = db.execute("SELECT * FROM jobs WHERE archived=0 AND state='holding' AND finals>0").fetchall()
            for row in rows:
                if job_id is not None and row["panda_id"] != job_id:
                    continue
                killed = row["command"] == "tobekilled"
                outcome = judge_final(json.loads(row["definition"]), json.loads(row["final"]), killed)
                errors = json.loads(row["errors"])
                if outcome.ddm_error_code:
                    errors.update(ddmErrorCode=outcome.ddm_error_code, ddmErrorDiag=outcome.ddm_error_diag)
                self._state(row["panda_id"], outcome.state, archived=1, errors=json.dumps(errors),
                            files=json.dumps(dict(outcome.files)))
                done.append(row["panda_id"])
        return done

    def expire(self, archive: bool = True) -> List[int]:
        """Apply the time limits (server-api.md 7.3) by the server's clock; returns the jobs given up.

        archive: False leaves a failed job in the active table, where a heartbeat is answered with alreadydone.
        """
        lost: List[int] = []
        with self._change() as db:
            for row in db.execute("SELECT * FROM jobs WHERE archived=0 AND state<>'activated'").fetchall():
                if self.queues.get(row["site"], {}).get("status") == "paused":
                    continue
                fields = json.loads(row["fields"])
                verdict = rules.expiry(
                    state=row["state"], idle=self.now() - row["modified"], label=row["label"],
                    priority=row["priority"], by_pilot=bool(row["by_pilot"]),
                    has_diag=bool(fields.get("pilotErrorDiag") or fields.get("exeErrorDiag")),
                    last=time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["modified"])))
                if verdict is not None:
                    errors = {**json.loads(row["errors"]), "jobDispatcherErrorCode": verdict.code,
                              "jobDispatcherErrorDiag": verdict.diag}
                    self._state(row["panda_id"], "failed", archived=int(archive), errors=json.dumps(errors),
                                ended=self.now())
                    lost.append(row["panda_id"])
        return lost

    # -- views ------------------------------------------------------------------------------------------------------

    def job(self, job_id: int) -> Job:
        """Everything about one job; KeyError when unknown."""
        with self.lock:
            row = self._row(job_id)
            if row is None:
                raise KeyError(job_id)
            history = self.db.execute("SELECT time, state FROM history WHERE panda_id=? ORDER BY rowid", (job_id,))
            updates = self.db.execute("SELECT * FROM updates WHERE panda_id=? ORDER BY rowid", (job_id,)).fetchall()
            view = summary(row)
            view["history"] = [(item["time"], item["state"]) for item in history]
        view.update(
            definition=json.loads(row["definition"]), fields=json.loads(row["fields"]),
            commands=json.loads(row["commands"]), files=json.loads(row["files"]), metaData=row["meta_data"],
            final=json.loads(row["final"]) if row["final"] else None,
            updates=[{**json.loads(item["message"]), "_time": item["time"], "_dialect": item["dialect"],
                      "_stored": bool(item["stored"]), "_status": item["status_code"], "_command": item["command"]}
                     for item in updates])
        return view

    def jobs(self, limit: int = -1) -> List[Job]:
        """Short views of all jobs, newest first."""
        with self.lock:
            rows = self.db.execute("SELECT * FROM jobs ORDER BY panda_id DESC LIMIT ?", (limit,)).fetchall()
        return [summary(row) for row in rows]

    def counts(self) -> Dict[str, int]:
        """Number of jobs by state."""
        with self.lock:
            rows = self.db.execute("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state").fetchall()
        return {row["state"]: row["n"] for row in rows}

    def close(self) -> None:
        """Close the data base."""
        with self.lock:
            self.db.close()


def summary(row: Row) -> Job:
    """The short view of a job."""
    fields = json.loads(row["fields"])
    return {
        "PandaID": row["panda_id"], "state": row["state"], "attemptNr": row["attempt_nr"], "computingSite": row["site"],
        "prodSourceLabel": row["label"], "currentPriority": row["priority"], "prodUserName": row["prod_user"],
        "node": row["node"], "batchID": row["batch_id"], "command": row["command"], "debug": bool(row["debug"]),
        "archived": bool(row["archived"]), "finals": row["finals"], "errors": json.loads(row["errors"]),
        "pilotErrorCode": fields.get("pilotErrorCode", 0), "pilotErrorDiag": fields.get("pilotErrorDiag", ""),
        "harvester_id": row["harvester_id"], "worker_id": row["worker_id"],
        "created": row["created"], "modified": row["modified"], "started": row["started"], "ended": row["ended"],
    }
