"""What the job report says about the failure, where the experiment judges by job reports (payload document 15)."""

from __future__ import annotations

from collections.abc import Iterable

from pilot.common.errorcodes import ErrorCodes
from pilot.info.diagnosis import Case, Finding, Rule
from pilot.info.jobreportdata import JobReportData
from pilot.payload.reporterror import exe_error, is_harmless, said
from pilot.payload.rules.kernel import memory_advice


class JobReportFailure(Rule):
    """The report has an exit code, errors of its steps, and connections to Frontier that failed."""

    name = "job-report"
    on_success = True

    def look(self, case: Case) -> Iterable[Finding]:
        """1328, 1223, 1369; when the process itself ended with 0: 1220, or 1305 when only ``exeErrorCode`` is set."""
        report = case.report
        if report is None or is_harmless(case.job, report):
            return
        if not report.exit_code:
            if report.exe_error_code and case.code == 0:
                where = f"exeErrorCode {report.exe_error_code}"
                text = f"the job report has {where}: {exe_error(report).diag or 'no message'}"
                yield Finding(ErrorCodes.PAYLOADEXECUTIONFAILURE, text, f"{where} of the job report")
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
    text = said(report)
    return f"exit code 0, but the job report says {report.exit_code}{': ' + text if text else ''}"
