"""What a job report says against its payload."""

from __future__ import annotations

from typing import Any

import pytest
from reports import failed_report, good_report

from pilot.info.jobreportdata import parse_job_report
from pilot.payload.reportfindings import exe_error, is_harmless, report_findings

FRONTIER = {"message": "IOVDbSvc ERROR", "moreDetails": {
    "abnormalLines": {"message0": "12:00 IOVDbSvc  ERROR x",
                      "message1": "INFO Cannot find a valid frontier connection (a)(b)"},
    "lastNormalLine": {"message": "DBReplicaSvc INFO  Using frontier connection frontier://ATLF/()"}}}
TAIL = "--- wget ---\nhttps://pandacache.example:25085/cache/sources.1.tar.gz  \nERROR: no\n"


@pytest.mark.parametrize(("report", "exit_code", "codes", "words"), [
    (good_report(), 0, [], ""),
    (good_report(), 65, [], ""),
    (good_report(exitCode=None), 0, [], ""),
    (failed_report("Non-zero return code"), 65, [], ""),
    (failed_report("Non-zero return code"), 0, [1220], "job report says exit code 65: TRF_EXEC_FAIL: Non-zero return"),
    (failed_report("RAWtoALL got a SIGSEGV signal"), 65, [1328],
     "Invalid memory reference or a segmentation fault in payload: RAWtoALL got a SIGSEGV signal (job report)"),
    (failed_report("RAWtoALL got a SIGSEGV signal"), 0, [1328, 1220], "SIGSEGV"),
    (good_report(exitMsg="got a SIGSEGV signal"), 0, [], ""),
    (failed_report("x", ERROR=[{"message": "y"}, {"message": "St9bad_alloc thrown"}]), 65, [1223],
     "RAWtoALL: St9bad_alloc"),
    (failed_report("x", code=0, ERROR=[{"message": "St9bad_alloc thrown"}]), 0, [], ""),
    (failed_report("x", WARNING=[FRONTIER]), 65, [1369], "Cannot find a valid frontier connection (a)(b)"),
    (failed_report("x", code=0, WARNING=[FRONTIER]), 0, [], ""),
    (failed_report("x", code=146), 146, [1246],
     "User tarball https://pandacache.example:25085/cache/sources.1.tar.gz cannot be downloaded from PanDA server"),
    (failed_report("x", code=160), 160, [], ""),
    (good_report(exeErrorCode=7, exeErrorDiag="seven"), 0, [1305], "exeErrorCode 7: seven"),
    (good_report(exeErrorCode=7, exeErrorDiag="seven"), 3, [], ""),
])
def test_findings(report: dict[str, Any], exit_code: int, codes: list[int], words: str) -> None:
    findings = report_findings(parse_job_report(report), exit_code, stdout_tail=TAIL)
    assert [code for code, _ in findings] == codes
    if codes:
        assert words in findings[0][1]


def test_the_numbers_of_user_scripts_are_not_those_of_transforms() -> None:
    for code in (146, 160):
        data = parse_job_report(failed_report("x", code=code))
        assert [found for found, _ in report_findings(data, 0, stdout_tail=TAIL, user_job=False)] == [1220]
    data = parse_job_report(failed_report("x", code=160))
    assert is_harmless(data, user_job=True) and not is_harmless(data, user_job=False)


def test_a_tarball_without_a_url_is_named_unknown() -> None:
    (_, text), = report_findings(parse_job_report(failed_report("x", code=146)), 146)
    assert text == "User tarball (URL unknown) cannot be downloaded from PanDA server"


@pytest.mark.parametrize(("report", "wanted"), [
    (good_report(), (0, "")),
    (good_report(exitMsg="strange"), (0, "")),
    (failed_report("File x did not pass corruption test", code=66), (66, "File x did not pass corruption test")),
    (failed_report("OK", code=66), (0, "")),
    (good_report(exeErrorCode=7, exeErrorDiag="seven"), (7, "seven")),
    ({"exitCode": 3, "exitMsg": "three", "exeErrorCode": 7}, (7, "three")),
    ({"exitCode": 3}, (3, "")),
])
def test_the_payloads_own_error(report: dict[str, Any], wanted: tuple[int, str]) -> None:
    assert tuple(exe_error(parse_job_report(report))) == wanted
