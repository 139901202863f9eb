"""What is this pilot doing now? One screen of text, or JSON, made from one PilotDB."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Optional, TypeVar

from pilot.report.facts import JobFacts, gather, use_of
from pilot.report.text import clean, clock, duration, percent, quantity, size
from pilot.store.pilotdb import ErrorRow, PilotDB
from pilot.store.transferrows import TransferSum
from pilot.store.viewrows import Moving

FORMAT = 1
"""Of the JSON; a larger one when the meaning of a key changes. New keys may come at any time."""
_TRANSFERS, _MOVING, _NOTES, _STEPS, _DETAILED = 8, 6, 4, 12, 2
"""Lines of one job at most, and how many of the last jobs are shown with all of them."""
_LINE, _TEXT = 400, 1000
"""Characters of a line, and of a text in the JSON."""
_Item = TypeVar("_Item")


def status_text(store: PilotDB, alive: bool, now: Optional[float] = None) -> str:
    """Return the status of a main work directory.

    Args:
        store: its database.
        alive: whether a living pilot holds its lock.
        now: epoch s; default: the present.
    """
    now = time.time() if now is None else now
    lines: list[str] = [f"the PilotDB cannot be read: {store.problem}"] if store.problem else []
    for pilot in store.pilots():
        state = f"ended {clock(pilot['ended'])}, exit code {pilot['exit_code']}" if pilot["ended"] is not None else (
            "running" if alive else "died without an orderly end")
        lines.append(f"pilot {pilot['version']}  pid {pilot['pid']} on {pilot['host']}  queue {pilot['queue'] or '-'}  "
                     f"started {clock(pilot['started'])}  {state}")
    if alive:
        lines += [f"  {component:<10} since {clock(at)} ({duration(now - at)})  {line}"
                  for component, at, line in store.statuses()]
    jobs = store.jobs()
    early = max(0, len(jobs) - _DETAILED)
    facts = [gather(store, row, now, transfers=_TRANSFERS) for row in jobs[early:]]
    detailed = [job for job in facts if not (job.over and job is not facts[-1])]
    lines += [f"  {early + len(facts) - len(detailed)} earlier job(s): see --report, or --status --json"
              ] if early + len(facts) > len(detailed) else []
    for job in detailed:
        lines += ["", *job_lines(job, alive=alive)]
    waiting = store.undelivered()
    lines += ["", f"outbox: {len(waiting)} message(s) wait for the server, "
                  f"{store.unacknowledged()} final report(s) not acknowledged"]
    traces = store.waiting_traces()
    lines += [f"traces: {traces} wait for the trace server"] if traces else []
    lines += [f"  job {entry.job_id}  {entry.state}{'  FINAL' if entry.final else ''}  {entry.attempts} attempt(s)  "
              f"{entry.last_error}" for entry in waiting[:_TRANSFERS]]
    return "\n".join(clean(line, _LINE) for line in lines)


def job_lines(facts: JobFacts, *, alive: bool = False) -> list[str]:
    """Return one job's part: stages, errors, files, use of resources, what checks have to say."""
    row = facts.row
    result = "no final report yet"
    if facts.final is not None:
        message, delivered, error = facts.final
        result = f"final report '{message.get('state')}' " + (
            f"acknowledged {clock(delivered)}" if delivered else f"NOT acknowledged{': ' + error if error else ''}")
    exit_code = "-" if row.exit_code is None else row.exit_code
    lines = [f"job {row.job_id}  attempt {row.attempt}  {row.transformation}",
             f"  granted {clock(row.granted)}  stage {row.state}  exit code {exit_code}  {result}",
             "  " + "  ".join(f"{span.stage} {_span(span.seconds(facts.now), span.ended is not None, alive)}"
                              for span in facts.spans)]
    lines += _use_lines(facts, alive)
    steps = facts.story[-_STEPS:]
    lines += [f"    {clock(at)}  {event} -> {state}{'  ' + detail if detail else ''}"
              for at, event, state, detail in steps]
    lines += [f"    error {error.code}: {error.diagnosis}{_advice(error)}" for error in facts.errors]
    lines += [f"    {note.topic} {clock(note.at)}: {note.text}" for note in facts.notes[-_NOTES:]]
    if alive:
        lines += [f"    {_moving(copy)}" for copy in facts.moving[:_MOVING]]
    return lines + _transfer_lines(facts)


def _span(seconds: float, ended: bool, alive: bool) -> str:
    return duration(seconds) if ended else f"for {duration(seconds)}" if alive else "not ended"


def _use_lines(facts: JobFacts, alive: bool) -> list[str]:
    lines = []
    if facts.samples and not facts.over:
        last = facts.samples[-1]
        memory = f"PSS {size(last.pss)}" if last.pss else f"RSS {size(last.rss)}"
        lines.append(f"  payload: {last.cores:.2f} cores, CPU {duration(last.cpu)}, {memory}, "
                     f"{last.processes} process(es){', directory ' + size(last.workdir) if last.workdir else ''}"
                     f"{', read ' + size(last.read_bytes) if last.read_bytes else ''}"
                     f"{', written ' + size(last.write_bytes) if last.write_bytes else ''}  (at {clock(last.at)})")
    for limit in () if facts.over else facts.limits:
        used = use_of(limit, facts) if alive else None
        share = "" if used is None else f", used {quantity(used, limit.unit)} ({percent(used, limit.value)}%)"
        lines.append(f"  limit {limit.name}: {quantity(limit.value, limit.unit)}{share}  ({limit.origin})")
    return lines


