"""Which inputs stay where they are: job, file name, queue and replica decide, file by file (data management, 5)."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Replica
from pilot.info.filespec import FileSpec
from pilot.info.jobparser import parse_job
from pilot.staging.catalog import read_catalog
from pilot.staging.directaccess import decide, mark_remote, wish
from pilot.staging.stagein import stage_in
from pilot.util.cancel import CancelToken

LAN, WAN = ("HERE", "root://se//lan"), ("THERE", "root://far//wan")
NO_TEST = {"pilot__remotefileverification_log": ""}
BOTH = {"direct_access_lan": True, "direct_access_wan": True, "allow_wan": True}


# --- what the job says -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("transformation", "transfer_type", "token", "parameters", "mode"),
    [
        ("Reco_tf.py", "", "", "", "copy"),
        ("Reco_tf.py", "direct", "", "", "direct"),
        ("Reco_tf.py", "direct", "local", "", "copy"),
        ("Reco_tf.py", "fax", "", "", "copy"),
        ("http://host/trf/runGen", "", "", "", "direct"),
        ("https://host/trf/runGen", "", "local", "", "copy"),
        ("https://host/trf/runGen", "", "", "--accessmode=copy", "copy"),
        ("https://host/trf/runGen", "", "", "--useLocalIO", "copy"),
        ("Reco_tf.py", "", "", "--accessmode=direct", "direct"),
        ("Reco_tf.py", "", "local", "--accessmode=direct", "direct"),
        ("Reco_tf.py", "direct", "", "--accessmode=direct --useLocalIO", "copy"),
        ("Reco_tf.py", "direct", "", "--accessmode=direct --accessmode=copy", "copy"),
    ],
)
def test_the_access_mode_of_a_job(
    transformation: str, transfer_type: str, token: str, parameters: str, mode: str
) -> None:
    job = parse_job({
        "PandaID": 1, "transformation": transformation, "transferType": transfer_type, "jobPars": parameters,
        "inFiles": "a.root", "prodDBlockToken": token, "GUID": "A", "fsize": "1", "checksum": "ad:1", "scopeIn": "s"})
    assert [spec.accessmode for spec in job.indata] == [mode]


def test_files_of_one_job_may_differ() -> None:
    job = parse_job({"PandaID": 1, "transformation": "https://host/runGen", "inFiles": "a.root,b.lib.tgz",
                     "prodDBlockToken": "NULL,local"})
    assert [spec.accessmode for spec in job.indata] == ["direct", "copy"]


# --- the decision ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("queue", "domain", "url", "lfn", "mode", "direct", "why"),
    [
        (BOTH, "lan", "root://se//x", "a.root", "direct", True, "root replica at RSE (LAN)"),
        (BOTH, "wan", "root://se//x", "a.root", "direct", True, "root replica at RSE (WAN)"),
        (BOTH, "lan", "file:///x", "a.root", "direct", True, "file replica"),
        (BOTH, "lan", "dcap://se/x", "a.root", "direct", True, "dcap replica"),
        (BOTH, "lan", "https://se/x", "a.root", "direct", True, "https replica"),
        (BOTH, "wan", "https://se/x", "a.root", "direct", True, "https replica"),
        (BOTH, "lan", "davs://se/x", "a.root", "direct", False, "davs URLs are not opened remotely in the LAN"),
        (BOTH, "wan", "file:///x", "a.root", "direct", False, "file URLs are not opened remotely in the WAN"),
        (BOTH, "wan", "dcap://se/x", "a.root", "direct", False, "dcap URLs are not opened remotely in the WAN"),
        (BOTH, "lan", "root://se//x", "a.root", "copy", False, "accessmode copy"),
        (BOTH, "lan", "root://se//x", "a.root", "", False, "accessmode not given"),
        (BOTH, "lan", "root://se//x", "A.TAR.GZ", "direct", False, ".tar.gz"),
        (BOTH, "lan", "root://se//x", "user.x.lib.tgz", "direct", False, ".lib.tgz"),
        (BOTH, "lan", "root://se//x", "data23.RAW.1", "direct", False, ".raw."),
        (BOTH, "lan", "root://se//x", "RAW.1", "direct", False, "raw.*"),
        (BOTH, "lan", "root://se//x", "draw.root", "direct", True, ""),
        ({"direct_access_lan": True, "allow_wan": True}, "wan", "root://se//x", "a", "direct", False,
         "no direct_access_wan"),
        ({"direct_access_wan": True, "allow_wan": True}, "lan", "root://se//x", "a", "direct", False,
         "no direct_access_lan"),
        ({}, "lan", "root://se//x", "a", "direct", False, "neither direct_access_lan nor direct_access_wan"),
    ],
)
def test_the_decision_and_its_reason(
    planned: Any, queue: Any, domain: str, url: str, lfn: str, mode: str, direct: bool, why: str
) -> None:
    spec = FileSpec(lfn, accessmode=mode)
    wanted = wish(spec, planned.plan(**queue))
    assert decide(spec, wanted, Replica(url, "RSE", domain))[0] is direct
    assert why in decide(spec, wanted, Replica(url, "RSE", domain))[1]


@pytest.mark.parametrize(
    ("queue", "lan", "wan"),
    [
        (BOTH, True, True),
        ({**BOTH, "allow_lan": False}, False, True),
        ({**BOTH, "allow_wan": False}, True, False),
        ({**BOTH, "allow_lan": False, "allow_wan": False}, False, False),
    ],
)
def test_direct_access_needs_the_permission_to_read_there(planned: Any, queue: Any, lan: bool, wan: bool) -> None:
    found = wish(FileSpec("a", accessmode="direct"), planned.plan(**queue))
    assert (found.lan, found.wan) == (lan, wan)


@pytest.mark.parametrize(("domain", "prefix"), [("lan", "${ALRB_XCACHE_PROXY}"), ("wan", "")])
def test_an_xcache_stands_before_urls_of_the_lan(domain: str, prefix: str) -> None:
    spec = FileSpec("a")
    mark_remote(spec, Replica("root://se//x", "RSE", domain), {"ALRB_XCACHE_PROXY": "root://cache//"})
    assert (spec.turl, spec.status) == (f"{prefix}root://se//x", "remote_io")
    assert (spec.domain, spec.ddmendpoint) == (domain, "RSE")
    mark_remote(spec, Replica("root://se//x", "RSE", domain), {})
    assert spec.turl == "root://se//x"


# --- in a stage-in ---------------------------------------------------------------------------------------------------
def test_a_mixed_job_copies_some_and_leaves_others(planned: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    planned.wanted("remote.root", LAN, accessmode="direct", size=1 << 60)
    planned.wanted("some.tar.gz", ("HERE", "root://se//tar"), accessmode="direct")
    planned.wanted("copied.root", ("HERE", "root://se//copied"), accessmode="copy")
    stage_in(planned.job, planned.plan(direct_access_lan=True, settings=NO_TEST, maxwdir=1), CancelToken())
    assert [spec.status for spec in planned.job.indata] == ["remote_io", "transferred", "transferred"]
    assert sorted(lfn for _, lfn, _ in planned.script.tried) == ["copied.root", "some.tar.gz"]
    assert "input remote.root: direct access: root replica at HERE (LAN), allowed by job and queue" in caplog.text
    assert "input some.tar.gz: copied: files with .tar.gz in the name are always copied" in caplog.text
    assert "input copied.root: copied: the job asks for a copy (accessmode copy)" in caplog.text


def test_the_catalogue_has_urls_of_remote_files_and_names_of_copies(
    planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALRB_XCACHE_PROXY", "root://cache:1094//")
    signed = "https://se/x/remote.root?sig=a%2Fb&expires=1"
    planned.wanted("remote.root", ("HERE", signed), accessmode="direct")
    planned.wanted("copied.root", LAN, accessmode="copy")
    ctx = planned.plan(direct_access_lan=True, settings=NO_TEST, environ={"ALRB_XCACHE_PROXY": "root://cache:1094//"})
    stage_in(planned.job, ctx, CancelToken())
    text = (planned.workdir / "PoolFileCatalog.xml").read_text()
    assert f'name="root://cache:1094//{signed.replace("&", "&amp;")}"' in text
    assert read_catalog(planned.workdir / "PoolFileCatalog.xml") == {
        "remote.root": (f"root://cache:1094//{signed}", "GUID-remote.root"),
        "copied.root": ("copied.root", "GUID-copied.root")}


def test_a_copy_falls_back_on_replicas_that_its_tool_can_read_only(planned: Any) -> None:
    """A remote root door is for opening here, not for a tool that the queue allows davs."""
    planned.wanted("a", ("HERE", "davs://se/x"), WAN, accessmode="direct")
    planned.script.on(PilotException("down", code=1324), lfn="a")
    queue = {"direct_access_wan": True, "allow_wan": True, "acopytools_schemas": {"default": ["davs"]}}
    with pytest.raises(PilotException):
        stage_in(planned.job, planned.plan(**queue), CancelToken())
    assert planned.script.tried == [("first", "a", "davs://se/x")]


def test_direct_access_in_the_wan_when_there_is_nothing_nearer(planned: Any) -> None:
    spec = planned.wanted("a", WAN, accessmode="direct")
    queue = {"direct_access_wan": True, "allow_wan": True, "acopytools_schemas": {"default": ["davs"]}}
    stage_in(planned.job, planned.plan(settings=NO_TEST, **queue), CancelToken())
    assert (spec.status, spec.turl, spec.domain) == ("remote_io", "root://far//wan", "wan")


def test_a_file_that_is_not_tested_is_recorded_as_found(planned: Any) -> None:
    planned.wanted("a", LAN, accessmode="direct")
    stage_in(planned.job, planned.plan(direct_access_lan=True, catchall="remoteio_test=false"), CancelToken())
    (record,) = planned.records
    assert (record.state, record.text, record.url, record.endpoint, record.protocol) == (
        "FOUND_ROOT", "direct_access", "root://se//lan", "HERE", "root")
    assert record.transfer_id == "42.0.in.a.1"


def test_a_tool_that_leaves_no_file_remote_copies(planned: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    spec = planned.wanted("a", LAN, accessmode="direct")
    stage_in(planned.job, planned.plan("fetcher", direct_access_lan=True), CancelToken())
    assert spec.status == "transferred"
    assert "input a: copied: copytool fetcher leaves no file remote" in caplog.text
