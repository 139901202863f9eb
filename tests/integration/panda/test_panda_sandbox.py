"""The client against the sandbox: whole job lives in both dialects, faults on the way, TLS with proxies, tokens."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("cryptography")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import NameOID, ObjectIdentifier  # noqa: E402

from pilot.info.filespec import FileSpec  # noqa: E402
from pilot.info.job import Job  # noqa: E402
from pilot.panda.commands import parse_commands  # noqa: E402
from pilot.panda.credentials import Credentials  # noqa: E402
from pilot.panda.errors import TransportError  # noqa: E402
from pilot.panda.keypairs import KeyPairs  # noqa: E402
from pilot.panda.messages import ReportEnvironment, build_update  # noqa: E402
from pilot.panda.server import JobRequest, PandaServer, Verdict, user_agent  # noqa: E402
from pilot.settings import default_settings  # noqa: E402
from pilot.util.redact import redact  # noqa: E402
from sandbox import Sandbox, TLSFiles  # noqa: E402

ENV = ReportEnvironment(
    "TEST_QUEUE", "slot1@wn1", "2.13.0.1", cpu_consumption_unit="s+CPU", cpu_architecture_level="x86_64-v3"
)
REQUEST = JobRequest(
    "TEST_QUEUE",
    computing_element="TEST_QUEUE",
    prod_source_label="managed",
    disk_space=50000,
    memory=16000,
    cpu=2400.0,
    node="slot1@wn1",
    remaining_time=86400,
)
NOW = 1_795_171_524.0
LOG = "log.tgz"
DIALECTS = ["v1", "legacy"]


def client(url: str, dialect: str = "auto", credentials: Optional[Credentials] = None, **server: Any) -> PandaServer:
    settings = default_settings(**{f"server.{key}": value for key, value in server.items()})
    return PandaServer(
        url,
        settings,
        credentials=credentials or Credentials(environ={}),
        user_agent=user_agent("2.13.0.1"),
        dialect=dialect,
    )


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running
        assert running.workers_killed == 0


def submit(box: Sandbox) -> int:
    return box.submit(
        {
            "transformation": "echo",
            "jobPars": "hi",
            "outFiles": "out.txt,log.tgz",
            "logFile": LOG,
            "destinationDblock": "d,d",
            "scopeOut": "test",
            "scopeLog": "test",
            "logGUID": "lg",
        }
    )


def job_of(answer: Any) -> Job:
    raw = answer.jobs[0]
    made = Job(
        jobid=str(raw["PandaID"]), attemptnr=int(raw["attemptNr"]), start_time=NOW, batch_id="12345.0", corecount=8
    )
    made.exit_code, made.metadata = 0, '{"exitCode": 0}'
    made.core_counts, made.cpu_seconds, made.nevents = [7.5, 8.0], 3600.5, 50
    made.outdata = [transferred("out.txt", "output")]
    made.logdata = [transferred(LOG, "log")]
    return made


def transferred(lfn: str, kind: Any) -> FileSpec:
    return FileSpec(
        lfn,
        kind,
        guid=f"guid-{lfn}",
        filesize=13,
        checksum={"adler32": "22810424"},
        status="transferred",
        turl=f"root://se//{lfn}",
        ddmendpoint="TEST-SITE_DATADISK",
    )


METRICS = {"maxRSS": 2097152, "avgRSS": 1997152.5, "maxPSS": 2000000, "totRCHAR": 1073741824, "rateWBYTES": 20.5}


# --- life of a job ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "form"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_job_from_activated_to_finished(dialect: str, encoding: str, box: Sandbox) -> None:
    job_id = submit(box)
    server = client(box.url, dialect, legacy_encoding=encoding)
    assert server.is_alive()
    answer = server.acquire_jobs(REQUEST)
    assert (answer.status_code, len(answer.jobs)) == (0, 1) and server.job_status([str(job_id)]) == {
        str(job_id): ("sent", 1)
    }
    job = job_of(answer)
    for state in ("starting", "running", "running"):
        update = server.update_job(build_update(job, state, ENV, NOW, metrics=METRICS, job_metrics="leak=12.3"))
        assert update.verdict is Verdict.DELIVERED
    final = build_update(job, "finished", ENV, NOW + 60, metrics=METRICS)
    assert server.update_job(final).verdict is Verdict.DELIVERED
    assert server.update_job(final).command == "alreadydone"
    box.run_adder()
    assert box.job(job_id)["state"] == "finished", box.job(job_id)
    assert server.update_job(final).verdict is Verdict.DELIVERED
    assert server.acquire_jobs(REQUEST).status_code == 20
    assert all(request.dialect == dialect for request in box.requests)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_failed_job_keeps_code_diagnosis_and_log(dialect: str, box: Sandbox) -> None:
    job_id = submit(box)
    server = client(box.url, dialect)
    job = job_of(server.acquire_jobs(REQUEST))
    job.exit_code, job.outdata, job.pilot_log_extract = 65, [], "ü" * 3000
    job.errors.add(1305, "é" * 400)
    assert server.update_job(build_update(job, "failed", ENV, NOW)).verdict is Verdict.DELIVERED
    box.run_adder()
    stored = box.job(job_id)
    assert stored["state"] == "failed" and int(stored["fields"]["pilotErrorCode"]) == 1305
    assert int(stored["fields"]["transExitCode"]) == 65


@pytest.mark.parametrize("dialect", DIALECTS)
def test_commands_reach_the_pilot(dialect: str, box: Sandbox) -> None:
    job_id = submit(box)
    server = client(box.url, dialect)
    job = job_of(server.acquire_jobs(REQUEST))

    def commands() -> Any:
        return parse_commands(server.update_job(build_update(job, "running", ENV, NOW)).command)

    assert commands().debug is None
    box.debug(job_id)
    box.command(job_id, "ls -l")
    assert (commands().debug, commands().debug_command) == (True, "ls -l")
    box.kill(job_id)
    assert commands().kill
    job.errors.add(1144)
    final = server.update_job(build_update(job, "failed", ENV, NOW))
    assert final.verdict is Verdict.DELIVERED and final.words == ()


def test_a_changed_batch_id_is_refused_as_recorded(box: Sandbox) -> None:
    submit(box)
    server = client(box.url)
    job = job_of(server.acquire_jobs(REQUEST))
    job.batch_id = "slurm-aaa"
    assert server.update_job(build_update(job, "running", ENV, NOW)).verdict is Verdict.DELIVERED
    job.batch_id = "slurm-bbb"
    assert server.update_job(build_update(job, "running", ENV, NOW)).verdict is Verdict.RETRY_REDUCED


@pytest.mark.parametrize("dialect", DIALECTS)
def test_several_updates_leave_in_one_request(dialect: str, box: Sandbox) -> None:
    jobs = []
    server = client(box.url, dialect)
    for _ in range(3):
        submit(box)
        jobs.append(job_of(server.acquire_jobs(REQUEST)))
    before = len(box.requests)
    results = server.update_jobs([build_update(job, "running", ENV, NOW) for job in jobs])
    assert [result.verdict for result in results] == [Verdict.DELIVERED] * 3 and len(box.requests) == before + 1
    assert all(box.job(int(job.jobid))["state"] == "running" for job in jobs)


@pytest.mark.parametrize(
    ("v1", "legacy", "dialect"), [(True, False, "v1"), (False, True, "legacy"), (True, True, "v1")]
)
def test_the_dialect_is_found_out(v1: bool, legacy: bool, dialect: str) -> None:
    with Sandbox(v1=v1, legacy=legacy) as box:
        submit(box)
        server = client(box.url)
        assert server.acquire_jobs(REQUEST).status_code == 0 and server.dialect == dialect


@pytest.mark.parametrize("dialect", DIALECTS)
def test_worker_node_and_resource_types(dialect: str, box: Sandbox) -> None:
    server = client(box.url, dialect)
    server.update_worker_status("4711", "test-harvester", "started", site="TEST_QUEUE", node="slot1@wn1")
    server.update_worker_status("4711", "test-harvester", "finished", site="TEST_QUEUE", node="slot1@wn1")
    assert server.update_worker_node(
        {"site": "S", "host_name": "h", "cpu_model": "m", "clock_speed": 2400, "total_memory": 9.5}
    )
    assert server.resource_types()[0]["resource_name"] == "SCORE"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_credentials_that_the_server_gives_out(dialect: str, box: Sandbox) -> None:
    box.creds.flags["Robot Pilot"] = "pkt"
    box.creds.proxies["production"] = "-----BEGIN CERTIFICATE-----x"
    box.creds.key_pairs["pub", "priv"] = ("public-value", "private-value")
    box.creds.token_keys["pilot_server"], box.creds.access_tokens["pilot_server"] = "key-abcdef", "token-abcdef"
    server = client(box.url, dialect)
    assert server.get_proxy("production") == "-----BEGIN CERTIFICATE-----x"
    assert server.get_key_pair("pub", "priv") == ("public-value", "private-value")
    assert server.get_token_key("pilot_server") == "key-abcdef"
    assert server.get_access_token("pilot_server", "key-abcdef") == "token-abcdef"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_keys_of_object_stores_are_asked_for_once_and_masked(dialect: str, box: Sandbox) -> None:
    box.creds.flags["Robot Pilot"] = "k"
    box.creds.key_pairs["pub", "priv"] = (f"public-of-{dialect}", f"private-of-{dialect}")
    server, keys = client(box.url, dialect), KeyPairs()
    assert keys.get(server, "pub", "priv") == (f"public-of-{dialect}", f"private-of-{dialect}")
    box.creds.key_pairs.clear()
    assert keys.get(server, "pub", "priv") == (f"public-of-{dialect}", f"private-of-{dialect}")
    assert redact(f"copying with private-of-{dialect}") == "copying with ********"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_keys_that_the_server_refuses_are_a_warning(
    dialect: str, box: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    server, keys = client(box.url, dialect), KeyPairs()
    assert keys.get(server, "pub", "priv") == ("", "")
    assert "pub/priv" in caplog.text and "authorized" in caplog.text
    assert keys.get(None, "pub", "priv") == ("", "")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_keys_are_asked_for_again_after_a_failure_of_the_network(dialect: str, box: Sandbox) -> None:
    box.creds.flags["Robot Pilot"] = "k"
    box.creds.key_pairs["pub", "priv"] = ("public-value", "private-value")
    box.faults.add("get_key_pair", "http_503", times=1)
    server, keys = client(box.url, dialect), KeyPairs()
    assert keys.get(server, "pub", "priv") == ("", "")
    assert keys.get(server, "pub", "priv") == ("public-value", "private-value")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_event_ranges(dialect: str, box: Sandbox) -> None:
    job_id = submit(box)
    server = client(box.url, dialect)
    server.update_job(build_update(job_of(server.acquire_jobs(REQUEST)), "running", ENV, NOW))
    names = [f"3-{job_id}-1-{number}-1" for number in (1, 2)]
    box.add_event_ranges(
        job_id,
        [
            {"eventRangeID": name, "startEvent": 1, "lastEvent": 1, "LFN": "E", "GUID": "g", "scope": "s"}
            for name in names
        ],
    )
    assert server.event_range_count(str(job_id), "1", "3") == 2
    ranges = server.acquire_event_ranges(str(job_id), "1", "3", n_ranges=1)
    assert [item["eventRangeID"] for item in ranges] == names[:1]
    answer = server.update_event_ranges([{"eventRangeID": names[0], "eventStatus": "finished"}])
    assert answer.unknown if dialect == "v1" else answer.returns == (True,)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "http_500",
        "http_502",
        "reset",
        "close_before_answer",
        "garbage",
        "not_utf8",
        "html",
        "empty",
        "truncate",
        "processed_then_reset",
        "processed_then_close",
    ],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fault_of_the_server_is_survived_by_asking_again(dialect: str, kind: str, box: Sandbox) -> None:
    submit(box)
    server = client(box.url, dialect)
    job = job_of(server.acquire_jobs(REQUEST))
    server.close()
    fault = box.faults.add("update*", kind)
    final = build_update(job, "finished", ENV, NOW)
    assert server.update_job(final).verdict is Verdict.RETRY and fault.hits == 1
    assert server.update_job(final).verdict is Verdict.DELIVERED
    box.run_adder()
    assert box.job(int(job.jobid))["state"] == "finished" and box.job(int(job.jobid))["finals"] == 1


@pytest.mark.parametrize("kind", ["wrong_type", "strings", "urlencoded"])
def test_odd_forms_of_a_good_answer_are_good(kind: str, box: Sandbox) -> None:
    submit(box)
    server = client(box.url, "legacy")
    job = job_of(server.acquire_jobs(REQUEST))
    fault = box.faults.add("update*", kind)
    assert server.update_job(build_update(job, "running", ENV, NOW)).verdict is Verdict.DELIVERED and fault.hits == 1


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [("status_10", Verdict.RETRY), ("status_30", Verdict.RETRY_REDUCED), ("status_60", Verdict.REFUSED)],
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_status_codes(dialect: str, kind: str, verdict: Verdict, box: Sandbox) -> None:
    submit(box)
    server = client(box.url, dialect)
    job = job_of(server.acquire_jobs(REQUEST))
    box.faults.add("update*", kind)
    assert server.update_job(build_update(job, "running", ENV, NOW)).verdict is verdict


def test_a_dripping_and_a_hanging_server_are_given_up(box: Sandbox) -> None:
    server = client(box.url, "v1", connect_timeout=0.2, read_timeout=0.3)
    box.faults.add("*", "drip", seconds=0.1)
    box.faults.add("*", "hang")
    with pytest.raises(TransportError, match="within 0.5 s"):
        server.acquire_jobs(REQUEST)
    with pytest.raises(TransportError, match=r"server\.read_timeout") as caught:
        server.acquire_jobs(REQUEST)
    assert caught.value.maybe_processed


def test_an_outage_is_told_from_a_taken_job(box: Sandbox) -> None:
    submit(box)
    server = client(box.url)
    box.down()
    with pytest.raises(TransportError) as caught:
        server.acquire_jobs(REQUEST)
    assert not caught.value.maybe_processed
    box.up()
    assert server.acquire_jobs(REQUEST).status_code == 0


def test_a_connection_closed_between_calls_is_no_failure(box: Sandbox) -> None:
    submit(box)
    server = client(box.url)
    assert server.is_alive()
    box.down()
    box.up()
    assert server.acquire_jobs(REQUEST).status_code == 0


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_token_and_origin_open_the_door(dialect: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good-token-abc\n")
    environ = {"PANDA_AUTH_TOKEN": str(token), "PANDA_AUTH_ORIGIN": "atlas.production"}
    with Sandbox(auth="token") as box:
        box.auth.tokens["good-token-abc"] = "Robot Pilot"
        submit(box)
        server = client(box.url, dialect, Credentials(environ=environ))
        assert server.acquire_jobs(REQUEST).status_code == 0
        token.write_text("bad-token-abcd\n")
        answer = server.acquire_jobs(REQUEST)
        assert answer.permanent and answer.status_code == 60 and "unknown token" in answer.text
        assert server.update_job({"jobId": 1, "state": "finished", "attemptNr": 1}).verdict is Verdict.REFUSED


# --- TLS --------------------------------------------------------------------------------------------------------------

PROXY_CERT_INFO = x509.UnrecognizedExtension(
    ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)


class Pair(NamedTuple):
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issue(names: list[str], issuer: Optional[Pair], *extensions: tuple[x509.ExtensionType, bool]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, item) for item in names])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.cert.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def write_pem(path: Path, *pairs: Pair) -> Path:
    """A proxy file: certificate, key, the rest of the chain."""
    key = pairs[0].key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certs = [pair.cert.public_bytes(serialization.Encoding.PEM) for pair in pairs]
    path.write_bytes(certs[0] + key + b"".join(certs[1:]))
    return path


class World(NamedTuple):
    box: Sandbox
    home: Path
    cas: Path
    robot: Pair
    jane: Pair


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    import shutil
    import subprocess

    authority = issue(["Test CA"], None, (x509.BasicConstraints(True, None), True))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    host = write_pem(tmp_path / "host.pem", issue(["localhost"], authority, (address, False)))
    ca = write_pem(tmp_path / "ca.pem", authority)
    cas = tmp_path / "certificates"
    cas.mkdir()
    digest = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(ca)], check=True, capture_output=True, text=True
    )
    shutil.copy(ca, cas / f"{digest.stdout.strip()}.0")
    with Sandbox(auth="cert", tls=TLSFiles(host, host, ca), production_dns=["CN=Robot Pilot", "Robot Pilot"]) as box:
        yield World(box, tmp_path, cas, issue(["Robot Pilot"], authority), issue(["Jane Doe"], authority))


def tls_client(
    world: World, credential: Optional[Path], dialect: str = "auto", ca: Optional[Path] = None, **server: Any
) -> PandaServer:
    credentials = Credentials(cacert=str(credential or ""), capath=str(ca or world.cas), environ={})
    return client(world.box.https_url, dialect, credentials, **server)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_server_is_verified_with_a_hashed_ca_directory_and_sees_the_client(dialect: str, world: World) -> None:
    job_id = submit(world.box)
    server = tls_client(world, write_pem(world.home / "robot.pem", world.robot), dialect)
    answer = server.acquire_jobs(REQUEST)
    assert answer.status_code == 0 and int(str(answer.jobs[0]["PandaID"])) == job_id
    assert server.update_job(build_update(job_of(answer), "finished", ENV, NOW)).verdict is Verdict.DELIVERED
    assert "Robot Pilot" in world.box.requests[0].dn and world.box.requests[0].tls


def test_an_rfc_3820_proxy_is_a_client_certificate(world: World) -> None:
    submit(world.box)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    proxy = issue(["Robot Pilot", "12345"], world.robot, (PROXY_CERT_INFO, True), (usage, True))
    server = tls_client(world, write_pem(world.home / "x509up", proxy, world.robot))
    assert server.acquire_jobs(REQUEST).status_code == 0
    assert "Robot Pilot" in world.box.requests[0].dn


def test_a_proxy_replaced_in_mid_life_is_used_at_once(world: World) -> None:
    path = write_pem(world.home / "x509up", world.jane)
    server = tls_client(world, path, "v1")
    refused = server.acquire_jobs(REQUEST)
    assert refused.permanent and "role" in refused.text
    submit(world.box)
    write_pem(world.home / "new", world.robot).replace(path)
    assert server.acquire_jobs(REQUEST).status_code == 0


def test_without_a_certificate_v1_says_so(world: World) -> None:
    answer = tls_client(world, world.home / "nothing", "v1").acquire_jobs(REQUEST)
    if Credentials(environ={}).proxy():
        pytest.skip("this machine has a default proxy")
    assert answer.permanent and answer.text == "SSL secure connection is required"


@pytest.fixture
def other_ca(tmp_path: Path) -> Path:
    return write_pem(tmp_path / "other-ca.pem", issue(["Other CA"], None, (x509.BasicConstraints(True, None), True)))


def test_an_unknown_server_is_not_talked_to_unless_told_so(world: World, other_ca: Path) -> None:
    robot = write_pem(world.home / "robot.pem", world.robot)
    with pytest.raises(TransportError, match="TLS failed") as caught:
        tls_client(world, robot, ca=other_ca).acquire_jobs(REQUEST)
    assert not caught.value.maybe_processed and not world.box.requests
    assert tls_client(world, robot, ca=other_ca, verify_tls=False).acquire_jobs(REQUEST).status_code == 20


def test_a_client_certificate_that_the_server_refuses_cannot_have_taken_a_job(world: World) -> None:
    """With TLS 1.3 the client has sent its request before it learns of the refusal: the alert tells the difference."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.home / "host.pem")
    context.load_verify_locations(world.home / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse() -> None:
        with listener, listener.accept()[0] as sock:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(incoming, outgoing, server_side=True)
            while True:
                incoming.write(sock.recv(65536))
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError:
                    break
                finally:
                    sock.sendall(outgoing.read())
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    thread = threading.Thread(target=refuse)
    thread.start()
    stranger = issue(["Robot Pilot"], issue(["Other CA"], None, (x509.BasicConstraints(True, None), True)))
    credentials = Credentials(
        cacert=str(write_pem(world.home / "stranger.pem", stranger)), capath=str(world.cas), environ={}
    )
    with pytest.raises(TransportError, match="TLS failed") as caught:
        client(f"https://127.0.0.1:{listener.getsockname()[1]}", credentials=credentials).acquire_jobs(REQUEST)
    thread.join(10)
    assert not caught.value.maybe_processed


@pytest.mark.parametrize("content", ["", "no pem at all"])
def test_a_broken_proxy_file_is_an_error_with_a_reason(content: str, world: World) -> None:
    broken = world.home / "broken"
    broken.write_text(content)
    with pytest.raises(TransportError) as caught:
        tls_client(world, broken).acquire_jobs(REQUEST)
    assert not caught.value.maybe_processed and not world.box.requests


def test_the_connection_is_kept_over_tls(world: World) -> None:
    connections: list[Any] = []
    original = ssl.SSLContext.wrap_socket

    def counting(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> Any:
        connections.append(kwargs.get("server_hostname"))
        return original(self, *args, **kwargs)

    server = tls_client(world, write_pem(world.home / "robot.pem", world.robot))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "wrap_socket", counting)
        for _ in range(3):
            assert server.acquire_jobs(REQUEST).status_code == 20
    assert len(connections) == 1


def test_threads_and_new_connections_share_what_was_read_of_the_ca(world: World) -> None:
    loaded: list[Any] = []
    original = ssl.SSLContext.load_verify_locations

    def counting(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        loaded.append(args)
        original(self, *args, **kwargs)

    server = tls_client(world, write_pem(world.home / "robot.pem", world.robot))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl.SSLContext, "load_verify_locations", counting)
        for _ in range(3):
            thread = threading.Thread(target=server.acquire_jobs, args=(REQUEST,))
            thread.start()
            thread.join(60)
    assert len(world.box.requests) >= 3 and len(loaded) == 1


def test_an_encrypted_key_is_an_error_and_asks_nobody(world: World) -> None:
    certificate = world.robot.cert.public_bytes(serialization.Encoding.PEM)
    locked = world.robot.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word"))
    path = world.home / "locked.pem"
    path.write_bytes(certificate + locked)
    with pytest.raises(TransportError) as caught:
        tls_client(world, path).acquire_jobs(REQUEST)
    assert not caught.value.maybe_processed and not world.box.requests
