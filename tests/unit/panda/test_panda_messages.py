"""Messages: what a heartbeat and a final report say of a job, in types and sizes that the server's data base takes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.panda import messages, values
from pilot.panda.messages import ReportEnvironment, build_output_report, build_update, reduced
from pilot.panda.names import UPDATE_FIELDS

ENV = ReportEnvironment(site_name="Q", node="slot1@wn1", pilot_version="2.13.0.1", cpu_consumption_unit="s+CPU+AVX2")
NOW = 1_795_171_524.5


def job(**fields: Any) -> Job:
    made = Job(jobid="7000000090", attemptnr=1, start_time=NOW - 60, batch_id="12345.0", batch_type="Torque", **fields)
    made.exit_code = 0
    return made


def transferred(lfn: str, **fields: Any) -> FileSpec:
    return FileSpec(
        lfn,
        "output",
        guid="G",
        filesize=13,
        checksum={"adler32": "22810424"},
        status="transferred",
        turl="root://se//x",
        ddmendpoint="RSE",
        **fields,
    )


def test_a_heartbeat_says_who_and_where_and_nothing_final() -> None:
    message = build_update(job(), "running", ENV, NOW, metrics={"maxRSS": 5.4, "nonsense": 1})
    assert message["jobId"] == 7000000090 and message["state"] == "running" and message["attemptNr"] == 1
    assert message["pilotID"] == "unknown|Torque|PR|2.13.0.1" and message["schedulerID"] == "unknown"
    assert message["batchID"] == "12345.0" and message["startTime"] == "2026-11-20 10:44:24"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", str(message["timestamp"]))
    assert message["maxRSS"] == 5 and "nonsense" not in message and message["coreCount"] == 1
    assert not {"endTime", "pilotErrorCode", "xml", "metaData", "pilotTiming", "transExitCode", "pilotLog"} & set(
        message
    )
    assert None not in message.values() and "stdout" not in message and "nEvents" not in message


def test_the_short_pilot_id_has_no_batch_system() -> None:
    assert ENV.pilot_id("") == "unknown|PR|2.13.0.1"
    env = ReportEnvironment(site_name="Q", node="n", pilot_version="2.1", version_tag="RC", gtag="https://log")
    assert env.pilot_id("Kubernetes") == "https://log|Kubernetes|RC|2.1"


def test_a_finished_report_has_outputs_times_and_the_job_report() -> None:
    done = job(
        outdata=[transferred("a.root"), FileSpec("b.root", "output", guid="H")],
        indata=[FileSpec("i")],
        logdata=[FileSpec("log.tgz", "log", guid="L", filesize=9, checksum={"md5": "m" * 32}, status="transferred")],
    )
    done.end_time, done.metadata, done.pilot_log_extract = NOW - 5, '{"exitCode": 0}', "extract"
    done.cpu_seconds, done.core_counts, done.nevents = 99.9, [7.0, 8.0], 50
    message = build_update(done, "finished", ENV, NOW)
    report = json.loads(str(message["xml"]))
    assert report == {
        "a.root": {"guid": "G", "fsize": 13, "adler32": "22810424", "surl": "root://se//x", "endpoint": "RSE"},
        "log.tgz": {"guid": "L", "fsize": 9, "md5sum": "m" * 32},
    }
    assert message["endTime"] == "2026-11-20 10:45:19" and message["metaData"] == '{"exitCode": 0}'
    assert message["pilotErrorCode"] == 0 and message["pilotErrorDiag"] == "" and message["transExitCode"] == 0
    assert "pilotLog" not in message and message["nInputFiles"] == 1
    assert (message["cpuConsumptionTime"], message["cpuConversionFactor"], message["meanCoreCount"]) == (100, 1.0, 8)


@pytest.mark.parametrize(("seconds", "sent"), [(0.2, None), (0.9, 1), (99.4, 99)])
def test_cpu_time_is_rounded_and_a_payload_that_sleeps_has_no_mean_of_zero_cores(seconds: float, sent: object) -> None:
    quiet = job()
    quiet.cpu_seconds, quiet.core_counts = seconds, [0.0, 0.2]
    message = build_update(quiet, "running", ENV, NOW)
    assert message.get("cpuConsumptionTime") == sent and "meanCoreCount" not in message


def test_a_failed_report_names_the_root_cause_without_time_stamps_and_keeps_the_log_extract() -> None:
    bad = job(logdata=[FileSpec("log.tgz", "log")])
    bad.exit_code, bad.metadata, bad.pilot_log_extract = 65, "report", "last lines"
    bad.errors.add(1305, "at 2026-11-20 10:00:00,123 exit code 65")
    bad.errors.add(1137, "no log")
    message = build_update(bad, "failed", ENV, NOW)
    assert message["pilotErrorCode"] == 1305 and message["transExitCode"] == 65
    assert "2026-11-20 10:00" not in str(message["pilotErrorDiag"]) and "at exit code 65" in str(
        message["pilotErrorDiag"]
    )
    assert message["pilotLog"] == "last lines" and "metaData" not in message and message["xml"] == "{}"


def test_a_job_with_errors_is_never_reported_finished() -> None:
    bad = job()
    bad.errors.add(1137)
    assert build_update(bad, "finished", ENV, NOW)["state"] == "failed"


def test_a_failed_job_without_a_code_gets_one() -> None:
    message = build_update(job(), "failed", ENV, NOW)
    assert message["pilotErrorCode"] == 1220 and "payload exit code 0" in str(message["pilotErrorDiag"])


@pytest.mark.parametrize(("kubernetes", "code", "text"), [(True, 1379, "preempted"), (False, 1201, "SIGTERM")])
def test_a_sigterm_on_kubernetes_is_a_preemption(kubernetes: bool, code: int, text: str) -> None:
    bad = job()
    bad.errors.add(1201)
    message = build_update(bad, "failed", ReportEnvironment("Q", "n", "2", kubernetes=kubernetes), NOW)
    assert message["pilotErrorCode"] == code and text in str(message["pilotErrorDiag"])


def test_a_payload_that_never_started_has_no_exit_code() -> None:
    bad = job()
    bad.exit_code = None
    assert "transExitCode" not in build_update(bad, "failed", ENV, NOW)


def test_pilot_timing_has_five_or_six_whole_seconds() -> None:
    timed = job()
    timed.timing.spans.update(getjob=1.9, stagein=20, payload=1800.4, stageout=30, log=5, initial=2, setup=3)
    assert messages.pilot_timing(timed) == "1|20|1800|35|5"
    assert messages.pilot_timing(timed, 6) == "1|20|1800|35|2|3"


def test_a_job_without_any_file_needs_no_report() -> None:
    assert "xml" not in build_update(job(), "finished", ENV, NOW)
    assert build_output_report(job()) == {}


def test_every_limit_is_kept_in_bytes() -> None:
    big = job()
    big.batch_id, big.exe_error_diag, big.pilot_log_extract = "b" * 500, "é" * 600, "ü" * 3000
    big.errors.add(1305, "ä" * 900)
    env = ReportEnvironment(
        "Q",
        "n" * 300,
        "2",
        gtag="g" * 400,
        scheduler_id="s" * 300,
        cpu_consumption_unit="€" * 200,
        cpu_architecture_level="x" * 50,
    )
    message = build_update(
        big,
        "failed",
        env,
        NOW,
        job_metrics=" ".join(f"key{i}=value" for i in range(90)),
        stdout="start" + "ö" * 4000 + "end",
    )
    for field in UPDATE_FIELDS:
        if field.kind == "str" and field.limit and field.legacy in message:
            assert len(str(message[field.legacy]).encode()) <= field.limit, field.legacy
    assert str(message["stdout"]).endswith("end") and str(message["jobMetrics"]).endswith("=value")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**10, -(10**12), "text", None, [1]])
def test_numbers_without_meaning_are_left_out(value: Any) -> None:
    message = build_update(job(), "running", ENV, NOW, metrics={"maxRSS": value, "avgPSS": 7})
    assert "maxRSS" not in message and message["avgPSS"] == 7
    json.dumps(message, allow_nan=False)


def test_texts_that_no_data_base_takes_are_cleaned() -> None:
    bad = job()
    bad.exe_error_diag = "a\x00b\udcffc"
    message = build_update(bad, "failed", ENV, NOW)
    assert message["exeErrorDiag"] == "ab?c"


def test_large_panda_ids_are_exact() -> None:
    field = UPDATE_FIELDS[0]
    assert values.cast(field, "9007199254740993") == 9007199254740993


def test_words_are_cut_whole() -> None:
    assert values.cut_words("a=1 b=2 c=3", 7) == "a=1 b=2"
    assert values.cut_words("a=1 b=2 c=3", 8) == "a=1 b=2"
    assert values.cut_words("a=1 b=2 c=3", 9) == "a=1 b=2"
    assert values.cut_words("abc", 3) == "abc"


def test_the_reduced_report_still_says_what_happened() -> None:
    done = job(outdata=[transferred("a.root")])
    done.metadata = "{}"
    small = reduced(
        build_update(done, "finished", ENV, NOW, metrics={"maxRSS": 1, "rateRCHAR": 1}, job_metrics="a=1", stdout="x")
    )
    assert {"jobId", "state", "attemptNr", "xml", "pilotErrorCode", "endTime", "batchID"} <= set(small)
    assert not {"metaData", "jobMetrics", "stdout", "maxRSS", "rateRCHAR"} & set(small)


def test_a_stored_message_survives_json() -> None:
    done = job(outdata=[transferred("a.root")])
    message = build_update(done, "finished", ENV, NOW)
    assert values.to_v1(UPDATE_FIELDS, json.loads(json.dumps(message))) == values.to_v1(UPDATE_FIELDS, message)


def test_the_limits_are_those_of_the_server() -> None:
    limits = {field.legacy: field.limit for field in UPDATE_FIELDS if field.kind == "str" and field.limit}
    assert limits == {
        "node": 128,
        "schedulerID": 128,
        "pilotID": 200,
        "batchID": 80,
        "jobMetrics": 500,
        "stdout": 2048,
        "cpuConsumptionUnit": 128,
        "cpu_architecture_level": 20,
        "pilotTiming": 100,
        "pilotErrorDiag": 500,
        "exeErrorDiag": 500,
        "pilotLog": 1024,
        "jobSubStatus": 80,
        "grid": 50,
        "source_site": 36,
        "destination_site": 36,
    }
