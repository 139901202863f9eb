"""Delivers what a dead pilot has left: reports in its outbox, and a final report for jobs that have none.

Used by ``pilot.py --recover``, by a pilot that starts where another one has died, and at the end of a pilot whose
deadline has passed. A lock tells whether a database's owner is alive; neither age nor pid does.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from pilot.common.errorcodes import message_of
from pilot.common.errors import ErrorList
from pilot.control.payloadproxy import remove_abandoned
from pilot.panda.answers import Verdict
from pilot.panda.messages import local_time, server_time
from pilot.panda.server import PandaServer
from pilot.payload.killer import end_processes
from pilot.payload.process import MARKER
from pilot.store.pilotdb import DATABASE_NAME, JobRow, OwnerLock, PilotDB, boot_id
from pilot.util import procfs
from pilot.util.backoff import Backoff
from pilot.util.cancel import CancelToken
from pilot.util.procfs import ProcInfo

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.traces import TracePost
    from pilot.settings import Settings

logger = logging.getLogger(__name__)

KILLED_TEXT = "the pilot process died without a final report (SIGKILL, out of memory, node failure)"

MakeServer = Callable[[str], PandaServer]
Post = Callable[[str, Mapping[str, object]], None]


@dataclass
class Recovery:
    """What became of one database."""

    path: Path
    owner_alive: bool = False
    abandoned: list[str] = field(default_factory=list)
    """Jobs that had no final report and got one."""
    delivered: int = 0
    left: int = 0
    problem: str = ""
    traces: int = 0
    """Traces delivered."""
    traces_left: int = 0
    trace_problem: str = ""


def find_databases(directory: Path) -> list[Path]:
    """Return the PilotDBs of a directory and of the main work directories below it.

    Other pilots make and remove these directories meanwhile; one that vanishes or cannot be read has none.
    """
    names, homes = _listing(directory)
    found = [directory / name for name in names]
    for home in homes:
        found += [directory / home / name for name in _listing(directory / home)[0]]
    return sorted(found)


def _listing(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of the PilotDBs and of the main work directories in a directory."""
    names, homes = [], []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name == DATABASE_NAME or (entry.name.startswith("pilot-") and entry.name.endswith(".db")):
                    names += [entry.name] if entry.is_file() else []
                elif entry.name.startswith("PanDA_Pilot") and entry.is_dir():
                    homes.append(entry.name)
    except OSError as exc:
        logger.debug("no PilotDB is looked for in %s: %s", directory, exc.strerror)
    return names, homes


def report_abandoned(store: PilotDB, own_token: str, text: str = KILLED_TEXT, code: int = 1200,
                     post: Optional[Post] = None) -> list[str]:
    """Give every job without a final report one: failed, with the errors that are known, else ``code``.

    Args:
        store: the database, owned by this process.
        own_token: this pilot's own jobs are left alone; '' leaves none alone.
        text: why there is no proper report.
        code: pilot error code when no error is known.
        post: takes the report, where somebody sends it; default: it is only stored.

    Returns:
        The job ids.
    """
    done = []
    for row in store.unreported_jobs(own_token):
        report = _abandoned_report(store, row, text, code)
        if post is None:
            store.put_message(row.job_id, report, final=True, state="failed")
        else:
            post(row.job_id, report)
        store.add_transition(row.job_id, "abandoned", "done", text)
        logger.error("job %s has no final report: it is reported as failed (%s)", row.job_id, text)
        done.append(row.job_id)
    return done


def remove_secrets(store: PilotDB, own_token: str, secrets_name: str) -> None:
    """Remove users' secrets and payload proxies that are left in the directories of a dead pilot's jobs.

    Args:
        store: the database, owned by this process.
        own_token: this pilot's own jobs are left alone; '' leaves none alone.
        secrets_name: file name of users' secrets (setting ``pilot.pandasecrets``).
    """
    for row in store.jobs():
        if row.token == own_token:
            continue
        removed = remove_abandoned(row.workdir, secrets_name)
        if removed:
            logger.warning("job %s: removed %d file(s) with secrets that a dead pilot had left in %s", row.job_id,
                           removed, row.workdir)


def _abandoned_report(store: PilotDB, row: JobRow, text: str, code: int) -> Mapping[str, object]:
    """Return the final report of a job that nobody carries on, with the batch id and the names of its own pilot."""
    bare = {"jobId": int(row.job_id), "attemptNr": row.attempt}
    base: dict[str, object] = json.loads(row.skeleton) if row.skeleton else dict(bare)
    errors = ErrorList()
    for known in store.errors(row.job_id):
        errors.add(known.code, known.diagnosis, rank=known.rank, who=known.who, retry=known.retry)
    if not errors:
        errors.add(code, text)
    reported = errors.reported(row.exit_code == 0)
    assert reported is not None
    now = time.time()
    base.pop("stdout", None)
    base.update(
        state="failed", timestamp=local_time(now), endTime=server_time(now), pilotErrorCode=reported[0],
        pilotErrorDiag=reported[1], transExitCode=row.exit_code or 0, exeErrorCode=0, exeErrorDiag="",
        pilotLog=f"{text}; last stage: {row.state}", pilotTiming=row.timing or "0|0|0|0|0")
    return base


