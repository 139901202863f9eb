"""The payload's own error, as its job report has it; what it means for the job: ``rules/jobreport.py``."""

from __future__ import annotations

from typing import NamedTuple

from pilot.info.job import Job
from pilot.info.jobreportdata import JobReportData

NO_TARBALL = 146
"""Exit code of worker-node scripts of user jobs: the sandbox could not be downloaded."""
NO_MORE_POINTS = 160
"""Exit code of hyper-parameter optimisation: there is nothing left to do."""


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


def runs_scripts(job: Job) -> bool:
    """True for jobs of worker-node scripts, whose exit codes mean something (146, 160): transforms of production use
    the same numbers for other things."""
    return job.is_analysis or job.is_hpo


def is_harmless(job: Job, data: JobReportData) -> bool:
    """True when the report says that nothing was left to do: such a job is no failure, whatever its exit code is."""
    return data.exit_code == NO_MORE_POINTS and runs_scripts(job)


def said(data: JobReportData) -> str:
    """Return acronym and message, and the first error of a step when it says more."""
    parts = [part for part in (data.acronym, data.message) if part and part != "OK"]
    if data.errors and data.errors[0].text not in data.message:
        parts.append(f"{data.errors[0].step}: {data.errors[0].text}".lstrip(": "))
    return ": ".join(parts)
