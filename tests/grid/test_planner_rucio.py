"""The planner with real storage: bad replicas, remote inputs that open or not, and what their payloads are told."""

from __future__ import annotations

import json
import uuid
import zlib
from typing import Any, Iterator

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Replica
from pilot.info.filespec import FileSpec
from pilot.staging import remotefiles
from pilot.staging.remotefiles import verify_remote_files
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool
from tests.grid.gate import Deaf
from tests.grid.test_jobs import SCOPE, Site, site
from tests.grid.testbed.xrootd import GsiXRootD, XRootD
from tests.unit.staging.conftest import planned

__all__ = ["planned", "site"]


def rows(site: Site, job: int, lfn: str) -> list[tuple[Any, Any]]:
    found = site.farm.pilots[-1].store().transfers(str(job))
    return [(row["code"], row["status"]) for row in found if row["lfn"] == lfn]


def spoil(site: Site, name: str, content: bytes) -> str:
    """Change one byte of the file at TB_XROOTD; returns its URL."""
    site.stored(name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return str(site.rucio.replicas(SCOPE, name, rse_expression="TB_XROOTD")[0]["rses"]["TB_XROOTD"][0])


def declared(site: Site, name: str) -> list[str]:
    """RSEs whose replica of a file Rucio calls suspicious."""
    found = site.rucio.call("list_suspicious_replicas", younger_than="2000-01-01T00:00:00", nattempts=0)
    return [row["rse"] for rows_of in found for row in rows_of if row["name"] == name]


# --- fail-over -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("setting", "expected", "attempts"), [
    ("suspicious", ["TB_XROOTD"], [1171, 1171, 0]), ("no", [], [1171, 0])])
def test_a_replica_that_is_wrong_twice_is_told_to_rucio_where_the_setting_says_so(
    site: Site, setting: str, expected: list[str], attempts: list[int]
) -> None:
    name, content = site.dataset("TB_XROOTD", "TB_GFAL")
    spoil(site, name, content)
    site.queue("xrdcp", astorages={"read_lan": ["TB_XROOTD", "TB_GFAL"], "write_lan": ["TB_XROOTD"]})
    job = site.submit(f"test -s {name}", name, content)
    pilot = site.run(settings={"transfers.declare_replicas": setting})
    assert site.farm.final(job)["state"] == "finished", pilot.output[-3000:]
    assert [code for code, _ in rows(site, job, name)] == attempts
    assert declared(site, name) == expected


def test_reasons_of_all_replicas_and_tools_are_in_the_report(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD", "TB_GFAL")
    spoil(site, name, content)
    gone = site.rucio.replicas(SCOPE, name, rse_expression="TB_GFAL")[0]["rses"]["TB_GFAL"][0]
    site.rucio.storage.path(gone.split("//", 2)[2]).unlink()
    site.queue("xrdcp", astorages={"read_lan": ["TB_XROOTD", "TB_GFAL"], "write_lan": ["TB_XROOTD"]})
    site.farm.set_queue(acopytools={"read_lan": ["xrdcp", "nosuchtool"], "default": ["xrdcp"]})
    job = site.submit("true", name, content)
    pilot = site.run()
    final = site.farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1171)
    assert [code for code, _ in rows(site, job, name)] == [1171, 1331]
    assert "checksum verification failed" in final["pilotErrorDiag"]
    words = pilot.output.lower()
    assert "then: " in words and "no such file" in words and "nosuchtool" in words, "every reason is in the log"


