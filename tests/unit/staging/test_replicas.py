"""Where an input may be read, and in which order: Rucio's answer, the queue's endpoints and permissions."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.staging.replicas import (
    CATALOGUE_SCHEMES,
    VP_EXPRESSION,
    NoReplicas,
    candidates,
    client_location,
    replicas_of,
    storage_url,
)
from pilot.staging.stagein import stage_in
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperFailure

ROOT = "root://se.site.org:1094//pnfs/x/EVNT.1._000001.pool.root.1"
ANSWER: dict[str, Any] = {
    "scope": "mc23_13p6TeV", "name": "EVNT.1._000001.pool.root.1", "bytes": 123456, "adler32": "0a1b2c3d", "md5": None,
    "rses": {"SITE_DATADISK": [ROOT]}, "states": {"SITE_DATADISK": "AVAILABLE"},
    "pfns": {ROOT: {"rse": "SITE_DATADISK", "rse_id": "0123", "type": "DISK", "volatile": False, "domain": "lan",
                    "priority": 1, "client_extract": False}},
}
"""The composed example of the data management document, 4.1."""


def row(*entries: tuple[str, str, Any], **more: Any) -> dict[str, Any]:
    """(RSE, URL, priority)"""
    return {"pfns": {url: {"rse": rse, "type": "DISK", "priority": priority, "domain": "lan", **more}
                     for rse, url, priority in entries}}


def urls(spec: FileSpec, answer: dict[str, Any]) -> list[str]:
    return [item["pfn"] for item in replicas_of(spec, answer)]


# --- the order of the list -------------------------------------------------------------------------------------------
def test_the_example_of_the_document() -> None:
    spec = FileSpec("EVNT.1._000001.pool.root.1", inputddms=["SITE_DATADISK"])
    assert replicas_of(spec, ANSWER) == [{"pfn": ROOT, "ddmendpoint": "SITE_DATADISK", "domain": "lan"}]
    spec.inputddms = ["OTHER"]
    assert replicas_of(spec, ANSWER) == [{"pfn": ROOT, "ddmendpoint": "SITE_DATADISK", "domain": "wan"}]


@pytest.mark.parametrize(
    ("own", "order"),
    [
        ([], ["B1", "A1", "C1", "A2"]),
        (["A"], ["A1", "A2", "B1", "C1"]),
        (["C", "A"], ["C1", "A1", "A2", "B1"]),
        (["C", "A", "C"], ["C1", "A1", "A2", "B1"]),
        (["D"], ["B1", "A1", "C1", "A2"]),
    ],
)
def test_own_endpoints_come_first_in_their_order_then_rucios_priority(own: list[str], order: list[str]) -> None:
    answer = row(("A", "A1", 2), ("A", "A2", 4), ("B", "B1", 1), ("C", "C1", 3))
    assert urls(FileSpec("x", inputddms=own), answer) == order


def test_a_replica_without_priority_comes_last() -> None:
    assert urls(FileSpec("x"), row(("A", "A1", None), ("B", "B1", 7))) == ["B1", "A1"]


def test_the_domain_is_ours_whatever_rucio_says() -> None:
    answer = row(("A", "A1", 1), ("B", "B1", 2), domain="zip")
    assert [item["domain"] for item in replicas_of(FileSpec("x", inputddms=["B"]), answer)] == ["lan", "wan"]


@pytest.mark.parametrize("more", [{"type": "TAPE"}, {"client_extract": True}])
def test_tapes_and_archives_that_nobody_unpacks_are_no_replicas(more: dict[str, Any]) -> None:
    assert urls(FileSpec("x", inputddms=["A"]), row(("A", "A1", 1), **more)) == []


# --- who may be read -------------------------------------------------------------------------------------------------
LAN, WAN = ("HERE", "root://se//lan"), ("THERE", "root://far//wan")


@pytest.mark.parametrize(
    ("queue", "fields", "expected"),
    [
        ({}, {}, ["root://se//lan"]),
        ({"allow_wan": True}, {}, ["root://se//lan", "root://far//wan"]),
        ({}, {"allow_wan": True}, ["root://se//lan", "root://far//wan"]),
        ({"allow_lan": False, "allow_wan": True}, {}, ["root://far//wan"]),
        ({"allow_wan": True}, {"allow_lan": False}, ["root://far//wan"]),
        ({"allow_lan": False}, {}, []),
        ({"catchall": "allow_wan_for_lib"}, {}, ["root://se//lan"]),
        ({"catchall": "allow_wan_for_lib"}, {"lfn": "user.x.lib.tgz"}, ["root://se//lan", "root://far//wan"]),
    ],
)
def test_permissions_of_queue_and_file(planned: Any, queue: Any, fields: Any, expected: list[str]) -> None:
    spec = planned.wanted(fields.pop("lfn", "in.root"), LAN, WAN, inputddms=["HERE"], **fields)
    ctx = planned.plan(**queue)
    spec.replicas = replicas_of(spec, planned.rucio.rows[spec.lfn])
    if not expected:
        with pytest.raises(NoReplicas) as caught:
            candidates(spec, ctx, [])
        assert caught.value.code == 1326
        assert "allow_lan=False, allow_wan=False" in caught.value.detail
        return
    assert [replica.url for replica in candidates(spec, ctx, [])] == expected


@pytest.mark.parametrize(
    ("schemes", "expected"),
    [
        ([], ["dcap://se/1", "davs://se/2", "root://far//3", "davs://far/5"]),
        (["root"], ["root://far//3"]),
        (["davs", "root"], ["davs://se/2", "root://far//3", "davs://far/5"]),
        (["root", "davs"], ["davs://se/2", "root://far//3", "davs://far/5"]),
        (["file", "dcap"], ["dcap://se/1"]),
    ],
)
def test_schemes_filter_and_never_sort_and_some_are_for_lan_only(
    planned: Any, schemes: list[str], expected: list[str]
) -> None:
    spec = planned.wanted("a", ("HERE", "dcap://se/1"), ("HERE", "davs://se/2"), ("THERE", "root://far//3"),
                          ("THERE", "file:///4"), ("THERE", "davs://far/5"), inputddms=["HERE"])
    spec.replicas = replicas_of(spec, planned.rucio.rows["a"])
    assert [replica.url for replica in candidates(spec, planned.plan(allow_wan=True), schemes)] == expected


@pytest.mark.parametrize(
    ("wish", "schemes", "first"),
    [
        ({}, ["davs"], "davs://se/1"),
        ({"lan": True}, ["davs"], "root://se//2"),
        ({"lan": True}, [], "root://se//2"),
        ({"wan": True}, ["davs"], "davs://se/1"),
        ({"wan": True}, ["srm"], "root://far//3"),
    ],
)
def test_direct_access_prefers_its_own_schemes_in_its_domain(planned: Any, wish: Any, schemes: Any, first: str) -> None:
    spec = planned.wanted("a", ("HERE", "davs://se/1"), ("HERE", "root://se//2"), ("THERE", "root://far//3"),
                          inputddms=["HERE"])
    spec.replicas = replicas_of(spec, planned.rucio.rows["a"])
    assert candidates(spec, planned.plan(allow_wan=True), schemes, wish)[0].url == first


def test_the_storage_url_is_the_srm_one_of_the_same_endpoint() -> None:
    spec = FileSpec("x", replicas=replicas_of(FileSpec("x"), row(
        ("A", "root://a//x", 1), ("B", "srm://b/x", 2), ("A", "srm://a/x", 3), ("C", "davs://c/x", 4))))
    found = {item["pfn"]: storage_url(spec, replica) for item, replica in zip(
        spec.replicas or [], candidates_of(spec))}
    assert found["root://a//x"] == "srm://a/x"
    assert found["davs://c/x"] == "davs://c/x"


def candidates_of(spec: FileSpec) -> list[Any]:
    from pilot.copytool.base import Replica

    return [Replica(item["pfn"], item["ddmendpoint"], item["domain"]) for item in spec.replicas or []]


# --- the call --------------------------------------------------------------------------------------------------------
def test_one_call_for_all_files_and_all_tools(planned: Any) -> None:
    for number in range(5):
        planned.wanted(f"f{number}", ("HERE", f"davs://se/{number}"))
    planned.script.on(PilotException("down", code=1324), tool="first")
    ctx = planned.plan("first", "second", acopytools_schemas={"default": {"second": ["davs", "xroot"]}})
    stage_in(planned.job, ctx, CancelToken())
    ((op, args),) = planned.rucio.calls
    assert op == "list_replicas"
    assert [did["name"] for did in args["dids"]] == [f"f{number}" for number in range(5)]
    assert set(args["schemes"]) == {*CATALOGUE_SCHEMES, "xroot"}
    assert args["signature_lifetime"] == 86400
    assert (args["rse_expression"], args["ignore_availability"]) == (None, None)


def test_a_job_on_virtual_placement_reads_root_on_disk_anywhere(planned: Any) -> None:
    planned.wanted("a", ("HERE", "davs://se/x"), ("HERE", "root://se//x"))
    ctx = planned.plan("second")
    ctx.use_vp = True
    ctx.environ = {"RUCIO_LATITUDE": "46.2", "RUCIO_LONGITUDE": "6.1", "PILOT_RUCIO_SITENAME": "CERN"}
    stage_in(planned.job, ctx, CancelToken())
    args = planned.rucio.calls[0][1]
    assert (args["schemes"], args["rse_expression"], args["ignore_availability"]) == (["root"], VP_EXPRESSION, False)
    assert VP_EXPRESSION == "istape=False\\type=SPECIAL"
    assert (args["client_location"]["latitude"], args["client_location"]["longitude"]) == (46.2, 6.1)
    assert planned.script.tried == [("second", "a", "root://se//x")]


def test_the_location_names_the_site_and_never_a_place_that_nobody_knows() -> None:
    here = client_location({"PILOT_RUCIO_SITENAME": "SITE", "RUCIO_LATITUDE": "1"})
    assert here["site"] == "SITE"
    assert here["ip"].count(".") == 3
    assert "latitude" not in here
    assert "latitude" not in client_location({"RUCIO_LATITUDE": "north"}, vp=True)


def test_the_site_is_unknown_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOT_RUCIO_SITENAME", raising=False)
    assert client_location({})["site"] == "unknown"


def test_a_failed_look_up_is_asked_once_and_reported_as_such(planned: Any) -> None:
    spec = planned.wanted("a", LAN)
    planned.rucio.problem = HelperFailure({"text": "the server is down"})
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan("first", "second"), CancelToken())
    assert caught.value.code == 1322
    assert "Failed to get replicas from Rucio: the server is down" in caught.value.detail
    assert caught.value.detail.count("the server is down") == 1
    assert len(planned.rucio.calls) == 1
    assert spec.status_code == 1322
    assert [(record.code, record.state) for record in planned.records] == [(1322, "NO_REPLICA")]


def test_after_a_failed_look_up_a_tool_without_need_of_it_still_helps(planned: Any) -> None:
    spec = planned.wanted("a", LAN)
    planned.rucio.problem = HelperFailure({"text": "the server is down"})
    stage_in(planned.job, planned.plan("first", "linker"), CancelToken())
    assert spec.status == "transferred"


def test_a_file_that_rucio_does_not_know_fails_alone_with_what_rucio_has(planned: Any) -> None:
    planned.wanted("good", LAN)
    planned.wanted("unknown")
    planned.wanted("elsewhere", ("TAPE_OR_FAR", "srm://far/x"))
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(), CancelToken())
    assert caught.value.code == 1326
    assert "No replica found for lfn=unknown (allow_lan=True, allow_wan=False" in caught.value.detail
    assert "Rucio has: nothing on disk" in caught.value.detail
    assert "2 of 3 files failed" in caught.value.detail
    assert [spec.status for spec in planned.job.indata] == ["transferred", "failed", "failed"]
    texts = {record.lfn: (record.code, record.state, record.text) for record in planned.records}
    assert texts["elsewhere"][:2] == (1326, "NO_REPLICA")
    assert "Rucio has: srm at TAPE_OR_FAR (wan); endpoints of the queue: HERE" in texts["elsewhere"][2]
    assert len(planned.records) == 3, "one record per file"


# --- what the catalogue adds -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        ({}, {"adler32": "0a1b2c3d", "md5": None}, {"adler32": "0a1b2c3d"}),
        ({}, {"adler32": None, "md5": "d" * 32}, {"md5": "d" * 32}),
        ({"adler32": ""}, {"adler32": "0a1b2c3d"}, {"adler32": "0a1b2c3d"}),
        ({"md5": "e" * 32}, {"adler32": "0a1b2c3d"}, {"md5": "e" * 32}),
        ({"adler32": "1"}, {"adler32": "0a1b2c3d"}, {"adler32": "1"}),
        ({}, {}, {}),
    ],
)
def test_missing_checksums_come_from_the_catalogue(planned: Any, given: Any, known: Any, expected: Any) -> None:
    spec = planned.wanted("a", checksum=given, size=0)
    planned.rucio.add("a", LAN, bytes=77, **known)
    stage_in(planned.job, planned.plan(), CancelToken())
    ((_, order),) = planned.script.orders
    assert (order.size, order.checksum) == (77, expected)
    assert spec.filesize == 77


def test_what_differs_from_the_catalogue_is_told_and_the_jobs_word_counts(
    planned: Any, caplog: pytest.LogCaptureFixture
) -> None:
    planned.wanted("a", size=5, checksum={"adler32": "00000001"})
    planned.rucio.add("a", LAN, bytes=6, adler32="0A1B2C3D")
    planned.wanted("same", size=5, checksum={"adler32": "a1b2c3d"})
    planned.rucio.add("same", LAN, bytes=5, adler32="0A1B2C3D")
    stage_in(planned.job, planned.plan(), CancelToken())
    assert "a: the job says 5 B, Rucio 6 B" in caplog.text
    assert "a: the job says adler32 00000001, Rucio 0A1B2C3D" in caplog.text
    assert "same: the job says" not in caplog.text
    assert {order.lfn: order.size for _, order in planned.script.orders} == {"a": 5, "same": 5}


def test_the_same_name_in_another_scope_is_another_file(planned: Any) -> None:
    planned.wanted("a", scope="mc23")
    planned.rucio.add("a", LAN, scope="data")
    with pytest.raises(PilotException) as caught:
        stage_in(planned.job, planned.plan(), CancelToken())
    assert caught.value.code == 1326
