"""What a job report says is wrong with its payload."""

from __future__ import annotations

import re
from typing import NamedTuple

from pilot.common.errorcodes import ErrorCodes
from pilot.info.jobreportdata import JobReportData

NO_TARBALL = 146
"""Exit code of worker-node scripts of user jobs: the sandbox could not be downloaded."""
NO_MORE_POINTS = 160
"""Exit code of hyper-parameter optimisation: there is nothing left to do."""

_URL = re.compile(r"https?://\S.*")
_SEGMENTATION = "got a SIGSEGV signal"


class ExeError(NamedTuple):
    """exeErrorCode and exeErrorDiag."""

    code: int
    diag: str


def exe_error(data: JobReportData) -> ExeError:
    """Return the payload's own error, (0, '') when it has none: ``exeErrorCode``, else exit code and message."""
    if data.exe_error_code:
        return ExeError(data.exe_error_code, data.exe_error_diag or said(data))
    if data.exit_code and data.message != "OK":
        return ExeError(data.exit_code, data.exe_error_diag or data.message)
    return ExeError(0, "")


def is_harmless(data: JobReportData, *, user_job: bool) -> bool:
    """True when the exit code says that nothing was left to do: such a job is no failure."""
    return user_job and data.exit_code == NO_MORE_POINTS


def report_findings(
    data: JobReportData, exit_code: int, *, stdout_tail: str = "", user_job: bool = True
) -> list[tuple[int, str]]:
    """Return (pilot code, text) of everything that the report says against the payload; nothing for a good one.

    Args:
        data: the report.
        exit_code: of the payload's process.
        stdout_tail: last part of its stdout, which names the tarball that could not be had.
        user_job: the numbers of worker-node scripts (146, 160) mean something: transforms use them for other things.
    """
    if is_harmless(data, user_job=user_job):
        return []
    findings: list[tuple[int, str]] = []
    if data.failed:
        findings += _specific(data, stdout_tail, user_job)
        if exit_code == 0:
            findings.append((
                ErrorCodes.UNKNOWNPAYLOADFAILURE,
                f"the payload ended with exit code 0, but its job report says exit code {data.exit_code}:"
                f" {said(data) or 'without a message'}"))
    elif data.exe_error_code and exit_code == 0:
        findings.append((
            ErrorCodes.PAYLOADEXECUTIONFAILURE,
            f"the job report has exeErrorCode {data.exe_error_code}: {data.exe_error_diag or 'without a message'}"))
    return findings


def _specific(data: JobReportData, stdout_tail: str, user_job: bool) -> list[tuple[int, str]]:
    findings: list[tuple[int, str]] = []
    if _SEGMENTATION in data.message:
        findings.append((
            ErrorCodes.PAYLOADSIGSEGV,
            "Invalid memory reference or a segmentation fault in payload: "
            f"{data.message} (job report)"))
    if user_job and data.exit_code == NO_TARBALL:
        urls = _URL.findall(stdout_tail)
        findings.append((
            ErrorCodes.NOUSERTARBALL,
            f"User tarball {urls[0].strip() if urls else '(URL unknown)'} cannot be downloaded from PanDA server"))
    for error in data.errors:
        if "bad_alloc" in error.text:
            findings.append((ErrorCodes.BADALLOC, f"{f'{error.step}: ' if error.step else ''}{error.text}"))
            break
    if data.frontier:
        findings.append((ErrorCodes.FRONTIER, data.frontier[0]))
    return findings


def said(data: JobReportData) -> str:
    """Return acronym and message, and the first error of a step when it says more."""
    parts = [part for part in (data.acronym, data.message) if part and part != "OK"]
    if data.errors and data.errors[0].text not in data.message:
        parts.append(f"{data.errors[0].step}: {data.errors[0].text}".lstrip(": "))
    return ": ".join(parts)