def end_processes_of(pilots: Iterable[Mapping[str, object]]) -> int:
    """End processes that the payloads of dead pilots have left on this machine; returns how many.

    The environment of a payload's processes names the pilot (a random word); with those the rest of their sessions and
    trees is ended, which may have changed its environment. Nothing else is ever touched.

    Args:
        pilots: rows of the table ``pilot``; all of them must be dead.
    """
    here = {str(pilot["token"]) for pilot in pilots if pilot["boot_id"] == boot_id() and pilot["boot_id"]}
    if not here:
        return 0

    def left() -> list[ProcInfo]:
        table = procfs.scan()
        marked = [info for info in table if (procfs.read_environ(info.pid, MARKER) or "").partition(".")[0] in here]
        sessions = {info.session for info in marked}
        roots = [*marked, *(info for info in table if info.session in sessions)] if marked else []
        found = {info.key: info for info in table.tree(0, [info.pid for info in roots])}
        return [info for info in found.values() if info.alive and info.pid != os.getpid()]

    report = end_processes(left, 0.0)
    if report.left:
        logger.warning("%d processes of a dead pilot's payload could not be ended", report.left)
    return report.seen - report.left


def recover_database(path: Path, make_server: MakeServer, settings: Settings, *, patience: float,
                     stop: Optional[CancelToken] = None,
                     post_traces: Optional[Callable[[], TracePost]] = None) -> Recovery:
    """Deliver what is in one database, unless its owner is alive.

    Args:
        path: the database.
        make_server: gives the server client for a base URL ('' = as the options say).
        settings: pauses between attempts.
        patience: s that failing deliveries are repeated.
        stop: ends the waiting.
        post_traces: gives what sends traces; None = traces are left where they are.
    """
    result = Recovery(path)
    lock = OwnerLock(path)
    if not path.is_file():
        return result  # its pilot has removed it since we looked
    if not lock.acquire():
        result.owner_alive = True
        return result
    if not path.is_file():
        lock.release()
        return result
    store = PilotDB(path)
    try:
        ended = end_processes_of(store.pilots())
        if ended:
            logger.warning("%s: ended %d processes that a dead pilot's payload had left", path, ended)
        result.abandoned = report_abandoned(store, "")
        remove_secrets(store, "", settings.pilot.pandasecrets)
        urls = [str(pilot["base_url"]) for pilot in store.pilots() if pilot["base_url"]]
        _deliver(store, make_server(urls[-1] if urls else ""), settings, result, patience, stop or CancelToken())
        result.left = store.unacknowledged()
        result.traces_left = store.waiting_traces()
        if post_traces is not None and result.traces_left:
            from pilot.staging.tracesender import deliver_waiting

            result.traces, result.traces_left, result.trace_problem = deliver_waiting(store, post_traces())
    finally:
        store.close()
        lock.release()
    return result


def _deliver(store: PilotDB, server: PandaServer, settings: Settings, result: Recovery, patience: float,
             stop: CancelToken) -> None:
    base = max(settings.server.retry_base, 0.01)
    backoff = Backoff(base, max(settings.server.retry_max, base))
    limit = time.monotonic() + patience
    for row in {entry.job_id for entry in store.undelivered()}:
        store.drop_heartbeats(row)
    while True:
        entries = store.undelivered(finals_only=True)
        if not entries:
            return
        for entry, answer in zip(entries, server.update_jobs([entry.message for entry in entries])):
            if answer.verdict is Verdict.DELIVERED:
                store.mark_delivered(entry.id)
                result.delivered += 1
            elif answer.verdict is Verdict.INVALID:
                store.mark_refused(entry.id, answer.text)
                result.problem = f"job {entry.job_id}: {answer.text}"
            else:
                store.mark_attempt(entry.id, answer.text)
                result.problem = f"job {entry.job_id}: {answer.text or message_of(1318)}"
        pause = backoff.next()
        if not store.undelivered(finals_only=True) or time.monotonic() + pause > limit or stop.wait(pause):
            return


def clear_own_directory(ctx: PilotContext) -> None:
    """Settle what an earlier pilot has left in this pilot's own database: its processes end, its jobs get a report."""
    older = [pilot for pilot in ctx.store.pilots() if pilot["token"] != ctx.token]
    ended = end_processes_of(older)
    if ended:
        logger.warning("ended %d processes that a dead pilot's payload had left", ended)
    report_abandoned(ctx.store, ctx.token)
    remove_secrets(ctx.store, ctx.token, ctx.settings.pilot.pandasecrets)


def deliver_leftovers(ctx: PilotContext) -> None:
    """In the background: deliver what dead pilots have left below ``-a`` and in the launch directory."""
    if ctx.server is None:
        return
    server = ctx.server
    places = {ctx.launch_dir, *([(ctx.launch_dir / ctx.options.workdir).absolute()] if ctx.options.workdir else [])}
    own = ctx.store.path

    def work() -> None:
        post_traces = ctx.transfers.post if ctx.transfers.wanted else None
        for path in [path for place in sorted(places) for path in find_databases(place) if path != own]:
            if ctx.shutdown.stopping.cancelled:
                return
            result = recover_database(path, lambda _url: server, ctx.settings, patience=0.0, stop=ctx.shutdown.stopping,
                                      post_traces=post_traces)
            if result.trace_problem:
                post_traces = None  # the trace server is away: one attempt is enough
            if result.delivered or result.left:
                logger.info("%s of a dead pilot: %d report(s) delivered, %d left", path, result.delivered, result.left)
            if result.traces or result.traces_left:
                logger.info("%s of an earlier pilot: %d trace(s) delivered, %d left%s", path, result.traces,
                            result.traces_left, f" ({result.trace_problem})" if result.trace_problem else "")

    threading.Thread(target=work, name="leftovers", daemon=True).start()
