"""Reads the files in which a payload reports on itself: jobReport.json and payload_error_report.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pilot.payload.textfiles import read_whole
from pilot.util.safepath import is_inside

logger = logging.getLogger(__name__)

JOB_REPORT = "jobReport.json"
ERROR_REPORT = "payload_error_report.json"

JOB_REPORT_LIMIT = 50 * 1024 * 1024
"""Bytes of the longest job report that is sent as metadata."""

_GARBLED_LIMIT = 1024 * 1024
_ERROR_REPORT_LIMIT = 1024 * 1024


@dataclass(frozen=True)
class JobReport:
    """jobReport.json: the text, sent as metaData, and what it says; ``data`` is None when it is not a JSON object."""

    text: str
    data: Mapping[str, object] | None


@dataclass(frozen=True)
class ErrorReport:
    """payload_error_report.json, written by worker-node scripts: exeErrorCode and exeErrorDiag."""

    code: int
    diag: str


def read_job_report(workdir: Path, limit: int = JOB_REPORT_LIMIT, *, name: str = JOB_REPORT) -> JobReport | None:
    """Return the job report, None when there is none that can be used; what is wrong with it goes to the log.

    An invalid report is no error of a generic job, and its text is sent as it is (payload.md 5).
    """
    raw = _read(workdir, name, limit)
    if raw is None:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(raw) > _GARBLED_LIMIT:
            logger.warning("%s is not UTF-8 at byte %d, and %d bytes long: it is not sent (the log has it)", name,
                           error.start, len(raw))
            return None
        logger.warning("%s is not UTF-8 at byte %d: the bytes are replaced", name, error.start)
        text = raw.decode("utf-8", "replace")
    if not text.strip():
        logger.warning("%s is empty", name)
        return None
    data = _parse(text, name)
    return JobReport(text, data)


def read_error_report(workdir: Path, name: str = ERROR_REPORT) -> ErrorReport | None:
    """Return the error that worker-node scripts have reported, None when there is none or its code is 0."""
    raw = _read(workdir, name, _ERROR_REPORT_LIMIT)
    if raw is None:
        return None
    data = _parse(raw.decode("utf-8", "replace"), name)
    if data is None:
        return None
    code = data.get("error_code")
    if isinstance(code, str) and code.strip().lstrip("-").isdigit():
        code = int(code)
    if isinstance(code, bool) or not isinstance(code, int):
        logger.warning("%s has no usable error_code: %r", name, code)
        return None
    return ErrorReport(code, str(data.get("error_diag") or "")) if code != 0 else None


def remove_reports(workdir: Path, names: Iterable[str] = (JOB_REPORT, ERROR_REPORT)) -> None:
    """Remove the reports of an earlier attempt, before the payload is started (again)."""
    for name in names:
        try:
            (workdir / name).unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("cannot remove the old %s: %s", name, error.strerror)


def _read(workdir: Path, name: str, limit: int) -> bytes | None:
    """Return a report's bytes; a link out of the work directory, to a stranger's file, is not followed."""
    path = workdir / name
    if path.is_symlink() and not is_inside(workdir, path):
        logger.warning("%s is a link out of the work directory: ignored", name)
        return None
    try:
        return read_whole(path, limit)
    except (OSError, ValueError) as error:
        logger.warning("%s is not used: %s", name, error)
        return None


def _parse(text: str, name: str) -> Mapping[str, object] | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        logger.warning("%s is not valid JSON: %s", name, error)
        return None
    if not isinstance(data, dict):
        logger.warning("%s is no JSON object but %s", name, type(data).__name__)
        return None
    return data
