"""Every form a job report may come in: what is said is read, what is not is left, and nothing raises or grows."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest
from reports import failed_report, good_report

from pilot.info.jobreportdata import JobReportData, ReportedFile, StepMessage, parse_job_report
from pilot.payload.jobreport import (
    VALUES_LIMIT,
    compact,
    read_error_report,
    read_job_report,
    replace_report,
    sendable,
    with_entries,
    without_surplus,
)
from pilot.payload.reporterror import exe_error, said


def test_a_whole_report() -> None:
    data = parse_job_report(good_report())
    assert (data.version, data.exit_code, data.acronym, data.message) == ("2.1.0", 0, "OK", "OK")
    assert (data.nevents, data.entries) == (100, 100)
    assert (data.db_time, data.db_data, data.db_time_total, data.db_data_total) == (12.25, 1500, 12.5, 2000)
    assert (data.resimevents, data.cpu_time, data.cpu_time_total) == (7, 1050, 1060)
    assert (data.node, data.cpu_model) == ("wn1.example.org", "EPYC 7702")
    assert data.memory == {"avgPSS": 1500, "rateRCHAR": 9, "maxPSS": 2000, "totRCHAR": 111}
    assert data.errors == (StepMessage("RAWtoALL", "Py:Something ERROR went wrong"),)
    assert data.warnings == 31
    assert data.inputs == ("in.1", "in.2")
    assert data.outputs is not None and [file.name for file in data.outputs] == [
        "AOD.1.root", "AOD.2.root", "HIST.1.root", "DESD.1.root"]
    assert data.output("AOD.1.root") == ReportedFile(
        "AOD.1.root", "6A1B2C3D-0000-4000-8000-000000000001", 1234, 70, False)
    undefined, null = data.output("HIST.1.root"), data.output("DESD.1.root")
    assert undefined is not None and (undefined.nentries, undefined.empty) == (None, False)
    assert null is not None and (null.nentries, null.empty) == (None, True)
    assert data.output("none") is None
    assert not data.failed and exe_error(data).code == 0


@pytest.mark.parametrize(("tree", "wanted"), [
    ({"exitCode": None}, {"exit_code": None}),
    ({"exitCode": "65"}, {"exit_code": 65}),
    ({"exitCode": 65.0}, {"exit_code": 65}),
    ({"exitCode": -6}, {"exit_code": -6}),
    ({"exitCode": True}, {"exit_code": None}),
    ({"exitCode": 10**30}, {"exit_code": None}),
    ({"exitCode": "1" * 10_000}, {"exit_code": None}),
    ({"exitCode": []}, {"exit_code": None}),
    ({"exitMsg": 5}, {"message": "5"}),
    ({"exitMsg": ["x"]}, {"message": ""}),
    ({"exitMsg": "x" * 10_000}, {"message": "x" * 2000}),
    ({"resource": []}, {"nevents": 0}),
    ({"resource": {"transform": [{"processedEvents": 3}]}}, {"nevents": 0}),
    ({"resource": {"transform": {"processedEvents": "12"}}}, {"nevents": 12}),
    ({"resource": {"transform": {"processedEvents": -12}}}, {"nevents": 0}),
    ({"resource": {"transform": {"processedEvents": 1e300}}}, {"nevents": 0}),
    ({"resource": {"executor": [{"dbTime": "1.5"}, {"dbTime": 2}, 7, None]}}, {"db_time": 3.5}),
    ({"resource": {"executor": {"a": {"dbTime": float("nan"), "dbData": float("inf")}}}},
     {"db_time": 0.0, "db_data": 0}),
    ({"resource": {"executor": {"a": {"memory": {"Max": {"maxPSS": "x", "": 1}}}}}}, {"memory": {}}),
    ({"resource": {"executor": {"a": {"memory": [1]}}}}, {"memory": {}}),
    ({"executor": {"step": {"logfileReport": {"details": {"ERROR": [{"message": "m"}]}}}}},
     {"errors": (StepMessage("step", "m"),)}),
    ({"executor": [{"logfileReport": {"details": {"ERROR": {"0": {"message": "m"}}}}}]},
     {"errors": (StepMessage("", "m"),)}),
    ({"executor": [{"logfileReport": {"details": ["ERROR"]}}]}, {"errors": ()}),
    ({"executor": [{"logfileReport": {"details": {"ERROR": ["m", 3, None, {"message": None}]}}}]}, {"errors": ()}),
    ({"executor": "text"}, {"errors": ()}),
    ({"files": {"output": None}}, {"outputs": None}),
    ({"files": {"output": "x"}}, {"outputs": None}),
    ({"files": {"output": 0}}, {"outputs": None}),
    ({"files": {}}, {"outputs": None}),
    ({"files": []}, {"outputs": None}),
    ({"files": {"output": []}}, {"outputs": ()}),
    ({"files": {"output": [{"subFiles": None}, {"subFiles": [3, None, {}, {"name": None}, {"name": ""}]}, 5]}},
     {"outputs": ()}),
    ({"files": {"output": {"AOD": {"subFiles": [{"name": "a"}]}}}}, {"outputs": (ReportedFile("a"),)}),
    ({"files": {"output": [{"subFiles": [{"name": "/work/dir/a", "nentries": "7"}]}]}},
     {"outputs": (ReportedFile("a", nentries=7),)}),
    ({"files": {"output": [{"subFiles": [{"name": "a", "nentries": 0, "file_guid": 5, "file_size": "x"}]}]}},
     {"outputs": (ReportedFile("a", "5", None, 0, True),)}),
    ({"files": {"output": [{"subFiles": [{"name": "a", "nentries": -1}]}]}}, {"outputs": (ReportedFile("a"),)}),
    ({}, {"exit_code": None, "outputs": None, "nevents": 0}),
])
def test_wrong_types_say_nothing(tree: dict[str, Any], wanted: dict[str, Any]) -> None:
    data = parse_job_report(tree)
    assert {name: getattr(data, name) for name in wanted} == wanted


GOOD = b'{"exitCode": 65, "exitMsg": "caf\xc3\xa9"}'


@pytest.mark.parametrize(("raw", "problem"), [
    (GOOD, ""),
    (b"\xef\xbb\xbf" + GOOD, ""),
    (GOOD.decode().encode("utf-16"), ""),
    (GOOD.decode().encode("utf-16-be"), ""),
    (GOOD.decode().encode("utf-32"), ""),
    (b'{"exitCode": 1, "exitCode": 65, "exitMsg": "caf\xc3\xa9"}', ""),
    (b'{"exitCode": 65, "exitMsg": "caf\xc3\xa9", "a": NaN, "b": [Infinity, -Infinity, 1e999, -1e999]}', ""),
    (b'{"exitCode": 65, "exitMsg": "caf\xc3\xa9", "n": ' + b"9" * 1_000_000 + b', "f": 0.' + b"1" * 1_000_000
     + b"}", ""),
    (b'{"exitCode": 65, "exitMsg": "caf\xc3\xa9\\u0000", "raw": "a\ttab\nline", "half": "\\ud800"}', ""),
    (b'{"exitCode": 65, "exitMsg": "caf\xc3\xa9", "x": ' + b"[" * 50 + b"]" * 50 + b"}", ""),
    (GOOD[:-1], "not valid JSON"),
    (GOOD[:20], "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b'{"a":' * 100_000, "not valid JSON"),
    (b"[{}]", "no JSON object"),
    (b"null", "no JSON object"),
    (b"\xff\xfe\x00", "not valid JSON"),
    (b"\x00" * 100, "not valid JSON"),
    (b"", "empty"),
    (b"\xef\xbb\xbf  ", "empty"),
    (b'{"a": [' + b"[]," * VALUES_LIMIT + b"[]]}", f"limit {VALUES_LIMIT}"),
    (b'{"a": [' + b"0," * VALUES_LIMIT + b"0]}", f"limit {VALUES_LIMIT}"),
])
def test_encodings_and_broken_json(tmp_path: Path, raw: bytes, problem: str) -> None:
    (tmp_path / "jobReport.json").write_bytes(raw)
    report = read_job_report(tmp_path)
    assert report is not None and problem in report.problem
    if problem:
        assert report.tree is None and report.data is None
        return
    assert report.problem == "" and report.data is not None and report.tree is not None
    assert report.data.exit_code == 65 and report.data.message.startswith("café")
    assert "\ufeff" not in report.text
    sent = json.loads(compact(report.tree), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert sent["exitCode"] == 65


def test_a_link_in_the_work_directory_is_followed_one_out_of_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job/real.json").write_bytes(GOOD)
    (tmp_path / "secret.json").write_bytes(GOOD)
    path = tmp_path / "job/jobReport.json"
    path.symlink_to("real.json")
    report = read_job_report(tmp_path / "job")
    assert report is not None and report.data is not None
    path.unlink()
    path.symlink_to("../secret.json")
    report = read_job_report(tmp_path / "job")
    assert report is not None and report.data is None and "link" in report.problem and report.text == ""


def test_200_mb_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "jobReport.json"
    with path.open("wb") as stream:
        stream.write(b'{"exitCode": 0, "x": "')
        stream.truncate(200 * 1024 * 1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = read_job_report(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert report is not None and report.data is None and report.text == ""
    assert "209715200 bytes" in report.problem


@pytest.mark.parametrize("depth", [900, 3000, 9000, 50_000])
@pytest.mark.parametrize(("left", "right"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_is_nested_deeply_is_parsed_or_refused(tmp_path: Path, depth: int, left: bytes, right: bytes) -> None:
    inner = b"" if left == b"[" else b"1"
    raw = b'{"exitCode": 65, "files": ' + left * depth + inner + right * depth + b"}"
    (tmp_path / "jobReport.json").write_bytes(raw)
    report = read_job_report(tmp_path)
    assert report is not None
    if report.tree is None:
        assert "not valid JSON" in report.problem
    else:
        assert report.data is not None and report.data.exit_code == 65
        compact(report.tree)


def mutated(generator: random.Random, value: Any, depth: int = 0) -> Any:
    """The same tree with some values replaced by what does not belong there."""
    strange: list[Any] = [
        None, True, -1, 0, 2**70, 1.5, float("nan"), float("inf"), "", "x" * 300, "12", [], {}, [[[]]],
        {"a": {"b": []}},
        "bad_alloc", "\udc80", "\x00", "Cannot find a valid frontier connection x",
    ]
    if generator.random() < 0.06:
        return generator.choice(strange)
    if isinstance(value, dict):
        pairs = [(key, mutated(generator, item, depth + 1)) for key, item in value.items() if generator.random() > 0.02]
        return [item for _, item in pairs] if generator.random() < 0.04 else dict(pairs)
    if isinstance(value, list):
        items = [mutated(generator, item, depth + 1) for item in value if generator.random() > 0.02]
        return {str(number): item for number, item in enumerate(items)} if generator.random() < 0.04 else items
    return value


def use(data: JobReportData) -> None:
    assert isinstance(exe_error(data).diag, str) and isinstance(said(data), str)
    assert data.nevents >= 0 and data.db_time >= 0 and data.entries >= 0


def test_random_trees_never_raise() -> None:
    generator = random.Random(20260131)
    for number in range(1500):
        report = failed_report("got a SIGSEGV signal") if number % 2 else good_report()
        tree = mutated(generator, report)
        if not isinstance(tree, dict):
            continue
        data = parse_job_report(tree)
        use(data)
        assert data == parse_job_report(tree) or "nan" in str(tree)
        without_surplus(tree)
        json.loads(compact(tree) or "{}")


def test_random_bytes_never_raise(tmp_path: Path) -> None:
    generator = random.Random(4711)
    original = json.dumps(good_report()).encode()
    path = tmp_path / "jobReport.json"
    for _ in range(400):
        raw = bytearray(original)
        for _ in range(generator.randint(1, 8)):
            place = generator.randrange(len(raw))
            kind = generator.randrange(4)
            if kind == 0:
                raw[place] = generator.randrange(256)
            elif kind == 1:
                del raw[place:place + generator.randint(1, 50)]
            elif kind == 2:
                raw[place:place] = generator.choice((b"[", b"{", b'"', b"\\u", b"NaN", b"1e9", b"\xff", b",", b"\x00"))
            else:
                del raw[max(place, 1):]
            if not raw:
                raw = bytearray(b"{")
        path.write_bytes(raw)
        report = read_job_report(tmp_path)
        assert report is not None
        if report.data is not None and report.tree is not None:
            use(report.data)
            json.loads(compact(report.tree))
        read_error_report(tmp_path, path.name)


# --- metaData -------------------------------------------------------------------------------------------------------


def test_no_more_than_25_warnings_of_each_step() -> None:
    tree, dropped = without_surplus(good_report())
    assert dropped == 5
    details = tree["executor"][0]["logfileReport"]["details"]  # type: ignore[index]
    assert [item["firstLine"] for item in details["WARNING"]] == list(range(25))
    assert len(details["ERROR"]) == 1
    assert without_surplus(good_report(executor={"a": {"logfileReport": {"details": {"WARNING": [{}] * 26}}}}))[1] == 1
    assert without_surplus(good_report(executor=7))[1] == 0


def test_a_long_report_leaves_out_what_the_server_does_not_read() -> None:
    text = compact(good_report(), 10_000)
    assert json.loads(text) == good_report() and " : " not in text and '": ' not in text
    shorter = json.loads(compact(good_report(), 3000))
    assert [step["logfileReport"] for step in shorter["executor"]] == [{}, {}]
    assert shorter["resource"] == good_report()["resource"]
    shortest = json.loads(compact(good_report(), 900))
    assert set(shortest) == {"reportVersion", "exitCode", "exitAcronym", "exitMsg", "files"}
    assert shortest["files"]["output"] == good_report()["files"]["output"]
    assert compact(good_report(), 50) == ""
    assert sendable("x" * 11, 10) == "" and sendable("x", 10) == "x"


def test_the_node_joins_what_is_json() -> None:
    assert json.loads(with_entries('{"exitCode": 0}', {"worker_node": {"site": "X"}})) == {
        "exitCode": 0, "worker_node": {"site": "X"}}
    assert json.loads(with_entries("", {"worker_node": 1})) == {"worker_node": 1}
    assert with_entries("<xml/>", {"worker_node": 1}) == "<xml/>"
    assert with_entries("", {}) == ""


def test_a_shortened_report_leaves_the_original(tmp_path: Path) -> None:
    (tmp_path / "jobReport.json").write_text("long")
    replace_report(tmp_path, "jobReport.json", "short")
    assert (tmp_path / "jobReport.json").read_text() == "short"
    assert (tmp_path / "jobReport.json.original").read_text() == "long"
    (tmp_path / "jobReport.json").unlink()
    (tmp_path / "jobReport.json.original").unlink()
    (tmp_path / "jobReport.json.original").mkdir()
    (tmp_path / "jobReport.json").write_text("long")
    replace_report(tmp_path, "jobReport.json", "short")  # cannot be kept: then nothing is replaced
    assert (tmp_path / "jobReport.json").read_text() == "long"
