"""What is this pilot doing now? A text view of one PilotDB."""

from __future__ import annotations

import time

from pilot.store.pilotdb import ErrorRow, JobRow, PilotDB
from pilot.util.logs import one_record
from pilot.util.redact import redact


def clock(epoch: object) -> str:
    """Return an epoch time as ``YYYY-MM-DD HH:MM:SS`` UTC, '-' for none."""
    if not isinstance(epoch, (int, float)):
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(epoch))


def status_text(store: PilotDB, alive: bool) -> str:
    """Return the status of a main work directory.

    Args:
        store: its database.
        alive: whether a living pilot holds its lock.
    """
    lines: list[str] = []
    for pilot in store.pilots():
        state = f"ended {clock(pilot['ended'])}, exit code {pilot['exit_code']}" if pilot["ended"] is not None else (
            "running" if alive else "died without an orderly end")
        lines.append(f"pilot {pilot['version']}  pid {pilot['pid']} on {pilot['host']}  queue {pilot['queue'] or '-'}  "
                     f"started {clock(pilot['started'])}  {state}")
    if alive:
        lines += [f"  {component:<10} since {clock(at)}  {line}" for component, at, line in store.statuses()]
    for job in store.jobs():
        lines += ["", *job_lines(store, job)]
    waiting = store.undelivered()
    lines += ["", f"outbox: {len(waiting)} message(s) wait for the server, "
                  f"{store.unacknowledged()} final report(s) not acknowledged"]
    traces = store.waiting_traces()
    lines += [f"traces: {traces} wait for the trace server"] if traces else []
    lines += [f"  job {entry.job_id}  {entry.state}{'  FINAL' if entry.final else ''}  {entry.attempts} attempt(s)  "
              f"{entry.last_error}" for entry in waiting]
    return "\n".join(map(_shown, lines))


def _shown(line: str) -> str:
    """Return a line as the terminal may see it: secrets masked, strings of strangers neither steer it nor add lines."""
    return one_record(redact(line)).replace("\n", "\\n")


def job_lines(store: PilotDB, job: JobRow) -> list[str]:
    """Return one job's part: state, story, errors, files."""
    final = store.final_report(job.job_id)
    result = "no final report yet"
    if final is not None:
        message, delivered, error = final
        result = f"final report '{message.get('state')}' " + (
            f"acknowledged {clock(delivered)}" if delivered else f"NOT acknowledged{': ' + error if error else ''}")
    exit_code = "-" if job.exit_code is None else job.exit_code
    lines = [f"job {job.job_id}  attempt {job.attempt}  {job.transformation}",
             f"  granted {clock(job.granted)}  stage {job.state}  exit code {exit_code}  {result}"]
    lines += [f"    {clock(at)}  {event} -> {state}{'  ' + detail if detail else ''}"
              for at, event, state, detail in store.story(job.job_id)]
    lines += [f"    error {error.code}: {error.diagnosis}{_advice(error)}" for error in store.errors(job.job_id)]
    lines += [f"    {item['direction']:<9} {item['lfn']}  {item['bytes']} B  {item['status']}  [{item['transfer_id']}]"
              f"{'  ' + str(item['detail']) if item['code'] else ''}" for item in store.transfers(job.job_id)]
    return lines


def _advice(error: ErrorRow) -> str:
    """Return who must act, the retry advice and the evidence of an error as the end of its line."""
    advice = f"  [{error.who}; retry: {error.retry}]" if error.who else ""
    return f"{advice}  ({error.evidence})" if error.evidence else advice
