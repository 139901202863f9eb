"""Reads the files in which a payload reports on itself: jobReport.json and payload_error_report.json.

Bounded in memory and time, whatever is there: links, FIFOs, 200 MB, brackets without end, numbers of a million digits.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from pilot.info.jobreportdata import JobReportData, parse_job_report
from pilot.payload.textfiles import open_regular, printable
from pilot.util.safepath import is_inside

logger = logging.getLogger(__name__)

JOB_REPORT = "jobReport.json"
ERROR_REPORT = "payload_error_report.json"
ORIGINAL = ".original"
"""Ending of the name of a job report that the pilot has shortened."""

JOB_REPORT_LIMIT = 8 * 1024 * 1024
"""Bytes of the longest job report that is read; those of real transforms have some 100 kB, large merges some MB."""
VALUES_LIMIT = 300_000
"""Values in it: one costs 100 to 200 B of memory, and a file of brackets has one in every byte."""
METADATA_LIMIT = 4 * 1024 * 1024
"""Characters of metaData: a longer report leaves its log extracts out."""
WARNINGS_LIMIT = 25
"""Warnings of each step that are kept (payload document 15)."""

_GARBLED_LIMIT = 1024 * 1024
_ERROR_REPORT_LIMIT = 1024 * 1024
_DIGITS_LIMIT = 400


@dataclass(frozen=True)
class JobReport:
    """jobReport.json as it was found.

    ``text`` is what may be sent as it is, ``tree`` the parsed object (NaN and infinities are None), ``data`` what it
    says. ``problem`` tells why there is no ``tree``; then ``text`` is broken JSON, or empty when it cannot be sent.
    """

    text: str
    tree: Optional[Mapping[str, object]] = None
    data: Optional[JobReportData] = None
    problem: str = ""


@dataclass(frozen=True)
class ErrorReport:
    """payload_error_report.json, written by worker-node scripts: exeErrorCode and exeErrorDiag."""

    code: int
    diag: str


class _Refused(ValueError):
    """A report that is not read; the text says why."""


def read_job_report(workdir: Path, limit: int = JOB_REPORT_LIMIT, *, name: str = JOB_REPORT) -> JobReport | None:
    """Return the job report, None when there is no such file; what is wrong with it goes to the log, too.

    An invalid report is no error of a generic job, and its text is sent as it is (payload.md 5).
    """
    try:
        raw = _read(workdir, name, limit)
    except (OSError, _Refused) as error:
        return _unusable("", f"{name} is not used: {error}")
    if raw is None:
        return None
    encoding = json.detect_encoding(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        problem = f"{name} is not UTF-8 at byte {error.start}"
        if len(raw) > _GARBLED_LIMIT:
            return _unusable("", f"{problem}, and {len(raw)} bytes long: it is not sent (the log has it)")
        logger.warning("%s: the bytes are replaced", problem)
        text = raw.decode("utf-8", "replace")
    if not text.strip():
        return _unusable("", f"{name} is empty")
    try:
        tree = _parse(text)
    except _Refused as error:
        return _unusable(text, f"{name} {error}")
    return JobReport(text, tree, parse_job_report(tree))


def _unusable(text: str, problem: str) -> JobReport:
    logger.warning("%s", problem)
    return JobReport(text, problem=problem)


def read_error_report(workdir: Path, name: str = ERROR_REPORT) -> ErrorReport | None:
    """Return the error that worker-node scripts have reported, None when there is none or its code is 0."""
    try:
        raw = _read(workdir, name, _ERROR_REPORT_LIMIT)
        if raw is None:
            return None
        data = _parse(raw.decode(json.detect_encoding(raw), "replace"))
    except (OSError, _Refused) as error:
        logger.warning("%s is not used: %s", name, error)
        return None
    code = data.get("error_code")
    if isinstance(code, str) and len(code) < 20 and code.strip().lstrip("-").isdecimal():
        code = int(code)
    if isinstance(code, bool) or not isinstance(code, int):
        logger.warning("%s has no usable error_code: %.200r", name, code)
        return None
    return ErrorReport(code, str(data.get("error_diag") or "")) if code != 0 else None


def remove_reports(workdir: Path, names: Iterable[str] = (JOB_REPORT, ERROR_REPORT)) -> None:
    """Remove the reports of an earlier attempt, before the payload is started (again)."""
    for name in names:
        for path in (workdir / name, workdir / f"{name}{ORIGINAL}"):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("cannot remove the old %s: %s", path.name, error.strerror)


# --- what becomes of it -----------------------------------------------------------------------------------------------


def without_surplus(tree: Mapping[str, object], limit: int = WARNINGS_LIMIT) -> tuple[Mapping[str, object], int]:
    """Return the report with at most ``limit`` warnings of each step, and the number of those left out."""
    steps = tree.get("executor")
    dropped = 0
    for step in steps if isinstance(steps, list) else list(steps.values()) if isinstance(steps, dict) else []:
        details: object = step
        for key in ("logfileReport", "details"):
            details = details.get(key) if isinstance(details, dict) else None
        warnings = details.get("WARNING") if isinstance(details, dict) else None
        if isinstance(details, dict) and isinstance(warnings, list) and len(warnings) > limit:
            dropped += len(warnings) - limit
            details["WARNING"] = warnings[:limit]
    return tree, dropped


def without_extracts(tree: Mapping[str, object]) -> dict[str, object]:
    """Return the report without the log extracts of its steps, by far the largest part of it."""
    steps = tree.get("executor")
    items = list(steps.values()) if isinstance(steps, dict) else steps if isinstance(steps, list) else []
    return {**tree, "executor": [{**step, "logfileReport": {}} if isinstance(step, dict) else step for step in items]}


def compact(tree: Mapping[str, object], limit: int = METADATA_LIMIT) -> str:
    """Return JSON in ASCII without blanks and NaN; what is longer than ``limit`` loses its log extracts, then
    everything but exit code, message and the list of outputs; '' when even that is too long or too deep."""
    for part in (tree, without_extracts(tree), _essence(tree)):
        try:
            text = json.dumps(part, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            logger.warning("the job report cannot be written as JSON: %s", error)
            continue
        if len(text) <= limit:
            return text
        logger.warning("the job report is too long for metaData: %d characters, limit %d; less of it is sent",
                       len(text), limit)
    return ""


def _essence(tree: Mapping[str, object]) -> dict[str, object]:
    kept = {name: tree[name] for name in ("reportVersion", "exitCode", "exitAcronym", "exitMsg") if name in tree}
    files = tree.get("files")
    return {**kept, "files": {"output": files.get("output", [])}} if isinstance(files, dict) else kept


def sendable(text: str, limit: int = METADATA_LIMIT) -> str:
    """Return the text of a report that nobody could parse, '' when it is longer than metaData may be."""
    if len(text) <= limit:
        return text
    logger.warning("the text is too long for metaData: %d characters, limit %d; it is not sent", len(text), limit)
    return ""


def with_entries(text: str, entries: Mapping[str, object]) -> str:
    """Return the JSON object ``text`` ('' is an empty one) with ``entries`` put in; any other text as it is."""
    try:
        tree = _parse(text) if text else {}
    except _Refused:
        logger.warning("metaData is no JSON object: %s is not added to it", ", ".join(entries))
        return text
    return compact({**tree, **entries}) if entries else text


def replace_report(workdir: Path, name: str, text: str) -> None:
    """Put the shortened report in the place of the payload's, which is kept as ``<name>.original``."""
    path, part = workdir / name, workdir / f".{name}.new"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(part, flags, 0o644), "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(path, workdir / f"{name}{ORIGINAL}")
        os.replace(part, path)
    except OSError as error:
        logger.warning("the shortened %s could not be written: %s", name, error.strerror)


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(workdir: Path, name: str, limit: int) -> bytes | None:
    """Return a report's bytes, None when there is no such file.

    A link out of the work directory, to a stranger's file, is not followed.

    Raises:
        _Refused: not a regular file in the work directory, or too long.
        OSError: it cannot be read.
    """
    path = workdir / name
    if not os.path.lexists(path):
        return None
    if path.is_symlink() and not is_inside(workdir, path):
        raise _Refused("it is a link out of the work directory")
    handle = open_regular(path, links=True)
    if handle is None:
        raise _Refused("it is no file that can be read")
    with os.fdopen(handle, "rb") as stream:
        size = os.fstat(handle).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise _Refused(f"it has {size} bytes and is longer than {limit} bytes, which is the most that is read")
    return content


def _parse(text: str) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        _Refused: it is none, or has too many values.
    """
    values = text.count(",") + text.count("[") + text.count("{")
    if values > VALUES_LIMIT:
        raise _Refused(f"is not parsed: about {values} values, limit {VALUES_LIMIT}")
    try:
        data = json.loads(text.lstrip("\ufeff"), strict=False, parse_constant=lambda _name: None, parse_int=_whole,
                          parse_float=_fraction)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"is not valid JSON: {printable(str(error))[:300]}") from None
    if not isinstance(data, dict):
        raise _Refused(f"is no JSON object but {type(data).__name__}")
    return data


def _whole(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= 20 else _fraction(digits)


def _fraction(digits: str) -> float | None:
    """Return a finite number; what is longer than any number that means something is none."""
    number = float(digits) if len(digits) <= _DIGITS_LIMIT else math.inf
    return number if math.isfinite(number) else None
