"""Rucio traces: every field, every case, nothing of one file in the trace of another, valid by Rucio's own schema."""

from __future__ import annotations

import json
import re
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest

from pilot.info.job import Job
from pilot.staging.context import TransferRecord
from pilot.staging.traces import LONGEST_REASON, TraceBase, trace_base, trace_of

SCHEMA = json.loads((Path(__file__).parents[2] / "data" / "rucio-trace-schema.json").read_text())
LFN = "EVNT.1._000001.pool.root.1"
TURL = f"root://se.site.org:1094//pnfs/x/{LFN}"


def check_schema(trace: dict[str, Any]) -> None:
    """Fail when Rucio would complain about the trace."""
    rules = SCHEMA["get" if trace["eventType"].startswith("get") else "put"]
    assert trace["eventType"] in rules["eventType"]
    assert set(rules["required"]) <= set(trace)
    for name in rules["strings"]:
        assert isinstance(trace.get(name, ""), str), name
    for name in rules["strings or null"]:
        assert trace.get(name) is None or isinstance(trace[name], str), name
    assert re.fullmatch(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", trace["uuid"])
    json.dumps(trace, allow_nan=False)


def base_of(analysis: bool = False, **environ: str) -> TraceBase:
    job = Job(jobid="6000000001", taskid="30000001", jobdefinitionid="77", produserid="Jane Doe",
              transformation="https://trf.example.org/run" if analysis else "Sim_tf.py")
    return trace_base(job, environ={"ATLAS_LOCAL_RUCIOCLIENTS_VERSION": "41.5.1", **environ}, pilot_version="2.99.0.1",
                      host="wn1", queue="SITE_QUEUE", started=1700000000.1)


def download(**fields: Any) -> TransferRecord:
    values = {
        "direction": "stage-in", "lfn": LFN, "tool": "rucio", "endpoint": "SITE_DATADISK", "url": TURL, "size": 123456,
        "started": 1700000003.2, "seconds": 57.0, "transfer_id": f"6000000001.1.in.{LFN}.1",
        "scope": "mc23_13p6TeV", "dataset": "mc23:ds", "guid": "4ACC5018-2EA3-B441-BC11-0C0992847FD1",
        "resolved": 1700000003.2, "validated": 1700000002.0, "transfer_start": 1700000001.0, **fields}
    return TransferRecord(**values)


def upload(**fields: Any) -> TransferRecord:
    return download(**{"direction": "stage-out", "local_url": f"/work/{LFN}", **fields})


def made(record: TransferRecord, base: TraceBase | None = None) -> dict[str, Any]:
    trace = trace_of(base or base_of(), record)
    assert trace is not None
    check_schema(trace)
    return trace


def test_the_composed_example_of_the_specification() -> None:
    assert made(download(), base_of(analysis=True)) == {
        "eventType": "get_sm_a", "eventVersion": "2.99.0.1+41.5.1", "protocol": "root", "clientState": "DONE",
        "localSite": "SITE_DATADISK", "remoteSite": "SITE_DATADISK", "timeStart": 1700000000.1,
        "catStart": 1700000003.2, "relativeStart": 1700000001.0, "transferStart": 1700000001.0,
        "validateStart": 1700000002.0, "timeEnd": 1700000060.2, "dataset": "mc23:ds", "version": None, "duid": None,
        "filename": LFN, "guid": "4ACC50182EA3B441BC110C0992847FD1", "filesize": 123456,
        "usr": md5(b"Jane Doe").hexdigest(), "appid": "6000000001", "hostname": "wn1", "ip": "0.0.0.0",
        "suspicious": "0", "usrdn": "Jane Doe", "url": TURL, "stateReason": "OK",
        "uuid": md5(b"ppilot_77").hexdigest(), "taskid": "30000001", "pq": "SITE_QUEUE", "scope": "mc23_13p6TeV",
        "transferId": f"6000000001.1.in.{LFN}.1",
    }


@pytest.mark.parametrize(("record", "expected"), [
    pytest.param(download(), ("get_sm", "DONE", "OK", "root", TURL), id="download"),
    pytest.param(download(protocol="davs"), ("get_sm", "DONE", "OK", "davs", TURL), id="scheme-of-the-client"),
    pytest.param(download(code=1331, state="MISSING_INPUT", text="no such file"),
                 ("get_sm", "MISSING_INPUT", "no such file", "root", TURL), id="download-failed"),
    pytest.param(download(code=1151, state="CP_TIMEOUT", text="copy command timed out"),
                 ("get_sm", "CP_TIMEOUT", "copy command timed out", "root", TURL), id="time-out"),
    pytest.param(download(code=1171, state="AD_MISMATCH", text="checksum verification failed for LFN=x"),
                 ("get_sm", "AD_MISMATCH", "checksum verification failed for LFN=x", "root", TURL), id="checksum"),
    pytest.param(download(code=1326, state="NO_REPLICA", text="no replica of x", tool="", url=""),
                 ("get_sm", "NO_REPLICA", "no replica of x", None, None), id="no-replica"),
    pytest.param(download(code=1168, state="STAGEIN_ATTEMPT_FAILED", text="too large input", tool="", url=""),
                 ("get_sm", "STAGEIN_ATTEMPT_FAILED", "too large input", None, None), id="too-large"),
    pytest.param(download(state="FOUND_ROOT", text="direct_access", tool="direct"),
                 ("get_sm", "FOUND_ROOT", "direct_access", "root", TURL), id="direct-access"),
    pytest.param(download(code=1361, state="FAILED_REMOTE_OPEN", text="no such file", tool="direct"),
                 ("get_sm", "FAILED_REMOTE_OPEN", "no such file", "root", TURL), id="open-failed"),
    pytest.param(upload(), ("put_sm", "DONE", "OK", "root", f"/work/{LFN}"), id="upload"),
    pytest.param(upload(is_log=True), ("put_sm", "DONE", "OK", "root", f"/work/{LFN}"), id="log"),
    pytest.param(upload(code=1221, state="FILE_EXISTS", text="File exists"),
                 ("put_sm", "FILE_EXISTS", "File exists", "root", f"/work/{LFN}"), id="upload-failed"),
    pytest.param(upload(code=1165, state="MISSINGOUTPUTFILE", tool="", url="", local_url="",
                        text="output pfn file/directory does not exist: /work/x"),
                 ("put_sm", "MISSINGOUTPUTFILE", "output pfn file/directory does not exist: /work/x", None, None),
                 id="output-missing"),
    pytest.param(upload(code=1201, state="STAGEOUT_ATTEMPT_FAILED", text="the pilot received signal SIGTERM"),
                 ("put_sm", "STAGEOUT_ATTEMPT_FAILED", "the pilot received signal SIGTERM", "root", f"/work/{LFN}"),
                 id="killed"),
    pytest.param(upload(url=""), ("put_sm", "DONE", "OK", None, f"/work/{LFN}"), id="no-turl"),
])  # fmt: skip
@pytest.mark.parametrize("analysis", [False, True])
def test_case(record: TransferRecord, expected: tuple[object, ...], analysis: bool) -> None:
    trace = made(record, base_of(analysis))
    event = f"{expected[0]}{'_a' if analysis else ''}"
    names = ("eventType", "clientState", "stateReason", "protocol", "url")
    assert tuple(trace[name] for name in names) == (event, *expected[1:])
    assert (trace["remoteSite"], trace["scope"], trace["dataset"]) == ("SITE_DATADISK", "mc23_13p6TeV", "mc23:ds")


def test_nothing_of_one_file_gets_into_the_next() -> None:
    base = base_of()
    fresh = made(download(lfn="second", scope="", dataset="", guid="", url="", validated=0.0), base)
    made(download(code=1331, state="MISSING_INPUT", text="gone"), base)
    again = made(download(lfn="second", scope="", dataset="", guid="", url="", validated=0.0), base)
    assert again == fresh
    assert (again["scope"], again["guid"], again["protocol"], again["stateReason"]) == ("", "", None, "OK")


def test_both_endpoints_of_an_alternative_stage_out_are_named() -> None:
    first = made(upload(endpoint="NEAR", code=1137, state="COPY_ERROR", text="refused"))
    second = made(upload(endpoint="NUCLEUS", transfer_id="6000000001.1.out.x.2"))
    assert [(trace["remoteSite"], trace["localSite"]) for trace in (first, second)] == [
        ("NEAR", "NEAR"), ("NUCLEUS", "NUCLEUS")]


def test_the_sites_own_word_on_the_local_site_wins() -> None:
    trace = made(download(), base_of(RUCIO_LOCAL_SITE_ID="SITE_LOCAL"))
    assert (trace["localSite"], trace["remoteSite"]) == ("SITE_LOCAL", "SITE_DATADISK")


@pytest.mark.parametrize("record", [download(endpoint=""), download(traced=False)])
def test_no_trace_without_a_remote_site_or_of_a_tool_that_sends_none(record: TransferRecord) -> None:
    assert trace_of(base_of(), record) is None


def test_a_job_without_definition_id_has_an_identity_of_its_own() -> None:
    bases = [trace_base(Job(jobid=name), environ={}, pilot_version="2", host="h", queue="Q", started=1.0)
             for name in ("1", "2")]
    traces = [made(download(), base) for base in bases]
    assert traces[0]["uuid"] != traces[1]["uuid"]
    assert traces[0]["eventVersion"] == "2+"


@pytest.mark.parametrize("url", [
    "https://s3.example.org/b/k?X-Amz-Credential=AKIDEXAMPLE&X-Amz-Signature=deadbeefdeadbeef",
    "davs://se.example.org/f?authz=Bearer%20eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
    "https://jane:s3cr3tpw@se.example.org/f",
])
def test_secrets_in_urls_and_texts_are_masked(url: str) -> None:
    trace = made(download(url=url, code=1099, state="COPY_ERROR", text=f"cannot read {url}"))
    text = json.dumps(trace)
    for secret in ("deadbeef", "AKIDEXAMPLE", "eyJhbGciOi", "s3cr3tpw"):
        assert secret not in text
    assert str(trace["url"]).startswith(url.partition("?")[0].partition("://")[0])


def test_the_reason_is_one_bounded_line_without_backslashes() -> None:
    trace = made(download(text="C:\\dir\nsecond line " + "x" * 5000, code=1099, state="COPY_ERROR"))
    assert str(trace["stateReason"]).startswith("C:dir second line x")
    assert len(str(trace["stateReason"])) == LONGEST_REASON


@pytest.mark.parametrize("url", ["root://[broken//x", "/pnfs/x", "", "nonsense"])
def test_odd_urls_make_a_trace_all_the_same(url: str) -> None:
    made(download(url=url))


def test_times_that_are_not_known_are_taken_from_what_is_known() -> None:
    trace = made(download(resolved=0.0, validated=0.0, transfer_start=0.0))
    assert {trace[name] for name in ("catStart", "validateStart", "transferStart", "relativeStart")} == {1700000003.2}
