"""pilot.py --check as a process: good nodes and bad ones, each with its row, its cure and its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
from datedserver import DatedServer
from deadmount import DeadMount, SilentMount
from harness import PILOT, PYTHON, Farm

from sandbox import TLSFiles


class Answer(NamedTuple):
    code: int
    rows: Dict[str, Dict[str, Any]]


def check(farm: Farm, *options: str, env: Optional[Dict[str, str]] = None, directory: Optional[Path] = None) -> Answer:
    """Run it and return the exit code and the rows by name."""
    command = [*farm.command(*options), "--check", "--json"]
    pilot = farm.start(command, env={"X509_USER_PROXY": "", **(env or {})}, directory=directory)
    code = pilot.wait()
    said = json.loads(pilot.output)
    assert said["exit_code"] == code
    for row in said["checks"]:
        assert bool(row["cure"]) == (row["status"] in ("warn", "FAIL")), row
        assert bool(row["code"]) == (row["status"] == "FAIL"), row
    return Answer(code, {row["name"]: row for row in said["checks"]})


def test_a_good_node(farm: Farm) -> None:
    farm.set_queue(maxwdir=1)
    answer = check(farm)
    assert answer.code == 0
    bad = {name: row for name, row in answer.rows.items() if row["status"] == "FAIL"}
    assert not bad
    wanted = {"python", "packages", "node", "work directory", "local space", "inodes", "/tmp", "memory", "limits",
              "locale", "/proc", "CVMFS", "proxy", "token", "CA directory", "DNS", "PanDA server", "clock", "queue",
              "copytool mv", "containers", "storage"}
    assert wanted <= set(answer.rows)
    assert "v1 in" in answer.rows["PanDA server"]["found"] and "legacy in" in answer.rows["PanDA server"]["found"]
    assert answer.rows["clock"]["found"] == "agrees with the server's"
    assert {entry.name for entry in farm.pilots[-1].directory.iterdir()} == {"stdouterr.txt"}, "a check leaves no files"


def test_the_table_is_for_people(farm: Farm) -> None:
    pilot = farm.start([*farm.command(), "--check"])
    assert pilot.wait() == 0
    assert "ok   PanDA server" in pilot.output and "\033" not in pilot.output
    assert max(len(line) for line in pilot.output.splitlines() if "/" not in line) <= 80


def test_a_dead_server(farm: Farm) -> None:
    farm.server.down()
    answer = check(farm, "--queuedata-url", "/nonexistent")
    assert answer.rows["PanDA server"]["code"] == 1318 and answer.rows["queue"]["status"] == "FAIL"
    assert answer.code == 79
    assert answer.rows["copytools"]["found"] == "the queue is not known"


def test_a_server_that_never_answers(farm: Farm) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        answer = check(farm, "-p", str(silent.getsockname()[1]), "--set", "limits.node_check_time=2")
    assert answer.code == 79
    assert answer.rows["PanDA server"]["status"] == answer.rows["queue"]["status"] == "FAIL"
    assert answer.rows["python"]["status"] == "ok"


def test_the_dialect_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    farm = Farm(tmp_path, legacy=False)
    try:
        answer = check(farm)
        assert answer.code == 0 and "not legacy" in answer.rows["PanDA server"]["found"]
        assert check(farm, "--set", "server.api=legacy").code == 79
    finally:
        farm.close()


# --- the clock --------------------------------------------------------------------------------------------------------


@pytest.fixture
def dated() -> Iterator[DatedServer]:
    server = DatedServer()
    yield server
    server.close()


@pytest.mark.parametrize(("offset", "words"), [(-3600.0, "60 min ahead of"), (9000.0, "2.5 h behind")])
def test_a_wrong_clock(farm: Farm, dated: DatedServer, offset: float, words: str) -> None:
    dated.offset = offset
    answer = check(farm, "-p", str(dated.port))
    assert answer.rows["clock"]["status"] == "warn" and "chronyd" in answer.rows["clock"]["cure"]
    assert abs(float(answer.rows["clock"]["found"].split()[0]) - float(words.split()[0])) <= 1
    assert words.split(maxsplit=2)[2] in answer.rows["clock"]["found"]


# --- disks ------------------------------------------------------------------------------------------------------------


def mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no right to mount file systems here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=4M")


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "crowded", "nr_inodes=20,size=100M")


def test_no_space(farm: Farm, small: Path) -> None:
    answer = check(farm, "-a", str(small / "not" / "made" / "yet"))
    assert answer.code == 69
    assert answer.rows["local space"]["code"] == 1098 and str(small) in answer.rows["local space"]["found"]


def test_no_inodes(farm: Farm, crowded: Path) -> None:
    answer = check(farm, "-a", str(crowded))
    assert answer.code == 69 and answer.rows["inodes"]["code"] == 1098
    assert answer.rows["local space"]["status"] != "FAIL"


def test_a_full_disk_cannot_be_written(farm: Farm, small: Path) -> None:
    (small / "fill").write_bytes(b"x" * (4 << 20))
    answer = check(farm, "-a", str(small), env={"TMPDIR": str(small)})
    assert answer.code == 69
    assert answer.rows["work directory"]["code"] == 1098 and answer.rows["/tmp"]["status"] == "warn"


# --- identity ---------------------------------------------------------------------------------------------------------


def certificate(place: Path, *, days: int, chain: bool = True) -> Path:
    """A self-signed certificate with its key in one file, as a proxy has it."""
    key, cert = place / "key.pem", place / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
                    "-subj", "/CN=pilot", "-days", str(max(days, 1))], check=True, capture_output=True)
    if days < 0:  # openssl req makes none that has ended; x509 does, on some versions with -days -1 only
        subprocess.run(["openssl", "x509", "-in", str(cert), "-signkey", str(key), "-out", str(cert), "-days",
                        str(days)], check=True, capture_output=True)
    path = place / "proxy.pem"
    path.write_bytes(cert.read_bytes() + (key.read_bytes() if chain else b""))
    path.chmod(0o600)
    return path


def without_t(farm: Farm, *options: str, env: Dict[str, str]) -> Answer:
    """The check of a pilot that verifies its proxy (without -t)."""
    command = [word for word in farm.command(*options) if word != "-t"]
    pilot = farm.start([*command, "--check", "--json"], env=env)
    code = pilot.wait()
    return Answer(code, {row["name"]: row for row in json.loads(pilot.output)["checks"]})


def test_a_proxy_that_has_ended(farm: Farm, tmp_path: Path) -> None:
    path = certificate(tmp_path, days=-1)
    answer = check(farm, env={"X509_USER_PROXY": str(path)})
    assert answer.code == 68
    assert answer.rows["proxy"]["code"] == 1373 and "has ended" in answer.rows["proxy"]["found"]
    assert "voms-proxy-init" in answer.rows["proxy"]["cure"]


def test_proxies_good_and_bad(farm: Farm, tmp_path: Path) -> None:
    path = certificate(tmp_path, days=10)
    environ = {"X509_USER_PROXY": str(path)}
    good = check(farm, env=environ)
    assert good.rows["proxy"]["status"] == "ok" and "no VOMS attributes" in good.rows["proxy"]["found"]
    atlas = without_t(farm, "--pilot-user", "ATLAS", env=environ)
    assert atlas.rows["proxy"]["code"] == 1177 and atlas.code == 68
    path.chmod(0o644)
    row = check(farm, env=environ).rows["proxy"]
    assert row["status"] == "warn" and row["cure"] == f"chmod 600 {path}"
    path.write_bytes((tmp_path / "cert.pem").read_bytes())
    assert "no private key" in check(farm, env=environ).rows["proxy"]["found"]
    path.write_text("nothing\n")
    assert check(farm, env=environ).rows["proxy"]["code"] == 1163
    none = without_t(farm, "--pilot-user", "ATLAS", env={"X509_USER_PROXY": str(tmp_path / "none")})
    assert none.rows["proxy"]["code"] == 1163 and none.code == 68


def token(left: float) -> str:
    from base64 import urlsafe_b64encode

    claims = urlsafe_b64encode(json.dumps({"exp": time.time() + left, "iat": time.time()}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.signature-that-nobody-may-see"


def test_tokens(farm: Farm, tmp_path: Path) -> None:
    path = tmp_path / "token"
    environ = {"PANDA_AUTH_TOKEN": str(path), "PANDA_AUTH_ORIGIN": "vo.pilot"}
    assert check(farm, env=environ).rows["token"]["code"] == 1163
    path.write_text(token(86400))
    path.chmod(0o600)
    assert check(farm, env=environ).rows["token"]["status"] == "ok"
    assert "signature" not in farm.pilots[-1].output
    path.chmod(0o644)
    assert check(farm, env=environ).rows["token"]["cure"] == f"chmod 600 {path}"
    path.chmod(0o600)
    path.write_text(token(-60))
    answer = check(farm, env=environ)
    assert answer.code == 68 and "has ended" in answer.rows["token"]["found"]
    del environ["PANDA_AUTH_ORIGIN"]
    assert "PANDA_AUTH_ORIGIN" in check(farm, env=environ).rows["token"]["found"]


# --- what the queue wants ---------------------------------------------------------------------------------------------


def test_copytools_of_the_queue(farm: Farm) -> None:
    farm.set_queue(copytools={"mv": {}, "nonsense": {}}, acopytools={"default": ["mv", "nonsense"]})
    answer = check(farm)
    assert answer.code == 0 and answer.rows["copytool mv"]["status"] == "ok"
    assert answer.rows["copytool nonsense"]["status"] == "warn"
    farm.set_queue(copytools={"lsm": {"setup": "/nonexistent/setup.sh"}}, acopytools={"default": ["lsm"]})
    answer = check(farm)
    assert answer.rows["copytool lsm"]["code"] == 1341 and answer.code == 65


@pytest.mark.parametrize(("script", "status", "words"), [
    ("#!/bin/sh\necho apptainer version 1.3.0\n", "ok", "apptainer version 1.3.0"),
    ("#!/bin/sh\necho no suid >&2; exit 3\n", "FAIL", "ends with 3: no suid"),
    ("#!/nonexistent/shell\n", "FAIL", "cannot be started"),
    ("", "FAIL", "no apptainer or singularity in PATH"),
])
def test_the_container_runtime(farm: Farm, tmp_path: Path, script: str, status: str, words: str) -> None:
    farm.set_queue(container_type="apptainer:pilot")
    if script:
        (tmp_path / "apptainer").write_text(script)
        (tmp_path / "apptainer").chmod(0o755)
    answer = check(farm, env={"PATH": str(tmp_path)})
    assert answer.rows["containers"]["status"] == status and words in answer.rows["containers"]["found"]
    assert answer.rows["containers"]["code"] == (1372 if status == "FAIL" else 0)


def test_doors_of_storages(farm: Farm, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_server(("127.0.0.1", 0)) as plain:
        good, no_tls = door.getsockname()[1], plain.getsockname()[1]
        threading.Thread(target=refuse_tls, args=(plain,), daemon=True).start()

        def endpoint(*urls: str) -> Dict[str, Any]:
            protocols = [{"endpoint": url, "flavour": "X", "id": 1, "path": "/data"} for url in urls]
            return {"arprotocols": {"read_lan": protocols, "write_lan": protocols}, "state": "ACTIVE"}

        storages = tmp_path / "storages.json"
        storages.write_text(json.dumps({
            "GOOD": endpoint(f"root://127.0.0.1:{good}/"), "DEAD": endpoint("root://127.0.0.1:1/"),
            "HALF": endpoint(f"root://127.0.0.1:{good}/", f"davs://127.0.0.1:{no_tls}"),
            "LOCAL": endpoint(f"file://{tmp_path}/nothing")}))
        farm.set_queue(astorages={"read_lan": ["GOOD", "DEAD"], "write_lan": ["HALF", "LOCAL", "UNKNOWN"]})
        rows = check(farm, "--storagedata-url", str(storages)).rows
    assert [rows[f"storage {name}"]["status"] for name in ("GOOD", "DEAD", "HALF", "LOCAL", "UNKNOWN")] == [
        "ok", "FAIL", "warn", "FAIL", "warn"]
    assert "Connection refused" in rows["storage DEAD"]["found"] and "TLS fails" in rows["storage HALF"]["found"]


def refuse_tls(listener: socket.socket) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 this is no TLS\r\n\r\n")
            connection.close()
    except OSError:
        return


# --- nodes that are broken --------------------------------------------------------------------------------------------


def test_a_mount_that_hangs_is_one_row(farm: Farm, tmp_path: Path) -> None:
    place = tmp_path / "dead"
    place.mkdir()
    try:
        mount = DeadMount(place, 1000)
    except PermissionError as exc:
        pytest.skip(f"no right to mount here: {exc}")
    try:
        answer = check(farm, "--set", "limits.node_check_time=1", env={"X509_USER_PROXY": str(place / "proxy")})
    finally:
        mount.close()
    assert answer.rows["proxy"]["status"] == "FAIL" and "it hangs" in answer.rows["proxy"]["found"]
    assert answer.rows["python"]["status"] == "ok"


@pytest.mark.parametrize("what", ["-a", "TMPDIR", "X509_CERT_DIR"])
def test_a_mount_that_says_nothing_at_all_holds_up_nobody(farm: Farm, tmp_path: Path, what: str) -> None:
    place = tmp_path / "silent"
    place.mkdir()
    try:
        mount = SilentMount(place)
    except PermissionError as exc:
        pytest.skip(f"no right to mount here: {exc}")
    try:
        options = ["-a", str(place)] if what == "-a" else []
        answer = check(farm, "--set", "limits.node_check_time=1", *options,
                       env={} if what == "-a" else {what: str(place)})
    finally:
        mount.close()
    hung = {"-a": "work directory", "TMPDIR": "/tmp", "X509_CERT_DIR": "CA directory"}[what]
    assert "it hangs" in answer.rows[hung]["found"]
    assert answer.code == (66 if what == "-a" else 79 if what == "X509_CERT_DIR" else 0)


def test_a_server_with_tls(tmp_path: Path) -> None:
    key, cert = tmp_path / "server.key", tmp_path / "server.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
                    "-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "3"], check=True,
                   capture_output=True)
    farm = Farm(tmp_path, tls=TLSFiles(cert, key, cert))
    try:
        known = check(farm, "--url", farm.server.https_url, "--capath", str(cert)).rows["PanDA server"]
        unknown = check(farm, "--url", farm.server.https_url)
    finally:
        farm.close()
    assert known["status"] == "warn" and "its certificate ends in 3.0 days" in known["found"]
    assert unknown.code == 79 and "TLS failed, check the CA directory" in unknown.rows["PanDA server"]["found"]


GARBLED: List[Dict[str, str]] = [
    {"LANG": "nonsense", "LC_ALL": "nonsense"}, {"PATH": ""}, {"TMPDIR": "/nonexistent"}, {"HOME": "\udcff"},
    {"storageLimitMiB": "x", "storageRequestMiB": "-5"}, {"https_proxy": "::::", "http_proxy": "::::"},
    {"_CONDOR_SLOT": "\033[31m", "_CONDOR_JOB_AD": "/proc/self/mem"}, {"X509_CERT_DIR": "/proc/self/mem"},
    {"PANDA_AUTH_TOKEN": "../../etc/passwd", "PANDA_AUTH_ORIGIN": "x"}, {"ATLAS_SW_BASE": "/dev/null"},
    {"X509_USER_PROXY": "/dev/zero"}, {"COLUMNS": "-7"},
]


@pytest.mark.parametrize("environ", GARBLED, ids=lambda environ: "-".join(environ))
def test_a_garbled_environment_gives_no_traceback(farm: Farm, environ: Dict[str, str]) -> None:
    pilot = farm.start([*farm.command("--pilot-user", "atlas"), "--check"], env=environ)
    code = pilot.wait()
    assert "Traceback" not in pilot.output and code not in (1, 70), pilot.output
    assert "ok   python" in pilot.output and "could not be looked at" not in pilot.output, pilot.output


def test_without_anything_but_the_option(farm: Farm, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {PYTHON} {PILOT} --check --json --url http://127.0.0.1 -p 1"
    pilot = farm.start(["/bin/sh", "-c", line], env={"PYTHONPATH": "", "PATH": os.environ["PATH"]})
    assert pilot.wait() == 66, pilot.output
    rows = {row["name"]: row for row in json.loads(pilot.output)["checks"]}
    assert rows["work directory"]["code"] == 1199
