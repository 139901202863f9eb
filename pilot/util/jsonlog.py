"""The structured log (``--log-format json``): one JSON object per line, and back to the classic line for readers.

::

    {"time": "2026-11-21T18:10:00.123Z", "level": "WARNING", "logger": "pilot.control.road", "thread": "monitor",
     "function": "abort", "job": "6500000001", "message": "job 6500000001: ..."}

Lines are ASCII: no byte of a stranger's string can end a line, steer a terminal or make a parser stumble. The module
is imported when the format is asked for, or when a reader meets a line of it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping

from pilot.util.logowner import owners
from pilot.util.logs import PilotFormatter
from pilot.util.redact import redact

SCHEMA = 1
"""Grows when a field changes its meaning; new fields alone do not count."""

FIELDS: Mapping[str, str] = {
    "time": "UTC, ISO 8601 with milliseconds: `2026-11-21T18:10:00.123Z`",
    "level": "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`",
    "logger": "module that speaks: `pilot.control.road`",
    "thread": "its thread",
    "function": "its function",
    "job": "PandaID that the line belongs to; absent where it is nobody's",
    "message": "the text, secrets masked; it may hold line ends",
    "exception": "object with `type`, `text` and `traceback`; with `-d`, and always in the file",
    "stack": "stack of the caller, where the line asked for it",
    "fields": "object with values of their own; at the head of each log: schema, version, host, queue, batch ids",
}
"""Every field that a line may have, with its meaning; docs/operator-guide.md has the same list (a test compares)."""

_LONGEST_JOB = 64


class JsonFormatter(PilotFormatter):
    """Makes one line of JSON of a record; masks as the classic format does, value by value."""

    def __init__(self, tracebacks: bool = True) -> None:
        super().__init__("%(message)s", tracebacks)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a record whose arguments do not fit its message is shown as it is."""
        values: dict[str, object] = {
            "time": iso_time(record.created), "level": record.levelname, "logger": record.name,
            "thread": redact(str(record.threadName)), "function": record.funcName}
        job = owners.owner(record)[:_LONGEST_JOB]
        if job:
            values["job"] = job
        values["message"] = redact(_message(record))
        if self._tracebacks:
            self._add_traces(values, record)
        own = getattr(record, "fields", None)
        if isinstance(own, Mapping):
            values["fields"] = {str(key): redact(item) if isinstance(item, str) else item for key, item in own.items()}
        return to_line(values)

    def _add_traces(self, values: dict[str, object], record: logging.LogRecord) -> None:
        kind, text = "", ""
        if record.exc_info:
            kind = record.exc_info[0].__name__ if record.exc_info[0] else ""
            text = _text_of(record.exc_info[1])
        traceback = record.exc_text or (self.formatException(record.exc_info) if record.exc_info and kind else "")
        if traceback:
            values["exception"] = {"type": kind, "text": redact(text), "traceback": redact(traceback)}
        if record.stack_info:
            values["stack"] = redact(record.stack_info)

    def gap(self, count: int) -> str:
        """Return the line that stands for ``count`` lines which could not be written."""
        return to_line({"time": iso_time(time.time()), "level": "WARNING", "logger": __name__,
                        "message": super().gap(count), "fields": {"missing": count}})


def iso_time(moment: float) -> str:
    """Return seconds since the epoch as UTC with milliseconds."""
    seconds, milliseconds = divmod(int(moment * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z"


def to_line(values: Mapping[str, object]) -> str:
    """Return one line of ASCII that every JSON parser takes: no NaN, no half of a surrogate pair, no raw DEL."""
    try:
        text = json.dumps(values, default=_text_of, allow_nan=False)
    except (ValueError, TypeError, RecursionError):  # NaN, a key of another type, a circle: shown as text
        text = json.dumps({key: item if isinstance(item, str) else _text_of(item) for key, item in values.items()})
    if "\\ud" in text:
        text = json.dumps(_mended(json.loads(text)))
    return text.replace("\x7f", "\\u007f")


def classic_line(line: str) -> str:
    """Return a line of the structured log as the classic format shows it; any other line as it is."""
    if not line.startswith("{"):
        return line
    try:
        values = json.loads(line)
        stamp, level, message = (values[key] for key in ("time", "level", "message"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return line
    text = " ".join(str(message).split("\n"))
    return f"{str(stamp).replace('T', ' ').replace('.', ',').rstrip('Z')} | {level!s:<8} | {text}"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg!r} {record.args!r}"


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:  # noqa: BLE001 - a stranger's __str__ must not cost the line
        return f"<{type(value).__name__} that cannot be shown: {type(exc).__name__}>"


def _mended(value: object) -> object:
    """Return the value with halves of surrogate pairs (bytes that were no UTF-8) written out as escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {str(_mended(key)): _mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value