def _moving(copy: Moving) -> str:
    return f"{copy.direction:<9} {copy.lfn}  {progress_words(copy)}  by {copy.tool}"


def progress_words(copy: Moving) -> str:
    """Return how far a copy has come, and how fast."""
    seconds = copy.at - copy.began
    rate = f"{size(copy.bytes / seconds)}/s" if copy.bytes and seconds > 0 else ""
    share = percent(copy.bytes, copy.total) if copy.bytes else None
    done = f"{size(copy.bytes)} of {size(copy.total)} ({share}%)" if share is not None else (
        size(copy.bytes) if copy.bytes else f"{size(copy.total)}, how much is there is not known" if copy.total else "")
    return "  ".join(part for part in (done, rate, f"for {duration(seconds)}") if part)


def sum_words(item: TransferSum) -> str:
    """Return a line on the transfers of one direction and outcome."""
    if not item.good:
        return f"{item.direction}: {item.attempts} failed attempt(s) at {item.files} file(s)"
    seconds = item.ended - item.began
    rate = f", {size(item.bytes / seconds)}/s" if seconds > 0.05 and item.bytes else ""
    return f"{item.direction}: {item.files} file(s), {size(item.bytes)} in {duration(seconds)}{rate}"


def _transfer_lines(facts: JobFacts) -> list[str]:
    lines = [f"  {sum_words(item)}" for item in facts.sums]
    lines += [f"    {item['direction']:<9} {item['lfn']}  {item['bytes']} B  {item['status']}  [{item['transfer_id']}]"
              f"{'  ' + str(item['detail']) if item['code'] else ''}" for item in facts.worst]
    more = sum(item.attempts for item in facts.sums) - len(facts.worst)
    return [*lines, *([f"    and {more} more"] if more > 0 else [])]


def _advice(error: ErrorRow) -> str:
    """Return who must act, the retry advice and the evidence of an error as the end of its line."""
    advice = f"  [{error.who}; retry: {error.retry}]" if error.who else ""
    return f"{advice}  ({error.evidence})" if error.evidence else advice


# --- JSON -------------------------------------------------------------------------------------------------------------


def status_document(store: PilotDB, alive: bool, now: Optional[float] = None) -> dict[str, object]:
    """Return the status of a main work directory for programs; times are epoch s, sizes bytes. See the user guide."""
    now = time.time() if now is None else now
    waiting = store.undelivered()
    document: dict[str, object] = {
        "format": FORMAT, "database": str(store.path), "problem": store.problem, "at": now, "alive": alive,
        "facts": store.facts(),
        "pilots": [{name: pilot[name] for name in
                    ("version", "pid", "host", "queue", "started", "ended", "exit_code")} for pilot in store.pilots()],
        "components": [{"name": component, "since": at, "line": line} for component, at, line in store.statuses()],
        "jobs": [job_document(gather(store, row, now, transfers=_TRANSFERS)) for row in store.jobs()],
        "outbox": {"waiting": len(waiting), "unacknowledged": store.unacknowledged(), "messages": [
            {"job": entry.job_id, "state": entry.state, "final": entry.final, "created": entry.created,
             "attempts": entry.attempts, "last_error": entry.last_error} for entry in waiting]},
        "traces_waiting": store.waiting_traces(),
    }
    return {name: _harmless(value) for name, value in document.items()}


def _harmless(value: object) -> object:
    """Return a value all of whose texts are cleaned."""
    if isinstance(value, str):
        return clean(value, _TEXT)
    if isinstance(value, dict):
        return {clean(name, _TEXT): _harmless(item) for name, item in value.items()}
    return [_harmless(item) for item in value] if isinstance(value, list) else value


def job_document(facts: JobFacts) -> dict[str, object]:
    """Return one job's part."""
    row = facts.row
    message, delivered, trouble = facts.final or ({}, None, "")
    return {
        "id": row.job_id, "attempt": row.attempt, "transformation": row.transformation, "stage": row.state,
        "granted": row.granted, "ended": row.ended, "exit_code": row.exit_code, "workdir": row.workdir,
        "result": facts.result,
        "report": None if facts.final is None else {
            "state": message.get("state"), "acknowledged": delivered, "last_error": trouble},
        "stages": [{"name": span.stage, "began": span.began, "ended": span.ended, "seconds": span.seconds(facts.now)}
                   for span in facts.spans],
        "story": [{"at": at, "event": event, "stage": state, "detail": detail}
                  for at, event, state, detail in _ends(facts.story, 100)],
        "errors": [error._asdict() for error in facts.errors],
        "transfers": [item._asdict() for item in facts.sums],
        "worst_transfers": [dict(item) for item in facts.worst],
        "running_transfers": [copy._asdict() for copy in facts.moving],
        "use": facts.samples[-1]._asdict() if facts.samples else None,
        "limits": [{**limit._asdict(), "used": use_of(limit, facts)} for limit in facts.limits],
        "notes": [note._asdict() for note in _ends(facts.notes, 100)],
    }


def _ends(items: Sequence[_Item], count: int) -> list[_Item]:
    """Return the first and the last ``count`` items."""
    return [*items] if len(items) <= 2 * count else [*items[:count], *items[-count:]]
