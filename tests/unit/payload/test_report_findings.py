"""What a job report says against its payload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reports import failed_report, good_report

from pilot.info.job import Job
from pilot.info.jobreportdata import parse_job_report
from pilot.payload.diagnose import Evidence, diagnose
from pilot.payload.reporterror import exe_error, is_harmless

FRONTIER = {"message": "IOVDbSvc ERROR", "moreDetails": {
    "abnormalLines": {"message0": "12:00 IOVDbSvc  ERROR x",
                      "message1": "INFO Cannot find a valid frontier connection (a)(b)"},
    "lastNormalLine": {"message": "DBReplicaSvc INFO  Using frontier connection frontier://ATLF/()"}}}
TAIL = "--- wget ---\nhttps://pandacache.example:25085/cache/sources.1.tar.gz  \nERROR: no\n"


URL = "http://pandaserver.cern.ch/trf/user/runGen-00-00-02"


def find(place: Path, report: dict[str, Any], exit_code: int, transformation: str = URL) -> dict[int, str]:
    """Findings without the exit code itself: {pilot code: text}."""
    (place / "payload.stdout").write_text(TAIL)
    job = Job("1", workdir=place, transformation=transformation)
    found = diagnose(job, exit_code, place / "payload.stdout", place / "payload.stderr",
                     Evidence(report=parse_job_report(report)))
    return {finding.code: finding.text for finding in found if "exit-code" not in finding.evidence.split(":")[0]}


@pytest.mark.parametrize(("report", "exit_code", "codes", "words"), [
    (good_report(), 0, [], ""),
    (good_report(), 65, [], ""),
    (good_report(exitCode=None), 0, [], ""),
    (failed_report("Non-zero return code"), 65, [], ""),
    (failed_report("Non-zero return code"), 0, [1220], "job report says 65: TRF_EXEC_FAIL: Non-zero return"),
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
    (failed_report("x", code=146), 0, [1220, 1246], ""),
    (failed_report("x", code=160), 0, [], ""),
    (good_report(exeErrorCode=7, exeErrorDiag="seven"), 0, [1305], "exeErrorCode 7: seven"),
    (good_report(exeErrorCode=7, exeErrorDiag="seven"), 3, [], ""),
])
def test_findings(tmp_path: Path, report: dict[str, Any], exit_code: int, codes: list[int], words: str) -> None:
    found = find(tmp_path, report, exit_code)
    assert sorted(found) == sorted(codes)
    assert words in (found[codes[0]] if codes else "")


def test_the_numbers_of_user_scripts_are_not_those_of_transforms(tmp_path: Path) -> None:
    for code in (146, 160):
        assert list(find(tmp_path, failed_report("x", code=code), 0, "Reco_tf.py")) == [1220]
        assert list(find(tmp_path, failed_report("x", code=code), code, "Reco_tf.py")) == []
    data = parse_job_report(failed_report("x", code=160))
    assert is_harmless(Job("1", transformation=URL), data) and is_harmless(Job("1", is_hpo=True), data)
    assert not is_harmless(Job("1", transformation="Reco_tf.py"), data)


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
