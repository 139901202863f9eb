"""One self-contained HTML page per job, made from the PilotDB: no script, nothing from outside, under 300 kB.

::

    PilotDB ── facts.gather ──► sections, each with a bound in bytes ──► one page
    log files ── tails ───────────────┘     plots, timeline: inline SVG
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from pilot.common.errorcodes import ERROR_TABLE
from pilot.report.facts import JobFacts, gather
from pilot.report.plots import plots_of
from pilot.report.status import progress_words, sum_words
from pilot.report.tails import Tail
from pilot.report.text import clean, clock, duration, escape, quantity, size
from pilot.report.timeline import timeline
from pilot.store.pilotdb import JobRow, PilotDB

_TRANSFERS = 100
"""Transfers with a row of their own: failed ones first, then those that took longest."""
_ROOM = 16_000
"""Bytes of a table, unless it says otherwise; all of them together stay below 300 kB."""
_LOG_ROOM = 20_000
_PLOT_ROOM = 45_000

Row = Sequence[object]


def job_page(store: PilotDB, row: JobRow, logs: Sequence[Tail] = (), *, now: Optional[float] = None) -> str:
    """Return the page of one job; secrets are masked, every text is escaped, every part has a bound.

    Args:
        store: the PilotDB.
        row: the job.
        logs: ends of its log files.
        now: epoch s of the look; default: the present.
    """
    facts = gather(store, row, time.time() if now is None else now, transfers=_TRANSFERS)
    title = f"Job {clean(row.job_id, 60)}: {_verdict(facts)}"
    sections = [
        _summary(facts), _errors(facts), _stages(facts), _use(facts), _transfers(facts),
        _table("Notes of the checks", ("time (UTC)", "check", "note"), [
            (clock(note.at), note.topic, note.text) for note in facts.notes]),
        _table("Story", ("time (UTC)", "event", "stage after it", "detail"), [
            (clock(at), event, state, detail) for at, event, state, detail in facts.story]),
        _environment(store), _log_section(logs), _final(facts)]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return ("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width\"><link rel=\"icon\" href=\"data:,\">"
            f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n<body><h1>{escape(title)}</h1>\n"
            f"{''.join(sections)}<p>Made {clock(facts.now)} UTC.</p></body></html>\n")


def _verdict(facts: JobFacts) -> str:
    cause = f", {facts.errors[0].code} {_name(facts.errors[0].code)}" if facts.errors else ""
    if facts.final is None:
        return f"failing in stage {clean(facts.row.state, 20)}{cause}" if facts.errors else (
            f"in stage {clean(facts.row.state, 20)}, no error so far")
    return f"{clean(facts.result, 20)}{cause}"


def _name(code: int) -> str:
    return ERROR_TABLE[code].name if code in ERROR_TABLE else ""


def _summary(facts: JobFacts) -> str:
    row = facts.row
    report = "none yet: a page in a log archive is made before the report"
    if facts.final is not None:
        _message, delivered, trouble = facts.final
        report = f"{facts.result}, " + (f"acknowledged {clock(delivered)}" if delivered else
                                        f"not acknowledged{': ' + trouble if trouble else ''}")
    colour = "bad" if facts.errors or facts.result not in ("finished", "running") else "good"
    words = clean(facts.errors[0].diagnosis, 500) if facts.errors else "No error is known."
    total = sum(span.seconds(facts.now) for span in facts.spans)
    return f'<p class="{colour}"><b>{escape(words)}</b></p>\n' + _table("", ("what", "value"), [
        ("attempt", row.attempt), ("transformation", row.transformation), ("granted (UTC)", clock(row.granted)),
        ("time since then", duration(total)), ("ended (UTC)", clock(row.ended)), ("stage", row.state),
        ("exit code of the payload", "-" if row.exit_code is None else row.exit_code), ("final report", report),
        ("pilotTiming getjob|stagein|payload|stageout|setup (s)", row.timing or "-"),
        ("work directory", row.workdir or "-")])


def _errors(facts: JobFacts) -> str:
    rows = [("root cause" if number == 0 else number + 1, str(error.code), _name(error.code).lower() or "-",
             clean(error.diagnosis, 600), error.who or "-", error.retry or "-", clean(error.evidence, 600) or "-",
             clock(error.at)) for number, error in enumerate(facts.errors)]
    head = ("order", "code", "name", "what happened", "who must act", "another attempt", "evidence", "time (UTC)")
    return _table("Errors, the most important first", head, rows, room=24_000, cell=600)


def _stages(facts: JobFacts) -> str:
    picture = timeline(facts)
    return _section("Stages", f"<figure>{picture}</figure>" + _rows(
        "", ("stage", "began (UTC)", "ended (UTC)", "duration"),
        [(span.stage, clock(span.began), clock(span.ended), duration(span.seconds(facts.now))) for span in facts.spans],
        6000)) if picture else ""


def _use(facts: JobFacts) -> str:
    parts, room = [], _PLOT_ROOM
    for plot in plots_of(facts.samples, facts.limits):
        text = (f"<figure><figcaption>{escape(plot.title)} <small>{escape(clean(plot.words, 500))}</small></figcaption>"
                f"{plot.svg}</figure>\n")
        if len(text) <= room:
            parts.append(text)
            room -= len(text)
    if len(facts.samples) == 1:
        sample = facts.samples[0]
        parts.append(f"<p>One sample: {sample.cores:.2f} cores, CPU {duration(sample.cpu)}, RSS {size(sample.rss)}, "
                     f"{sample.processes} process(es).</p>")
    parts.append(_rows("Limits", ("limit", "value", "where it comes from"), [
        (limit.name, quantity(limit.value, limit.unit), limit.origin) for limit in facts.limits], 6000))
    return _section("Use of the node", "".join(parts)) if any(parts) else ""


def _transfers(facts: JobFacts) -> str:
    if not facts.sums and not facts.moving:
        return ""
    sums = "".join(f"<li>{escape(clean(sum_words(item)))}</li>" for item in facts.sums)
    running = _rows("Running now", ("direction", "file", "tool", "progress"), [
        (copy.direction, copy.lfn, copy.tool, progress_words(copy)) for copy in facts.moving], 6000)
    count = sum(item.attempts for item in facts.sums)
    caption = f"{len(facts.worst)} of {count} attempts: failed ones first, then the longest"
    rows = [(item["lfn"], item["direction"], item["tool"], size(_number(item["bytes"])),
             f"{_number(item['seconds']):.2f}", f"{item['status']}{' ' + str(item['code']) if item['code'] else ''}",
             item["detail"], item["transfer_id"]) for item in facts.worst]
    return _section("Files", f"<ul>{sums}</ul>{running}" + _rows(
        caption, ("file", "direction", "tool", "size", "s", "status", "detail", "transfer"), rows, 50_000))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _environment(store: PilotDB) -> str:
    rows: list[Row] = []
    for pilot in store.pilots()[-3:]:
        rows += [(name, clock(pilot[name]) if name in ("started", "ended") else pilot[name])
                 for name in ("version", "host", "pid", "queue", "base_url", "started", "ended", "exit_code")
                 if pilot[name] not in (None, "")]
    return _table("Environment", ("what", "value"), [*rows, *store.facts().items()], room=20_000, cell=600)


def _log_section(logs: Sequence[Tail]) -> str:
    parts = []
    for tail in logs:
        lines = _that_fit(tail.lines)
        what = "its end" if tail.cut or len(lines) < len(tail.lines) else "all of it"
        body = "\n".join(lines)
        parts.append(f"<h3>{escape(clean(tail.name, 80))}, {size(tail.size)}, {what}</h3>\n"
                     + (f"<pre>{body}</pre>\n" if body else "<p>(empty)</p>\n"))
    return _section("Ends of the logs", "".join(parts)) if parts else ""


def _that_fit(lines: Sequence[str]) -> list[str]:
    """Return the last lines, escaped, as far as they fit."""
    found: list[str] = []
    room = _LOG_ROOM
    for line in reversed(lines):
        text = escape(line)
        room -= len(text.encode("utf-8", "replace")) + 1
        if room < 0:
            break
        found.append(text)
    return found[::-1]


def _final(facts: JobFacts) -> str:
    if facts.final is None:
        return ""
    rows = [(name, value if isinstance(value, (str, int, float)) else json.dumps(value))
            for name, value in sorted(facts.final[0].items()) if value not in (None, "")]
    return _table("Final report", ("field", "value"), rows)


# --- building blocks --------------------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n"


def _table(title: str, head: Sequence[str], rows: Sequence[Row], *, room: int = _ROOM, cell: int = 300) -> str:
    if not rows:
        return ""
    body = _rows("", head, rows, room, cell)
    return _section(title, body) if title else body


def _rows(caption: str, head: Sequence[str], rows: Sequence[Row], room: int, cell: int = 300) -> str:
    """Return a table; of more rows than there is room for the first are shown."""
    if not rows:
        return ""
    shown: list[str] = []
    for row in rows:
        text = f"<tr>{''.join(_cells(row, cell))}</tr>\n"
        room -= len(text.encode("utf-8", "replace"))
        if room < 0:
            break
        shown.append(text)
    left = len(rows) - len(shown)
    more = f'<tr><td colspan="{len(head)}">and {left} more</td></tr>\n' if left else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f"<table>{title}<thead><tr>{names}</tr></thead>\n<tbody>{''.join(shown)}{more}</tbody></table>\n"


def _cells(row: Row, limit: int) -> Iterable[str]:
    for value in row:
        yield f"<td>{escape(clean(value, limit))}</td>"
