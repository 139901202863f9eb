"""Each service of the testbed does what the tests of the pilot take for granted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import zlib
from pathlib import Path
from typing import List, Mapping, Optional

import psutil
import pytest
import requests

from tests.grid.conftest import required
from tests.grid.testbed.packages import ROOT
from tests.grid.testbed.pki import USER_DN, Pki
from tests.grid.testbed.rucio import Rucio, RucioError
from tests.grid.testbed.s3 import S3
from tests.grid.testbed.service import BrokenService, needs
from tests.grid.testbed.testbed import new_directory
from tests.grid.testbed.xrootd import GsiXRootD, XRootD


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """A file of three megabytes."""
    path = tmp_path / "content"
    path.write_bytes(os.urandom(3_000_000))
    return path


def adler32(path: Path) -> str:
    return f"{zlib.adler32(path.read_bytes()):08x}"


def tool(*command: str, env: Optional[Mapping[str, str]] = None) -> subprocess.CompletedProcess[str]:
    # Debian's gfal-copy takes the first Python in PATH that can import gfal2, and otherwise one that does not exist.
    variables = {**os.environ, "GFAL_PYTHONBIN": "/usr/bin/python3", **(env or {})}
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=variables)


def test_xrdcp_puts_and_gets_a_file_with_its_checksum(xrootd: XRootD, content: Path, tmp_path: Path) -> None:
    url = xrootd.url("/new/directory/file")
    put = tool("xrdcp", "-N", "--cksum", f"adler32:{adler32(content)}", str(content), url)
    assert put.returncode == 0, put.stderr
    known = tool("xrdfs", xrootd.root_url, "query", "checksum", "/new/directory/file")
    assert known.stdout.split() == ["adler32", adler32(content)]
    get = tool("xrdcp", "-N", url, str(tmp_path / "back"))
    assert get.returncode == 0, get.stderr
    assert (tmp_path / "back").read_bytes() == xrootd.path("/new/directory/file").read_bytes() == content.read_bytes()


def test_the_anonymous_storage_speaks_http(xrootd: XRootD, content: Path) -> None:
    url = xrootd.http("/web/file")
    assert requests.put(url, data=content.read_bytes(), timeout=30).status_code in (200, 201)
    assert requests.get(url, timeout=30).content == content.read_bytes()
    head = requests.head(url, headers={"Want-Digest": "adler32"}, timeout=30)
    assert head.headers["Digest"] == f"adler32={adler32(content)}"
    assert requests.get(xrootd.http("/web/nothing"), timeout=30).status_code == 404


@pytest.mark.parametrize("scheme", ["root", "http"])
def test_gfal_copies_in_both_directions(xrootd: XRootD, content: Path, tmp_path: Path, scheme: str) -> None:
    url = {"root": xrootd.url, "http": xrootd.http}[scheme](f"/gfal-{scheme}/file")
    checksum = f"adler32:{adler32(content)}"
    put = tool("gfal-copy", "-f", "-p", "-K", checksum, str(content), url)
    assert put.returncode == 0, put.stderr
    get = tool("gfal-copy", "-K", checksum, url, f"file://{tmp_path}/back")
    assert get.returncode == 0, get.stderr
    assert (tmp_path / "back").read_bytes() == content.read_bytes()


def test_a_file_put_into_the_storage_by_a_test_can_be_read_and_deleted_by_a_client(xrootd: XRootD) -> None:
    on_disk = xrootd.put("/prepared/input", b"as it was")
    assert requests.get(xrootd.http("/prepared/input"), timeout=30).content == b"as it was"
    assert tool("xrdfs", xrootd.root_url, "rm", "/prepared/input").returncode == 0
    assert not on_disk.exists()


def test_the_proxy_has_the_attributes_of_the_vo(pki: Pki) -> None:
    everything = tool("voms-proxy-info", "-file", str(pki.proxy), "-all", env=pki.env)
    assert everything.returncode == 0, everything.stderr
    assert tool("voms-proxy-info", "-file", str(pki.proxy), "-vo", env=pki.env).stdout.strip() == "atlas"
    assert tool("voms-proxy-info", "-file", str(pki.proxy), "-identity", env=pki.env).stdout.strip() == USER_DN
    assert tool("voms-proxy-info", "-file", str(pki.proxy), "-exists", "-valid", "1:00", env=pki.env).returncode == 0


def test_a_proxy_can_be_as_short_as_a_test_wants_it(pki: Pki, tmp_path: Path) -> None:
    short = pki.plain(tmp_path / "short", valid="0:02")
    left = tool("voms-proxy-info", "-file", str(short), "-timeleft", env=pki.env)
    assert 0 < int(left.stdout) <= 120


def test_gsi_lets_a_proxy_in_and_nobody_else(xrootd_gsi: GsiXRootD, content: Path, tmp_path: Path) -> None:
    url = xrootd_gsi.url("/gsi/file")
    put = tool("xrdcp", "-N", str(content), url, env=xrootd_gsi.env)
    assert put.returncode == 0, put.stderr
    assert xrootd_gsi.path("/gsi/file").read_bytes() == content.read_bytes()
    nobody = {**xrootd_gsi.env, "X509_USER_PROXY": "/none", "X509_USER_CERT": "/none", "X509_USER_KEY": "/none"}
    assert tool("xrdcp", "-N", url, str(tmp_path / "back"), env=nobody).returncode == 52


def test_gfal_davix_and_requests_use_davs(xrootd_gsi: GsiXRootD, content: Path, tmp_path: Path) -> None:
    url, checksum = xrootd_gsi.davs("/davs/file"), f"adler32:{adler32(content)}"
    put = tool("gfal-copy", "-p", "-K", checksum, str(content), url, env=xrootd_gsi.env)
    assert put.returncode == 0, put.stderr
    proxy = str(xrootd_gsi.pki.proxy)
    authorities = str(xrootd_gsi.pki.certificates)
    get = tool("davix-get", "-E", proxy, "--capath", authorities, url, str(tmp_path / "back"), env=xrootd_gsi.env)
    assert get.returncode == 0, get.stderr
    assert (tmp_path / "back").read_bytes() == content.read_bytes()
    reply = requests.get(xrootd_gsi.http("/davs/file"), cert=proxy, verify=str(xrootd_gsi.pki.ca), timeout=30)
    assert reply.content == content.read_bytes()


def test_the_object_store_keeps_a_file(s3: S3, content: Path, tmp_path: Path) -> None:
    client = s3.client()
    client.create_bucket(Bucket="a-bucket")
    client.upload_file(str(content), "a-bucket", "some/key")
    client.download_file("a-bucket", "some/key", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content.read_bytes()
    url = client.generate_presigned_url("get_object", Params={"Bucket": "a-bucket", "Key": "some/key"})
    assert requests.get(url, timeout=30).content == content.read_bytes()


@pytest.mark.usefixtures("rucio", "s3")  # skipped where these are: the same programs are needed
def test_nothing_outlives_a_test_run_that_is_killed() -> None:
    code = ("import sys; from tests.grid.testbed.testbed import Testbed, new_directory\n"
            "testbed = Testbed(new_directory()); testbed.start_all(['xrootd', 's3', 'postgres', 'stomp'])\n"
            "print(testbed.directory, *[pid for service in testbed.running for pid in service.pids], flush=True)\n"
            "sys.stdin.read()")
    run = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None
        directory, *pids = run.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        run.kill()
        run.communicate()
        _, left = psutil.wait_procs(processes, 30)
        assert len(processes) == 4
        assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]
    finally:
        run.kill()
        run.communicate()
    shutil.rmtree(new_directory())
    assert not Path(directory).exists(), "the next one tidies up"


def test_every_storage_of_rucio_takes_a_file_and_gives_it_back(rucio: Rucio, content: Path, tmp_path: Path) -> None:
    for rse in rucio.rses:
        name = f"{rse}.{uuid.uuid4()}"
        rucio.upload(content, rse, name=name)
        (replica,) = rucio.replicas("mc23", name)
        assert replica["states"] == {rse: "AVAILABLE"}
        assert replica["adler32"] == adler32(content)
        wanted = {"did": f"mc23:{name}", "rse": rse, "base_dir": str(tmp_path), "no_subdir": True}
        (got,) = rucio.call("download_dids", [wanted], num_threads=1)
        assert got["clientState"].endswith("DONE")
        assert (tmp_path / name).read_bytes() == content.read_bytes()


def test_a_trace_of_a_client_arrives_at_the_broker(rucio: Rucio) -> None:
    identity = str(uuid.uuid4())
    trace = {"eventType": "get_sm", "eventVersion": "test", "clientState": "DONE", "uuid": identity, "scope": "mc23",
             "account": "pilot", "remoteSite": "TB_XROOTD", "filename": "a-file"}
    reply = requests.post(f"{rucio.url}/traces/", json=trace, timeout=30)
    assert reply.status_code == 201
    (arrived,) = rucio.traces(lambda message: message["uuid"] == identity)
    assert (arrived["filename"], arrived["traceIp"]) == ("a-file", "127.0.0.1")


@pytest.mark.parametrize(("client", "account"), [("root", "root"), ("pilot", "pilot"), ("x509", "pilot")])
def test_a_client_is_the_account_of_its_credentials(rucio: Rucio, client: str, account: str) -> None:
    assert rucio.call("whoami", client=client)["account"] == account


def test_the_voms_proxy_logs_in_as_pilot(rucio: Rucio) -> None:
    reply = requests.get(f"{rucio.x509_url}/auth/x509_proxy", cert=str(rucio.pki.proxy), verify=str(rucio.pki.ca),
                         headers={"X-Rucio-Account": "pilot"}, timeout=30)
    assert reply.status_code == 200
    assert reply.headers["X-Rucio-Auth-Token"].startswith("pilot-")
    refused = requests.get(f"{rucio.x509_url}/auth/x509_proxy", verify=str(rucio.pki.ca),
                           headers={"X-Rucio-Account": "pilot"}, timeout=30)
    assert refused.status_code == 401


def test_the_account_pilot_may_upload_with_its_proxy(rucio: Rucio, content: Path) -> None:
    name = f"by-proxy.{uuid.uuid4()}"
    item = {"path": str(content), "rse": "TB_DAVS", "did_scope": "user.pilot", "did_name": name}
    assert rucio.call("upload", [item], client="x509") == 0
    assert rucio.replicas("user.pilot", name)[0]["states"] == {"TB_DAVS": "AVAILABLE"}


def test_a_failed_call_says_what_the_client_says(rucio: Rucio) -> None:
    with pytest.raises(RucioError, match="DataIdentifierNotFound"):
        rucio.call("get_did", "mc23", "there-is-no-such-thing")


def test_what_is_missing_is_named_and_skipped_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOT_REQUIRE_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="'gridftp-server' is not installed here: 'make grid-packages'"):
        required(lambda: needs("gridftp-server"))
    monkeypatch.setenv("PILOT_REQUIRE_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="PILOT_REQUIRE_SERVICES=1, and 'gridftp-server' is not installed"):
        required(lambda: needs("gridftp-server"))


def test_a_service_that_does_not_start_says_why(xrootd: XRootD) -> None:
    class Misconfigured(XRootD):
        def _configuration(self) -> List[str]:
            return [*super()._configuration(), "xrd.protocol nonsense:/nowhere/library.so"]

    second = Misconfigured(xrootd.directory.parent / "second")
    with pytest.raises(BrokenService, match="ended with 1 at its start(.|\n)*nonsense"):
        second.start()
    assert second.pids == []
