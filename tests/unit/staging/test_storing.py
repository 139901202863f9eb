"""Where outputs go, what happens when they cannot, and what the server is told (data management document, 7)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import TransferResult
from pilot.info.filespec import FileSpec
from pilot.info.jobparser import parse_job
from pilot.info.storage import StorageData
from pilot.panda.messages import build_output_report
from pilot.staging.destination import prepare_destinations
from pilot.staging.outputs import prepare_outputs
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelToken
from tests.unit.staging.conftest import adler32
from tests.unit.staging.scripted import failure


def rse(name: str, site: str = "SITE", deterministic: Any = True, **activities: str) -> StorageData:
    protocols = {key: [{"endpoint": endpoint, "path": "/rucio", "id": 1}] for key, endpoint in activities.items()}
    return StorageData.from_raw(name, {"is_deterministic": deterministic, "site": site, "arprotocols": protocols})


HERE = rse("HERE", "T2", write_lan="davs://here:443", write_wan="davs://here-wan:443")
THERE = rse("THERE", "T1", write_lan="davs://there:443", write_wan="davs://there-wan:443")
URLS = {"HERE": "davs://here:443/rucio/user/jdoe/7f/01/x.root",
        "THERE": "davs://there-wan:443/rucio/user/jdoe/7f/01/x.root"}


def surroundings(planned: Any, *tools: str, **more: Any) -> Any:
    ctx = planned.plan(*(tools or ("second",)), **more)
    known = {"HERE": HERE, "THERE": THERE}
    ctx.storage = lambda names: {name: known[name] for name in names if name in known}
    return ctx


def send(planned: Any, ctx: Any, *, log: bool = False) -> None:
    stage_out(planned.job, planned.job.outdata, ctx, CancelToken(), log=log)


def refused(planned: Any, ctx: Any, *, log: bool = False) -> PilotException:
    with pytest.raises(PilotException) as caught:
        send(planned, ctx, log=log)
    return caught.value


# --- destinations ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "nucleus", "expected"),
    [
        ("", "", ("A", "B")),
        ("B", "", ("B", "C")),
        ("C", "", ("C", "A")),
        ("N", "", ("A", "N")),
        # the nucleus is a site: none of its endpoints is an alternative
        ("", "SITE_B", ("A", "C")),
        ("B", "SITE_A", ("B", "C")),
        ("C", "SITE_A", ("C", "B")),
        ("N", "SITE_N", ("A", None)),
        # old definitions name an endpoint
        ("", "B", ("A", "C")),
        ("N", "N", ("A", None)),
        ("", "ELSEWHERE", ("A", "B")),
    ],
)
def test_the_alternative_is_never_in_the_nucleus(wanted: str, nucleus: str, expected: Any) -> None:
    spec = FileSpec("x", "output", ddmendpoint=wanted)
    prepare_destinations([spec], ["A", "B", "C"], ["w"], nucleus=nucleus, site_of=lambda name: f"SITE_{name}")
    assert (spec.ddmendpoint, spec.ddmendpoint_alt) == expected


def test_sites_are_asked_for_only_when_it_matters(planned: Any) -> None:
    asked: list[Any] = []
    planned.output("x.root", scope="user.jdoe")
    planned.job.nucleus = "T1"
    ctx = surroundings(planned, "first")
    ctx.storage = lambda names: asked.append(names) or {}
    send(planned, ctx)
    assert asked == []


def test_an_endpoint_in_the_nucleus_is_no_second_chance(planned: Any) -> None:
    planned.output("x.root", scope="user.jdoe")
    planned.job.nucleus, planned.job.altstageout = "T1", True
    planned.script.on(failure(1152, "slow"))
    assert refused(planned, surroundings(planned)).code == 1152
    assert [url for _, _, url in planned.script.tried] == [URLS["HERE"]]


# --- the alternative -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "allowed"), [("on", True), ("off", False), ("force", True), ("", False), ("On", True)])
def test_what_the_server_says_of_the_alternative(planned: Any, text: str, allowed: bool) -> None:
    planned.job.altstageout = parse_job({"PandaID": 1, "transformation": "t", "altStageOut": text}).altstageout
    spec = planned.output("x.root", scope="user.jdoe")
    planned.script.on(failure(1152, "slow"), url=URLS["HERE"])
    if not allowed:
        assert refused(planned, surroundings(planned)).code == 1152
        return
    send(planned, surroundings(planned))
    assert (spec.ddmendpoint, spec.is_altstaged, spec.status, spec.status_code) == ("THERE", True, "transferred", 0)


@pytest.mark.parametrize(("word", "job", "allowed"), [
    (True, False, True), (False, True, False), ("False", True, False), ("true", None, True), (None, True, True)])
def test_the_queue_has_the_last_word(planned: Any, word: Any, job: Any, allowed: bool) -> None:
    planned.job.altstageout = job
    planned.output("x.root", scope="user.jdoe")
    planned.script.on(failure(1152, "slow"), url=URLS["HERE"])
    ctx = surroundings(planned, params={} if word is None else {"allow_altstageout": word})
    if allowed:
        send(planned, ctx)
    else:
        assert refused(planned, ctx).code == 1152


def test_the_alternative_has_its_own_activity_door_and_url(planned: Any) -> None:
    spec = planned.output("x.root", scope="user.jdoe")
    planned.job.altstageout = True
    planned.script.on(failure(1152, "slow"), url=URLS["HERE"])
    send(planned, surroundings(planned))
    assert [url for _, _, url in planned.script.tried] == [URLS["HERE"], URLS["THERE"]]
    assert spec.ddm_activity == ["write_wan"]
    assert build_output_report(planned.job)["x.root"]["surl"] == URLS["THERE"]
    assert build_output_report(planned.job)["x.root"]["endpoint"] == "THERE"
    assert [(r.endpoint, r.code, r.transfer_id) for r in planned.records] == [
        ("HERE", 1152, "42.0.out.x.root.1"), ("THERE", 0, "42.0.out.x.root.2")]


def test_all_tools_are_tried_at_both_places_and_the_first_cause_stays(planned: Any) -> None:
    planned.job.altstageout = True
    planned.output("x.root", scope="user.jdoe")
    planned.script.on(failure(1324, "here it is down"), url=URLS["HERE"])
    planned.script.on(failure(1333, "there it is full"), url=URLS["THERE"])
    planned.script.on(failure(1383, "first may not"), tool="first")
    error = refused(planned, surroundings(planned, "second", "first"))
    assert error.code == 1324
    assert "here it is down" in error.detail
    assert "alternative THERE: there it is full" in error.detail
    assert [tool for tool, _, _ in planned.script.tried] == ["second", "first", "second", "first"]


def test_only_what_is_left_goes_to_the_alternative(planned: Any) -> None:
    planned.job.altstageout = True
    good, bad = planned.output("good", scope="s"), planned.output("bad", scope="s")
    planned.script.on(failure(1152), None, lfn="bad")
    send(planned, surroundings(planned))
    assert (good.ddmendpoint, good.is_altstaged) == ("HERE", False)
    assert (bad.ddmendpoint, bad.is_altstaged) == ("THERE", True)


def test_a_file_without_an_alternative_keeps_all_at_home(planned: Any) -> None:
    planned.job.altstageout = True
    planned.output("a", scope="s")
    planned.output("b", scope="s")
    planned.script.on(failure(1152))
    ctx = surroundings(planned, astorages={"write_lan": ["HERE"], "read_lan": ["HERE"]})
    assert refused(planned, ctx).code == 1152
    assert {order.endpoint for _, order in planned.script.orders} == {"HERE"}


def test_log_and_outputs_are_decided_apart(planned: Any) -> None:
    planned.job.altstageout = True
    log = planned.output("log.tgz", scope="s")
    (planned.home / "log.tgz").write_bytes(b"log")
    ctx = surroundings(planned, astorages={"write_lan": ["HERE", "THERE"], "pl": ["THERE"], "read_lan": ["HERE"]},
                       acopytools={"write_lan": ["second"], "pl": ["first"]})
    send(planned, ctx, log=True)
    assert (log.ddmendpoint, log.ddmendpoint_alt) == ("THERE", None)
    assert [tool for tool, _, _ in planned.script.tried] == ["first"]
    assert planned.records[0].is_log is True
    assert planned.records[0].transfer_id == "42.0.log.log.tgz.1"


# --- what cannot be stored -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("storages", "storage", "code", "words"),
    [
        ({}, {}, 1133, "no associated storages defined for activity=write_lan"),
        ({"write_lan": ["GONE"]}, {}, 1133, "Failed to resolve output ddmendpoint by name=GONE"),
        ({"write_lan": ["R"]}, {"R": rse("R", read_lan="davs://r")}, 1313, "No protocol of R"),
        ({"write_lan": ["R"]}, {"R": rse("R", write_lan="srm://r")}, 1313, "allowed schemes=https,davs"),
        ({"write_lan": ["R"]}, {"R": rse("R", deterministic=False, write_lan="davs://r")}, 1329, "non deterministic"),
        ({"write_lan": ["R"]}, {"R": rse("R", deterministic=None, write_lan="davs://r")}, 1329, "non deterministic"),
    ],
)
def test_endpoints_that_take_nothing(planned: Any, storages: Any, storage: Any, code: int, words: str) -> None:
    spec = planned.output("x.root", scope="user.jdoe")
    ctx = surroundings(planned, astorages=storages)
    ctx.storage = lambda _names: storage
    error = refused(planned, ctx)
    assert error.code == code
    assert words in error.detail
    assert spec.status != "transferred"
    assert planned.script.tried == []


@pytest.mark.parametrize("tools", [["linker"], ["second", "linker"]])
def test_a_tool_that_needs_no_endpoint_stores_without_any(planned: Any, tools: list[str]) -> None:
    spec = planned.output("x.root", scope="s", ddmendpoint="")
    send(planned, surroundings(planned, *tools, astorages={}))
    assert (spec.status, spec.ddmendpoint) == ("transferred", "")
    assert [tool for tool, _, _ in planned.script.tried] == ["linker"]


@pytest.mark.parametrize(("data", "code", "state"), [
    (None, 1165, "MISSINGOUTPUTFILE"), (b"", 1191, "STAGEOUT_ATTEMPT_FAILED")])
def test_one_bad_output_stops_all_before_the_first_copy_and_is_recorded(
    planned: Any, data: Any, code: int, state: str
) -> None:
    planned.output("good", scope="s", dataset="ds")
    planned.output("bad", data, scope="s", dataset="ds")
    assert refused(planned, surroundings(planned)).code == code
    assert planned.script.tried == []
    assert [(r.lfn, r.code, r.state, r.dataset) for r in planned.records] == [("bad", code, state, "ds")]


def test_an_output_that_the_payload_did_not_make_is_recorded_too(planned: Any) -> None:
    planned.output("good", scope="s")
    planned.output("bad", None, scope="s", dataset="ds")
    with pytest.raises(PilotException) as caught:
        prepare_outputs(planned.job, surroundings(planned))
    assert caught.value.code == 1165
    (record,) = planned.records
    assert (record.lfn, record.code, record.state, record.dataset) == ("bad", 1165, "MISSINGOUTPUTFILE", "ds")


def test_an_output_that_may_be_missing_is_no_record(planned: Any) -> None:
    planned.output("bad", None, may_be_missing=True)
    prepare_outputs(planned.job, surroundings(planned))
    assert planned.records == []


# --- what the server is told -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "key", "value"), [("adler32", "adler32", "0a1b2c3d"), ("md5", "md5sum", "d" * 32)])
def test_the_report_of_a_stored_file(planned: Any, kind: str, key: str, value: str) -> None:
    planned.output("x.root", b"output", scope="user.jdoe", guid="92008FAF-BE4C-49CF-9C5C-E12BC74ACD19")
    planned.script.on(TransferResult(6, {kind: value}, URLS["HERE"], "HERE"))
    send(planned, surroundings(planned))
    assert build_output_report(planned.job) == {"x.root": {
        "guid": "92008FAF-BE4C-49CF-9C5C-E12BC74ACD19", "fsize": 6, key: value,
        "surl": URLS["HERE"], "endpoint": "HERE"}}


@pytest.mark.parametrize("tool", ["first", "bulky"])
def test_a_checksum_that_a_tool_does_not_tell_is_made_here(planned: Any, tool: str) -> None:
    planned.output("x.root", b"output", scope="s", guid="G")
    planned.script.on(TransferResult(6, {}, "root://se//x.root", "HERE"))
    send(planned, surroundings(planned, tool))
    assert build_output_report(planned.job)["x.root"]["adler32"] == adler32(b"output")


def test_a_stored_file_whose_checksum_nobody_knows_is_a_failure(planned: Any) -> None:
    """The server would fail the whole job for it, and nobody could tell why."""
    planned.output("x.root", scope="s")

    def moved(order: Any, _token: Any, _progress: Any) -> Any:
        order.local.unlink()
        return TransferResult(6, {}, "root://se//x.root", "HERE")

    planned.script.on(moved)
    assert refused(planned, surroundings(planned, "first")).code == 1366


def test_a_file_that_was_not_stored_is_not_reported(planned: Any) -> None:
    planned.output("x.root", scope="s")
    planned.output("y.root", scope="s")
    planned.script.on(failure(1152), lfn="y.root")
    refused(planned, surroundings(planned))
    assert set(build_output_report(planned.job)) == {"x.root"}


def test_the_url_of_an_output_directory_has_the_path_of_the_storage(planned: Any, tmp_path: Path) -> None:
    planned.output("x.root", scope="user.jdoe")
    send(planned, surroundings(planned, options={"output_dir": str(tmp_path / "out")}))
    assert [url for _, _, url in planned.script.tried] == [f"file://{tmp_path}/out/user/jdoe/7f/01/x.root"]


# --- proxies and tokens ----------------------------------------------------------------------------------------------
@pytest.fixture
def proxies(tmp_path: Path) -> dict[str, str]:
    for name in ("pilot", "dispatch"):
        (tmp_path / name).write_text("proxy")
    return {"X509_USER_PROXY": f"{tmp_path}/pilot", "X509_UNIFIED_DISPATCH": f"{tmp_path}/dispatch", "PATH": "/bin",
            "PANDA_AUTH_TOKEN": "panda", "OIDC_AUTH_TOKEN": "oidc", "OIDC_REFRESHED_AUTH_TOKEN": "new",
            "PANDA_AUTH_TOKEN_KEY": "key", "RUCIO_ACCOUNT": "pilot"}


@pytest.mark.parametrize("log", [False, True])
def test_outputs_and_log_leave_with_the_dispatched_proxy(planned: Any, proxies: dict[str, str], log: bool) -> None:
    planned.output("x.root", scope="s")
    (planned.home / "x.root").write_bytes(b"log")
    send(planned, surroundings(planned, "first", environ=proxies), log=log)
    given = planned.script.environ["first"]
    assert given["X509_USER_PROXY"] == proxies["X509_UNIFIED_DISPATCH"]
    assert "X509_UNIFIED_DISPATCH" not in given
    assert os.path.exists(proxies["X509_UNIFIED_DISPATCH"]), "it stays for what comes later"
    assert proxies["X509_USER_PROXY"].endswith("pilot"), "nothing of the pilot's own environment changes"


def test_inputs_come_with_the_pilots_proxy(planned: Any, proxies: dict[str, str]) -> None:
    given = surroundings(planned, environ=proxies).transfer_environment(outward=False)
    assert given["X509_USER_PROXY"] == proxies["X509_USER_PROXY"]


def test_a_dispatched_proxy_that_is_gone_is_not_used(planned: Any, proxies: dict[str, str]) -> None:
    os.unlink(proxies["X509_UNIFIED_DISPATCH"])
    given = surroundings(planned, environ=proxies).transfer_environment(outward=True)
    assert given["X509_USER_PROXY"] == proxies["X509_USER_PROXY"]


@pytest.mark.parametrize("outward", [False, True])
def test_no_tool_gets_the_pilots_tokens(planned: Any, proxies: dict[str, str], outward: bool) -> None:
    given = surroundings(planned, environ=proxies).transfer_environment(outward=outward)
    assert not [name for name in given if "TOKEN" in name]
    assert given["RUCIO_ACCOUNT"] == "pilot"


def test_the_queue_adds_to_the_environment_and_names_the_site(planned: Any) -> None:
    ctx = surroundings(planned, environ={"PATH": "/bin"}, environ_="", atlas_site="MY-SITE")
    ctx.queue = type(ctx.queue).from_raw({"nickname": "Q", "atlas_site": "MY-SITE", "environ": "XRD_LOGLEVEL=Debug"})
    given = ctx.transfer_environment(outward=False)
    assert (given["XRD_LOGLEVEL"], given["PILOT_RUCIO_SITENAME"]) == ("Debug", "MY-SITE")


# --- zip maps --------------------------------------------------------------------------------------------------------
def test_a_zip_map_is_kept_on_the_job_and_nothing_else(planned: Any) -> None:
    job = parse_job({"PandaID": 1, "transformation": "t", "jobPars": "-x '<ZIP_MAP>a.zip:b,c</ZIP_MAP>' -y"})
    assert (job.zipmap, job.jobparams) == ("a.zip:b,c", "-x -y")