def test_a_job_on_virtual_placement_reads_from_wherever_rucio_says(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD", "TB_DAVS")
    for storage in ("TB_XROOTD", "TB_DAVS"):
        if "istape" not in site.rucio.call("list_rse_attributes", storage):
            site.rucio.call("add_rse_attribute", storage, "istape", "False")
    (near,) = site.rucio.replicas(SCOPE, name, rse_expression="TB_DAVS")[0]["rses"]["TB_DAVS"]
    site.rucio.gsi_storage.path(near.split("/", 3)[3]).unlink()
    site.queue("gfal", rse="TB_DAVS", allow_wan=True)
    job = site.submit("true", name, content, useVP="true")
    pilot = site.run()
    assert site.farm.final(job)["state"] == "finished", pilot.output[-3000:]
    assert rows(site, job, name) == [(0, "DONE")], "the queue's own endpoint has no root door and was not tried"


# --- direct access ---------------------------------------------------------------------------------------------------
def test_parameters_and_lists_of_a_production_job_have_the_urls_of_its_remote_inputs(site: Site) -> None:
    remote, content = site.dataset("TB_XROOTD")
    site.queue("xrdcp", direct_access_lan=True)
    seen = site.farm.directory / "seen"
    job = site.submit(
        f'printf "%s\\n" "$@" > {seen}; cat in.txt >> {seen}; xrdcp -s "${{1#--in=}}" got && cmp -s got got', remote,
        content, transferType="direct", jobPars=f"--in={remote} --list=@in --same={remote}.1",
        writeToFile=f"in:{remote}")
    pilot = site.run()
    assert site.farm.final(job)["state"] == "finished", pilot.output[-3000:]
    url = site.rucio.replicas(SCOPE, remote)[0]["rses"]["TB_XROOTD"][0]
    assert seen.read_text().split() == [f"--in={url}", "@in.txt", f"--same={remote}.1", "--list", url]


def test_remote_and_copied_inputs_in_one_job(site: Site) -> None:
    first, content = site.dataset("TB_XROOTD")
    second, other = f"RAW.{first}", b"raw data"
    path = site.farm.inputs / second
    path.write_bytes(other)
    site.rucio.upload(path, "TB_XROOTD")
    path.unlink()
    site.queue("xrdcp", direct_access_lan=True, maxwdir=20000)
    seen = site.farm.directory / "seen"
    job = site.submit(
        f"ls > {seen}; cat PoolFileCatalog.xml >> {seen}", first, content, transferType="direct",
        inFiles=f"{first},{second}", GUID=f"{uuid.uuid4()},{uuid.uuid4()}", fsize=f"{len(content)},{len(other)}",
        checksum=f"ad:{zlib.adler32(content):08x},ad:{zlib.adler32(other):08x}", scopeIn=f"{SCOPE},{SCOPE}",
        realDatasetsIn="mc23.ds,mc23.ds", ddmEndPointIn="TB_XROOTD,TB_XROOTD")
    pilot = site.run()
    assert site.farm.final(job)["state"] == "finished", pilot.output[-3000:]
    lines = seen.read_text().splitlines()
    assert second in lines and first not in lines
    assert f'name="{second}"' in seen.read_text()
    assert rows(site, job, first) == [(0, "FOUND_ROOT")]
    assert rows(site, job, second) == [(0, "DONE")]
    assert "files raw.* are always copied" in pilot.output


def test_a_remote_input_opens_at_the_next_replica(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD", "TB_GFAL")
    site.stored(name).unlink()
    site.queue("xrdcp", direct_access_lan=True,
               astorages={"read_lan": ["TB_XROOTD", "TB_GFAL"], "write_lan": ["TB_XROOTD"]})
    job = site.submit("grep -o 'root://[^\"]*' PoolFileCatalog.xml > url; xrdcp -s $(cat url) got", name, content,
                      transferType="direct")
    pilot = site.run()
    assert site.farm.final(job)["state"] == "finished", pilot.output[-3000:]
    assert rows(site, job, name) == [(1361, "FAILED_REMOTE_OPEN"), (0, "FOUND_ROOT")]


@pytest.mark.parametrize("how", [{"catchall": "remoteio_test=false"}, {}])
def test_the_open_test_can_be_switched_off(site: Site, how: Any) -> None:
    name, content = site.dataset("TB_XROOTD")
    site.stored(name).unlink()
    site.queue("xrdcp", direct_access_lan=True, **how)
    job = site.submit("true", name, content, transferType="direct")
    site.run(settings={} if how else {"pilot.remotefileverification_log": ""})
    assert site.farm.final(job)["state"] == "finished"
    assert rows(site, job, name) == [(0, "FOUND_ROOT")]


# --- the open test itself --------------------------------------------------------------------------------------------
@pytest.fixture
def deaf() -> Iterator[Deaf]:
    listener = Deaf()
    yield listener
    listener.close()


def opening(planned: Any, helpers: HelperPool, environ: Any, **queue: Any) -> Any:
    ctx = planned.plan(environ={"PATH": "/usr/bin:/bin", **environ}, **queue)
    ctx.helpers = helpers
    return ctx


def remote(lfn: str, url: str) -> FileSpec:
    return FileSpec(lfn, status="remote_io", turl=url, ddmendpoint="HERE", scope="mc23")


@pytest.mark.parametrize("door", ["root", "http"])
def test_files_of_a_real_door_open_or_are_missing(planned: Any, helpers: HelperPool, xrootd: XRootD, door: str) -> None:
    url = xrootd.url if door == "root" else xrootd.http
    xrootd.put("/planner/a.root", b"content")
    xrootd.put("/planner/empty.root", b"")
    files = [remote("a.root", url("/planner/a.root")), remote("empty.root", url("/planner/empty.root")),
             remote("gone.root", url("/planner/gone.root"))]
    with pytest.raises(PilotException) as caught:
        verify_remote_files(files, {}, opening(planned, helpers, xrootd.env), CancelToken())
    assert caught.value.code == 1361
    assert "gone.root at HERE" in caught.value.detail and "a.root at HERE" not in caught.value.detail
    assert [spec.status for spec in files] == ["remote_io", "remote_io", "failed"]
    known = json.loads((planned.workdir / "remotefileverification_dictionary.json").read_text())
    assert list(known.values()) == [True, True, False]


@pytest.mark.parametrize("door", ["root", "davs"])
def test_a_door_that_wants_a_proxy_gets_the_one_of_the_outputs(
    planned: Any, helpers: HelperPool, xrootd_gsi: GsiXRootD, door: str
) -> None:
    xrootd_gsi.put("/planner/a.root", b"content")
    url = xrootd_gsi.url("/planner/a.root")
    if door == "davs":
        url = xrootd_gsi.http("/planner/a.root").replace("https://", "davs://")
    proxy = xrootd_gsi.env["X509_USER_PROXY"]
    environ = {**xrootd_gsi.env, "X509_USER_PROXY": "/no/proxy", "X509_UNIFIED_DISPATCH": proxy,
               "XrdSecGSISRVNAMES": "*"}
    verify_remote_files([remote("a.root", url)], {}, opening(planned, helpers, environ), CancelToken())
    if door == "davs":
        return  # this door lets everybody read
    del environ["X509_UNIFIED_DISPATCH"]
    with pytest.raises(PilotException) as caught:
        verify_remote_files([remote("a.root", url)], {}, opening(planned, helpers, environ), CancelToken())
    assert caught.value.code == 1361


@pytest.mark.parametrize("door", ["root", "http"])
def test_a_silent_door_costs_its_time_out_and_no_other_file(
    planned: Any, helpers: HelperPool, xrootd: XRootD, deaf: Deaf, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotefiles, "TIMEOUT", 2)
    xrootd.put("/planner/a.root", b"content")
    silent = f"root://127.0.0.1:{deaf.port}//x" if door == "root" else f"http://127.0.0.1:{deaf.port}/x"
    files = [remote("silent.root", silent), remote("a.root", xrootd.url("/planner/a.root"))]
    spare = {"silent.root": [Replica(xrootd.url("/planner/a.root"), "THERE", "lan")]}
    verify_remote_files(files, spare, opening(planned, helpers, xrootd.env, catchall="nopenfiles=2"), CancelToken())
    assert files[0].ddmendpoint == "THERE"
    states = [(record.lfn, record.state) for record in planned.records if record.lfn == "silent.root"]
    assert states == [("silent.root", "FAILED_REMOTE_OPEN"), ("silent.root", "FOUND_ROOT")]
