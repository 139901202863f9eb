"""Log extracts and job reports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from pilot.common.errors import ErrorList
from pilot.payload.extracts import EXTRACT_LIMIT, log_extract
from pilot.payload.jobreport import read_error_report, read_job_report, remove_reports


def extract(directory: Path, state: str = "failed", errors: ErrorList | None = None) -> str:
    return log_extract("77", state, directory, directory / "pilotlog.txt", directory / "payload.stdout", errors)


def test_the_extract_names_the_log_as_people_know_it(tmp_path: Path) -> None:
    (tmp_path / "pilotlog-77.txt").write_text("2026-01-31 | ERROR | trouble\n")
    text = log_extract("77", "failed", tmp_path, tmp_path / "pilotlog-77.txt", tmp_path / "payload.stdout",
                       log_name="pilotlog.txt")
    assert text == "- Log from pilotlog.txt -\n2026-01-31 | ERROR | trouble"


def test_errors_that_are_listed_are_not_quoted_from_the_log_again(tmp_path: Path) -> None:
    (tmp_path / "pilotlog.txt").write_text(
        "2026-01-31 | ERROR | job 77: error 1305: Failed to execute payload: exit code 3\n"
        "2026-01-31 | ERROR | job 77: error 1320: Failed during creation of log file: x\n"
        "2026-01-31 | WARNING | load is high\n")
    errors = ErrorList()
    errors.add(1305, "exit code 3")
    text = extract(tmp_path, errors=errors)
    assert text.count("exit code 3") == 1
    assert "error 1320" in text and "load is high" in text


def test_the_extract_has_all_parts_and_fits_in_1024_bytes(tmp_path: Path) -> None:
    connection = "2026-01-31 12:00:00.123456 : INFO     connect: 188.185.85.104:443  cmd: python3\n"
    (tmp_path / "pandatracerlog.txt").write_text(connection * 500)
    log = "".join(f"2026-01-31 12:00:{n % 60:02} | INFO | x\n2026-01-31 | ERROR | trouble {n}\n" for n in range(500))
    (tmp_path / "pilotlog.txt").write_text(log)
    (tmp_path / "payload.stdout").write_text("".join(f"événement {n}\n" for n in range(5000)))
    errors = ErrorList()
    errors.add(1320, "no log")
    errors.add(1305, "exit code 3: cause " + "y" * 500)
    text = extract(tmp_path, errors=errors)
    assert EXTRACT_LIMIT - 20 < len(text.encode()) <= EXTRACT_LIMIT
    lines = text.splitlines()
    assert lines[0] == "PandaID=77 had outbound connections: 188.185.85.104:443"
    assert lines[1].startswith("1305 Failed to execute payload")
    assert lines[2].startswith("1320")
    assert "- Log from pilotlog.txt -" in lines
    assert any(line.endswith("ERROR | trouble 499") for line in lines)
    assert "| INFO |" not in text
    assert "- Tail of payload.stdout -" in lines
    assert lines[-1] == "événement 4999"


@pytest.mark.parametrize("state", ["finished", "running", "starting"])
def test_there_is_no_extract_for_a_job_that_did_not_fail(tmp_path: Path, state: str) -> None:
    (tmp_path / "payload.stdout").write_text("x")
    assert extract(tmp_path, state) == ""


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    assert extract(tmp_path) == ""
    assert extract(tmp_path / "gone", "holding") == ""
    (tmp_path / "payload.stdout").write_bytes(os.urandom(100) + b"\nthe end\n")
    assert extract(tmp_path).startswith("- Tail of payload.stdout -\n")
    assert extract(tmp_path).endswith("the end")


def test_lines_that_differ_in_time_only_are_there_once_and_fatal_ones_come_first(tmp_path: Path) -> None:
    lines = ["2026-01-31 12:00:00,123 | CRITICAL | the node is on fire"]
    lines += [f"2026-01-31 12:00:{n % 60:02},{n:03} | WARNING | no answer" for n in range(400)]
    lines += [f"2026-01-31 12:10:00,000 | ERROR | trouble {n} {'x' * 50}" for n in range(50)]
    (tmp_path / "pilotlog.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "payload.stdout").write_text("retry\n" * 500 + "gave up\n")
    text = extract(tmp_path)
    assert text.count("no answer") <= 1 and "CRITICAL | the node is on fire" in text and "trouble 49" in text
    assert text.endswith("- Tail of payload.stdout -\nretry\ngave up")


def test_secrets_do_not_reach_the_extract(tmp_path: Path) -> None:
    (tmp_path / "payload.stdout").write_text("export API_PASSWORD=TopSecret99\n")
    (tmp_path / "pilotlog.txt").write_text("ERROR Authorization: Bearer abcdefghijklmnop\n")
    text = extract(tmp_path)
    assert "TopSecret99" not in text
    assert "abcdefghijklmnop" not in text


def test_a_job_report_is_text_and_data(tmp_path: Path) -> None:
    assert read_job_report(tmp_path) is None
    (tmp_path / "jobReport.json").write_text('{"exitCode": 0}\n')
    report = read_job_report(tmp_path)
    assert report is not None
    assert (report.text, report.tree, report.problem) == ('{"exitCode": 0}\n', {"exitCode": 0}, "")
    assert report.data is not None and report.data.exit_code == 0


@pytest.mark.parametrize("raw", [b"{", b"[1, 2]", b"not json", b'{"a": "\xff"', b"[" * 100_000])
def test_a_broken_job_report_is_sent_as_it_is(
    tmp_path: Path, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "jobReport.json").write_bytes(raw)
    report = read_job_report(tmp_path)
    assert report is not None
    assert report.tree is None and report.data is None and report.problem
    assert report.text == raw.decode("utf-8", "replace")
    assert "jobReport.json" in caplog.text


def test_a_job_report_that_cannot_be_sent_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jobReport.json"
    path.write_bytes(b'{"a": "' + b"x" * 1000 + b'"}')
    report = read_job_report(tmp_path, limit=1000)
    assert report is not None and (report.text, report.data) == ("", None)
    assert "longer than 1000 bytes" in caplog.text and "longer than 1000 bytes" in report.problem


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: path.write_text(" \n"), "empty"),
    (lambda path: path.symlink_to("/etc/passwd"), "link out of the work directory"),
    (lambda path: path.symlink_to(path.name), "link out of the work directory"),
    (lambda path: path.mkdir(), "no file that can be read"),
    (os.mkfifo, "no file that can be read"),
])
def test_what_is_no_report_is_named(
    tmp_path: Path, make: Callable[[Path], object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "jobReport.json")
    report = read_job_report(tmp_path)
    assert report is not None and (report.text, report.tree, report.data) == ("", None, None)
    assert words in report.problem and words in caplog.text


def test_reports_of_an_earlier_attempt_are_removed(tmp_path: Path) -> None:
    (tmp_path / "jobReport.json").write_text("{}")
    (tmp_path / "payload_error_report.json").write_text('{"error_code": "12", "error_diag": "x"}')
    report = read_error_report(tmp_path)
    assert report is not None
    assert (report.code, report.diag) == (12, "x")
    (tmp_path / "jobReport.json.original").write_text("{}")
    remove_reports(tmp_path)
    assert os.listdir(tmp_path) == []
    remove_reports(tmp_path)
