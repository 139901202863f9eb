"""Builds the log extract (field pilotLog, at most 1,024 bytes) that people see without fetching the log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pilot.common.errors import ErrorList
from pilot.payload.cause import shorten
from pilot.payload.connections import GLANCE, read_connections
from pilot.payload.textfiles import cut_bytes, printable, read_tail
from pilot.util.redact import redact

EXTRACT_LIMIT = 1024
"""Bytes of UTF-8 of the server's field."""

_TRACER_LIMIT = 256
_ERRORS_LIMIT = 300
_PILOT_LOG_LIMIT = 280
_WINDOW = 64 * 1024
_LEVEL = re.compile(r"\b(?:FATAL|CRITICAL|ERROR|WARNING)\b")
_WORST = re.compile(r"\b(?:FATAL|CRITICAL)\b")
_STAMP = re.compile(r"^[\d\-:.,TZ |]+")


def log_extract(
    job_id: str, state: str, workdir: Path, pilot_log: Path, stdout: Path, errors: ErrorList | None = None,
    log_name: str = "",
) -> str:
    """Return the extract for a ``failed`` or ``holding`` job, empty for every other state.

    Composition (payload.md 16): outbound connections that the tracer saw, the list of errors, the last fatal lines,
    errors and warnings of the pilot log, and with all that is left the end of the payload's stdout. Lines that differ
    in their time stamps only are there once.

    Args:
        job_id: PandaID.
        state: job state of the report.
        workdir: job work directory with the tracer's file.
        pilot_log: the pilot's own log.
        stdout: payload.stdout.
        errors: the job's errors.
        log_name: the name of the pilot log that people know, when the file of this job has another one.
    """
    if state not in ("failed", "holding"):
        return ""
    parts = [
        cut_bytes(_connections(job_id, workdir), _TRACER_LIMIT),
        cut_bytes(_errors(errors), _ERRORS_LIMIT),
        _pilot_log(pilot_log, log_name or pilot_log.name, errors.codes() if errors else ()),
    ]
    text = "\n".join(part for part in parts if part)
    room = EXTRACT_LIMIT - len(text.encode("utf-8", "replace")) - 1
    header = f"- Tail of {stdout.name} -\n"
    tail = _without_repetitions(redact(printable(read_tail(stdout, 4 * EXTRACT_LIMIT))).strip())
    if tail and room > len(header) + 20:
        tail = cut_bytes(tail, room - len(header.encode()), keep_end=True)
        text = f"{text}\n{header}{tail}" if text else header + tail
    return cut_bytes(text, EXTRACT_LIMIT)


def _connections(job_id: str, workdir: Path) -> str:
    """Return the addresses that the payload connected to, each once."""
    connections = read_connections(workdir, GLANCE)
    return f"PandaID={job_id} had outbound connections: {connections.summary()}" if connections else ""


def _errors(errors: ErrorList | None) -> str:
    """Return the list of errors, the reported one first."""
    if not errors:
        return ""
    first = errors.primary()
    ordered = sorted(errors, key=lambda error: error is not first)
    return "\n".join(f"{error.code} {shorten(redact(error.diagnosis), 200)}" for error in ordered)


def _pilot_log(path: Path, name: str, listed: Sequence[int]) -> str:
    """Return the last lines of the pilot log that speak of trouble, as many as fit: fatal ones before others.

    The lines about errors that are ``listed`` already say nothing new.
    """
    known = re.compile(rf": error ({'|'.join(map(str, listed))}): ") if listed else None
    found = [line.strip() for line in printable(read_tail(path, _WINDOW)).split("\n") if _LEVEL.search(line)]
    if any(line.startswith("{") for line in found):
        from pilot.util.jsonlog import classic_line

        found = [line for line in map(classic_line, found) if _LEVEL.search(line)]
    lines = [line for line in found if not (known and known.search(line))]
    if not lines:
        return ""
    header = f"- Log from {name} -"
    room = _PILOT_LOG_LIMIT - len(header)
    last = _latest(lines)
    wanted = sorted(range(len(last)), key=lambda index: (not _WORST.search(last[index]), -index))
    chosen: list[int] = []
    for index in wanted:
        room -= len(shorten(redact(last[index]), 160).encode("utf-8", "replace")) + 1
        if room < 0:
            break
        chosen.append(index)
    return "\n".join([header, *(shorten(redact(last[index]), 160) for index in sorted(chosen))]) if chosen else ""


def _latest(lines: Iterable[str]) -> list[str]:
    """Return the lines without repetitions (time stamps apart), the last of each, in their order."""
    found: dict[str, str] = {}
    for line in lines:
        key = _STAMP.sub("", line)
        found.pop(key, None)
        found[key] = line
    return list(found.values())


def _without_repetitions(text: str) -> str:
    """Return the text with one line in the place of equal ones that follow each other."""
    result: list[str] = []
    for line in text.split("\n"):
        if not result or line != result[-1]:
            result.append(line)
    return "\n".join(result)
