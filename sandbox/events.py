"""Event ranges of event service jobs: a simple table (server-api.md 9)."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from sandbox.core import Core

FINAL = ("finished", "failed", "fatal")
LIVE_JOB = ("sent", "running", "starting")


def add_ranges(core: Core, job_id: int, ranges: Sequence[Mapping[str, Any]]) -> None:
    """Give a job its event ranges; each needs eventRangeID, startEvent, lastEvent, LFN, GUID, scope."""
    with core._change() as db:
        for seq, item in enumerate(ranges):
            description = {key: value for key, value in item.items() if key != "segment_id"}
            db.execute("INSERT OR REPLACE INTO events VALUES (?,?,?,?,'ready',?,NULL,NULL)", (
                str(item["eventRangeID"]), job_id, seq, item.get("segment_id"), json.dumps(description)))


def acquire(core: Core, job_id: Any, n_ranges: int, segment: Optional[int] = None) -> List[Dict[str, Any]]:
    """The next ready ranges of a live job; empty when there are none or the job is over or being killed."""
    with core._change() as db:
        status = core.status(job_id)
        if status is None or status[0] not in LIVE_JOB or status[2] == "tobekilled":
            return []
        rows = db.execute(
            "SELECT * FROM events WHERE panda_id=? AND status='ready' AND (? IS NULL OR segment=?) "
            "ORDER BY seq LIMIT ?", (int(job_id), segment, segment, n_ranges)).fetchall()
        db.executemany("UPDATE events SET status='sent' WHERE range_id=?", [(row["range_id"],) for row in rows])
        return [json.loads(row["description"]) for row in rows]


def available(core: Core, job_id: Any) -> int:
    """How many ranges are ready."""
    with core.lock:
        row = core.db.execute("SELECT COUNT(*) FROM events WHERE panda_id=? AND status='ready'", (job_id,)).fetchone()
    return int(row[0])


def statuses(core: Core, keys: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """State, error and dialog of every range of the given jobs (keys task_id, panda_id)."""
    found: Dict[str, Any] = {}
    with core.lock:
        for key in keys:
            rows = core.db.execute("SELECT * FROM events WHERE panda_id=?", (key.get("panda_id"),)).fetchall()
            found[str(key.get("panda_id"))] = {
                row["range_id"]: {"status": row["status"], "error": row["error"], "dialog": row["dialog"]}
                for row in rows}
    return found


def flatten(items: Sequence[Mapping[str, Any]]) -> List[Mapping[str, Any]]:
    """The single ranges of a message of any version (zip and esOutput entries carry a list of ranges)."""
    flat: List[Mapping[str, Any]] = []
    for item in items:
        flat += item["eventRanges"] if isinstance(item.get("eventRanges"), list) else [item]
    return flat


def update(
    core: Core, items: Sequence[Mapping[str, Any]], version: int = 0
) -> Tuple[List[Optional[bool]], Dict[str, Any]]:
    """Apply range states. Returns per range true, false or null (not final), and the commands by PandaID."""
    returns: List[Optional[bool]] = []
    commands: Dict[str, Any] = {}
    with core._change():
        for item in flatten(items):
            range_id, state = str(item.get("eventRangeID")), str(item.get("eventStatus"))
            parts = range_id.split("-")
            panda_id = parts[1] if len(parts) > 1 else ""
            status = core.status(panda_id)
            commands[panda_id] = "tobekilled" if status is None else status[2]
            returns.append(_one(core, range_id, state, item, status, version))
    return returns, commands


def _one(core: Core, range_id: str, state: str, item: Mapping[str, Any], status: Optional[Tuple[str, int, Any]],
         version: int) -> Optional[bool]:
    if state not in FINAL:
        core.db.execute("UPDATE events SET status='running' WHERE range_id=? AND status='sent'", (range_id,))
        return None
    if status is None or status[0] not in (*LIVE_JOB, "transferring"):
        return False
    allowed = ("sent", "running", "ready") if version == 2 else ("sent", "running")
    marks = ",".join("?" * len(allowed))
    done = core.db.execute(
        f"UPDATE events SET status=?, error=?, dialog=? WHERE range_id=? AND status IN ({marks})",
        (state, item.get("errorCode"), item.get("errorDiag"), range_id, *allowed))
    return done.rowcount > 0
