"""The structured log: every line is JSON whatever is logged, secrets are masked, readers still understand it."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from pilot.common.errors import ErrorList
from pilot.payload.extracts import log_extract
from pilot.payload.realtime.records import make_record
from pilot.util import logs
from pilot.util.jsonlog import FIELDS, SCHEMA, classic_line, iso_time, to_line
from pilot.util.logowner import owners
from pilot.util.redact import register_secret

logger = logging.getLogger("pilot.test.json")
MANUAL = Path(__file__).parents[3] / "docs" / "operator-guide.md"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    logs.setup_logging(tmp_path / "pilotlog.txt", stdout=False, structured=True)
    yield tmp_path / "pilotlog.txt"
    owners.work_for("")
    logs.setup_logging(None, stdout=False)


def lines(path: Path) -> List[Dict[str, Any]]:
    """What the file holds; the strictest parser at hand: bytes in, no NaN, one object per line."""
    data = path.read_bytes()
    assert data.isascii() and data.endswith(b"\n")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = [json.loads(line, parse_constant=refuse) for line in data.split(b"\n")[:-1]]
    for line in found:
        assert set(line) <= set(FIELDS), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return found


def test_a_line_has_the_fields_of_the_schema(log: Path) -> None:
    logger.warning("disk of %s is at %d%%", "node", 97)
    [line] = lines(log)
    assert line == {"time": line["time"], "level": "WARNING", "logger": "pilot.test.json", "thread": "MainThread",
                    "function": "test_a_line_has_the_fields_of_the_schema", "message": "disk of node is at 97%"}


def test_the_schema_is_documented() -> None:
    text = MANUAL.read_text()
    assert dict.fromkeys(FIELDS, True) == {name: f"| `{name}` | {doc} |" in text for name, doc in FIELDS.items()}
    assert f"`schema` is {SCHEMA}" in text


def test_time_is_utc_with_milliseconds() -> None:
    assert iso_time(0.5) == "1970-01-01T00:00:00.500Z"
    assert iso_time(1795284600.9999) == "2026-11-21T18:10:00.999Z"


@pytest.mark.parametrize("hostile", [
    "two\nlines\r\nand a third", "\x1b[2J\x1b]0;title\x07", "nul\x00 del\x7f nel\x85 ls\u2028", "\u202etxt.exe",
    "\udcff\udc80 bytes that are no UTF-8", '{"level": "INFO"}', '"},{"level":"CRITICAL"', "\\ud800 \\", "💥" * 3, "",
])
def test_hostile_text_stays_in_its_line(log: Path, hostile: str) -> None:
    logger.info("%s", hostile)
    logger.info("after")
    first, second = lines(log)
    assert first["message"] == hostile.encode("utf-8", "backslashreplace").decode()
    assert second["message"] == "after"


def test_odd_records_do_not_lose_their_line(log: Path) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    logger.info("%d of %s", "three")  # noqa: PLE1206
    logger.info("%(name)s", {"other": 1})
    logger.info("values", extra={"fields": {"nan": float("nan"), "odd": Odd(), 3: {1, 2}}})
    circle: Dict[str, Any] = {}
    circle["self"] = circle
    logger.info("circle", extra={"fields": circle})
    assert [line["message"].partition(" ")[0] for line in lines(log)] == ["'%d", "'%(name)s'", "values", "circle"]


def test_exception_and_stack_are_fields(log: Path) -> None:
    try:
        raise ValueError("the cause\nof two lines")
    except ValueError:
        logger.exception("it broke", stack_info=True)
    [line] = lines(log)
    assert line["message"] == "it broke"
    assert line["exception"]["type"] == "ValueError" and line["exception"]["text"] == "the cause\nof two lines"
    assert "test_exception_and_stack_are_fields" in line["exception"]["traceback"]
    assert "stack_info=True" in line["stack"]


def test_secrets_are_masked_in_every_field(log: Path) -> None:
    secret = 'pa"ss\nwörd-0815-long-enough'
    register_secret(secret)
    try:
        raise ValueError(f"refused: {secret}")
    except ValueError:
        logger.exception("login %s with token=%s", secret, "abcdef123456", extra={"fields": {"why": secret}})
    thread = threading.Thread(target=lambda: logger.info("hello"), name=f"for {secret}")
    thread.start()
    thread.join()
    text = log.read_text()
    for form in (secret, json.dumps(secret)[1:-1], "0815-long", "abcdef123456"):
        assert form not in text, form
    lines(log)


def test_a_line_names_its_job(log: Path) -> None:
    logger.info("nobody's")
    logger.info("job %s: begins", "4711")
    owners.work_for("4712")
    logger.info("its thread says it")
    assert [line.get("job") for line in lines(log)] == [None, "4711", "4712"]


def test_each_job_has_its_own_log_and_each_log_says_whose_it_is(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.describe_pilot(schema=SCHEMA, queue="Q")
    logs.start_job_log("1")
    logger.info("job %s: first", "1")
    logs.start_job_log("2", overlapping=True)
    logger.info("job %s: second", "2")
    logger.info("job %s: its tail", "1")
    logs.end_job_log("1")
    kept = logs.job_log_path("1")
    assert kept is not None and kept.name == "pilotlog-1.txt"
    assert [line["message"] for line in lines(kept) if line.get("job") == "1"] == ["job 1: first", "job 1: its tail"]
    assert "job 2: second" in [line["message"] for line in lines(log)]
    for path in (kept, log):
        assert [line["fields"] for line in lines(path) if "fields" in line] == [{"schema": SCHEMA, "queue": "Q"}]


def test_lost_lines_are_told_in_json(tmp_path: Path) -> None:
    path = tmp_path / "pilotlog.txt"
    logs.setup_logging(path, stdout=False, structured=True)
    handler = next(item for item in logging.getLogger().handlers if isinstance(item, logs.PilotLogHandler))
    good, handler._descriptor = handler._descriptor, -1  # a descriptor that the system refuses, as a dead mount does
    logger.info("lost")
    logger.info("lost, too")
    handler._descriptor = good
    logger.info("here again")
    logs.setup_logging(None, stdout=False)
    gap, line = lines(path)
    assert (gap["level"], gap["fields"]) == ("WARNING", {"missing": 2}) and line["message"] == "here again"


def test_the_log_extract_reads_it_as_the_classic_one(log: Path, tmp_path: Path) -> None:
    errors = ErrorList()
    errors.add(1305, "payload failed")
    logger.info("job %s: going well, no ERROR", "1")
    logger.warning("job %s: error 1305: payload failed", "1")  # in the list of errors already
    logger.error("the mount has gone\nfor ever")
    text = log_extract("1", "failed", tmp_path, log, tmp_path / "payload.stdout", errors)
    assert re.search(r"- Log from pilotlog.txt -\n(.*\n)*[\d:, -]{23} \| ERROR    \| the mount has gone for ever", text)
    assert '"level"' not in text and text.count("payload failed") == 1


def test_the_classic_form_of_a_line() -> None:
    line = to_line({"time": "2026-11-21T18:10:00.123Z", "level": "INFO", "message": "a\nb"})
    assert classic_line(line) == "2026-11-21 18:10:00,123 | INFO     | a b"
    for other in ("2026-11-21 18:10:00,123 | INFO     | a", "{half a li", "{}", "[1]", '{"time": 1}', ""):
        assert classic_line(other) == other


def test_the_real_time_logger_sends_the_fields_on(log: Path) -> None:
    logger.info("job %s: begins", "1")
    record = make_record(log.read_text().strip(), {"PandaID": 1})
    assert (record.fields["message"], record.fields["level"], record.fields["PandaID"]) == ("job 1: begins", "INFO", 1)
