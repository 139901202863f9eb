"""What the job report says about the failure, where the experiment judges by job reports (payload document 15)."""

from __future__ import annotations

from collections.abc import Iterable

from pilot.common.errorcodes import ErrorCodes
from pilot.info.diagnosis import Case, Finding, Rule
from pilot.info.jobreportdata import JobReportData
from pilot.payload.rules.kernel import memory_advice

_NO_MORE_POINTS = 160
"""Exit code of HPO scripts that is no failure."""


class JobReportFailure(Rule):
    """The report has an exit code, errors of its steps, and connections to Frontier that failed."""

    name = "job-report"
    on_success = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1328, 1223, 1369; 1220 when the process itself ended with 0."""
        report = case.report
        if report is None or not report.exit_code or report.exit_code == _NO_MORE_POINTS:
            return
        where = f"exitCode {report.exit_code} of the job report"
        if "got a SIGSEGV signal" in report.message:
            yield Finding(
                ErrorCodes.PAYLOADSIGSEGV,
                f"Invalid memory reference or a segmentation fault in payload: {report.message} (job report)",
                f"{where}, exitMsg")
        for error in report.errors:
            if "bad_alloc" in error.text:
                who, retry = memory_advice(case)
                yield Finding(ErrorCodes.BADALLOC, f"{error.step}: {error.text}".lstrip(": "),
                              f"{where}, error of step {error.step or '?'}", who=who, retry=retry)
                break
        failed = next((text for text in report.frontier if "Using frontier connection" not in text), "")
        if failed:
            yield Finding(ErrorCodes.FRONTIER, failed, f"{where}, moreDetails")
        if case.code == 0:
            yield Finding(ErrorCodes.UNKNOWNPAYLOADFAILURE, _words(report), where)


def _words(report: JobReportData) -> str:
    """Return the report's own words about its failure."""
    words = [report.acronym, report.message if report.message != "OK" else ""]
    first = next((f"{error.step}: {error.text}".lstrip(": ") for error in report.errors), "")
    text = ": ".join(word for word in words if word) or first
    return f"exit code 0, but the job report says {report.exit_code}{': ' + text if text else ''}"
