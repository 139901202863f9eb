"""One job from the server (or a file) to the final report: both dialects, all identities, all sources of queue data."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import Farm
from looks import archive, ended_well, report_of

from sandbox import TLSFiles
from sandbox.identity import ROBOT_DN

DIALECTS = {
    "v1": ("--server-api", "v1"),
    "legacy": ("--server-api", "legacy"),
    "form": ("--server-api", "legacy", "--set", "server.legacy_encoding=form"),
}


def states_told(farm: Farm, job: int) -> list[str]:
    return [update["state"] for update in farm.server.job(job)["updates"]]


# --- the road --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialect", DIALECTS)
def test_job_with_files_and_log_goes_all_the_way(farm: Farm, dialect: str) -> None:
    inputs = {"in1.txt": b"first", "in2.txt": b"second" * 1000}
    job = farm.submit_job("cat in1.txt in2.txt > out1.dat\nwc -c in2.txt > out2.dat\n"
                          "echo '{\"worker\": 1}' > jobReport.json", inputs=inputs, outputs=["out1.dat", "out2.dat"])
    pilot = ended_well(farm.run_pilot(*DIALECTS[dialect]))
    final = farm.final(job)
    definition = farm.server.job(job)["definition"]
    assert (final["state"], int(final["pilotErrorCode"]), int(final["transExitCode"])) == ("finished", 0, 0)
    # on a slow machine 'starting' may be overtaken: an update that has not left yet gives way to the next one
    assert states_told(farm, job) in (["starting", "running", "finished"], ["running", "finished"])
    assert (farm.outputs / "out1.dat").read_bytes() == b"first" + b"second" * 1000
    stored = report_of(final)
    assert set(stored) == {"out1.dat", "out2.dat", definition["logFile"]}
    for name, entry in stored.items():
        assert int(entry["fsize"]) == (farm.outputs / name).stat().st_size
        assert re.fullmatch("[0-9a-f]{8}", entry["adler32"])
        assert entry["endpoint"] == "TEST_RSE"
    assert stored[definition["logFile"]]["guid"] == definition["logGUID"]
    assert json.loads(final["metaData"]) == {"worker": 1}
    assert int(final["nInputFiles"]) == 2
    assert re.fullmatch(r"\d+\|\d+\|\d+\|\d+\|\d+", final["pilotTiming"])
    farm.server.run_adder()
    assert farm.state(job) == "finished"
    assert not list(pilot.directory.glob("PanDA_Pilot-*")), "the job's directory is removed"


def test_log_archive_explains_the_job(farm: Farm) -> None:
    job = farm.submit_job("cat PoolFileCatalog.xml\necho grumble >&2\nmkdir deep; echo note > deep/note.txt\n"
                          "echo data > out.dat; ln -s /etc/hostname link", inputs={"in.txt": b"x"}, outputs=["out.dat"])
    ended_well(farm.run_pilot())
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert b'name="in.txt"' in members["payload.stdout"]
    assert members["payload.stderr"] == b"grumble\n"
    assert members["deep/note.txt"] == b"note\n"
    assert b"received job" in members["pilotlog.txt"]
    assert not {"in.txt", "out.dat", "link"} & set(members)


def test_trivial_job_costs_few_requests(farm: Farm) -> None:
    job = farm.submit_job(log=False)
    ended_well(farm.run_pilot())
    assert farm.final(job)["state"] == "finished"
    assert len(farm.server.requests) <= 6


def test_job_runs_in_a_main_work_directory_that_leaves_with_it(farm: Farm) -> None:
    job = farm.submit_job("pwd")
    pilot = ended_well(farm.run_pilot("-a", "work"))
    assert farm.final(job)["state"] == "finished"
    assert list((pilot.directory / "work").iterdir()) == []


def test_the_pilot_does_not_clean_when_it_must_not(farm: Farm) -> None:
    job = farm.submit_job("echo here > note.txt")
    pilot = ended_well(farm.run_pilot("--cleanup", "False"))
    assert (pilot.directory / f"PanDA_Pilot-{job}" / "note.txt").read_text() == "here\n"


# --- figures ---------------------------------------------------------------------------------------------------------
BURN = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"


def test_cpu_time_includes_children_and_daemons(farm: Farm) -> None:
    burn = farm.scripts / "burn.py"
    burn.write_text(BURN.format(0.7))
    done = farm.gate("daemon")
    job = farm.submit_job(f"python3 {burn} &\nsetsid sh -c 'python3 {burn}; echo burnt > {done.arrival}; sleep 600' &\n"
                          f"wait %1\nread line < {done.arrival}", log=False)
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished"
    assert 1 <= int(final["cpuConsumptionTime"]) <= 3


def test_heartbeats_come_at_their_period_with_growing_cpu_time(farm: Farm) -> None:
    gate = farm.gate("payload")
    burn = farm.scripts / "burn.py"
    burn.write_text(BURN.format(1.1))
    job = farm.submit_job(f"python3 {burn}\n{gate.shell()}", log=False)
    pilot = farm.start_pilot(settings={"pilot.heartbeat": 1})
    gate.reached()

    def consumed() -> bool:
        told = [update for update in farm.server.job(job)["updates"] if update["state"] == "running"]
        return len(told) >= 3 and int(told[-1].get("cpuConsumptionTime") or 0) >= 1

    farm.server.wait(consumed)
    gate.open()
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert float(final["meanCoreCount"]) >= 0
    assert int(final["cpuConsumptionTime"]) >= 1


# --- failures of the payload, in its own words -----------------------------------------------------------------------
def test_diagnosis_names_the_cause(farm: Farm) -> None:
    job = farm.submit_job("echo starting up\necho 'Error: cannot open geometry file geo.db' >&2\nexit 3",
                          outputs=["out.dat"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "failed"
    assert (int(final["pilotErrorCode"]), int(final["transExitCode"])) == (1305, 3)
    assert "cannot open geometry file geo.db" in final["pilotErrorDiag"]
    assert "starting up" in final["pilotLog"]
    assert set(report_of(final)) == {farm.server.job(job)["definition"]["logFile"]}, "the log is stored, no output"
    assert len(final["pilotLog"].encode()) <= 1024


@pytest.mark.parametrize(("script", "exit_code", "words"), [
    ("kill -SEGV $$", 139, "SIGSEGV"),
    ("no-such-program-anywhere", 127, "no-such-program-anywhere"),
    ("exit 255", 255, "255"),
])
def test_ends_of_payloads(farm: Farm, script: str, exit_code: int, words: str) -> None:
    job = farm.submit_job(script, log=False)
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], int(final["transExitCode"])) == ("failed", exit_code)
    assert words in final["pilotErrorDiag"]
    assert int(final["pilotErrorCode"]) != 0


# --- where jobs come from --------------------------------------------------------------------------------------------
def definition_of(farm: Farm, payload: str, **more: Any) -> dict[str, Any]:
    """A definition as dispatched; the job itself stays on the server as 'activated'."""
    job = farm.submit_job(payload, **more)
    return {key: value for key, value in farm.server.job(job)["definition"].items() if value is not None}


def test_job_from_a_file_with_updates_to_a_file(farm: Farm) -> None:
    definition = definition_of(farm, "echo 'result with & and = and %41' > out.dat", outputs=["out.dat"])
    launch = farm.directory / "launch"
    launch.mkdir()
    (launch / "pandaJobData.out").write_text(urlencode(definition))
    pilot = ended_well(farm.run_pilot("-z", directory=launch))
    told = json.loads((launch / "heartbeat.json").read_text())
    assert (told["state"], int(told["jobId"])) == ("finished", definition["PandaID"])
    assert set(json.loads(told["xml"])) == {"out.dat", definition["logFile"]}
    assert (farm.outputs / "out.dat").read_text() == "result with & and = and %41\n"
    assert not (launch / "pandaJobData.out").exists()
    assert {request.operation for request in farm.server.requests} == {"queuedata"}
    assert pilot.databases


def test_harvester_pushes_a_job_as_a_file(farm: Farm) -> None:
    definition = definition_of(farm, "echo pushed > out.dat", outputs=["out.dat"])
    access = farm.directory / "access"
    access.mkdir()
    (access / "HPCJobs.json").write_text(json.dumps({str(definition["PandaID"]): definition}))
    env = {"HARVESTER_ID": "test_harvester", "HARVESTER_WORKER_ID": "42"}
    pilot = farm.run_pilot("--harvester-submit-mode", "PUSH", "--harvester-workdir", str(access), env=env)
    ended_well(pilot)
    assert farm.final(definition["PandaID"])["state"] == "finished"
    asked = [request.operation for request in farm.server.requests]
    assert "acquire_jobs" not in asked
    assert asked.count("update_worker_status") == 2  # started, finished
    assert (access / "kill_worker").exists()
    assert (access / "HPCJobs.json").exists() is False


@pytest.mark.parametrize("content", ["", "garbage", '{"1": {}', "PandaID=&x=1", "\x00\xff"])
def test_job_file_without_a_job_ends_with_one_clear_line(farm: Farm, content: str) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    (launch / "pandaJobData.out").write_bytes(content.encode("latin-1"))
    pilot = farm.run_pilot(directory=launch)
    assert "Traceback" not in pilot.output
    assert pilot.process.returncode not in (0, 1)
    assert "pandaJobData.out" in pilot.output
    assert "acquire_jobs" not in [request.operation for request in farm.server.requests]


# --- where the queue's description comes from ------------------------------------------------------------------------
@pytest.mark.parametrize("source", ["preplaced", "option file", "option URL", "server"])
def test_sources_of_queue_data(farm: Farm, source: str) -> None:
    # what the queue says shows in the log archive's name and in the way inputs come
    document = {**farm.queue, "copytools": {"mv": {"copy_in": "symlink"}}}
    launch = farm.directory / "launch"
    launch.mkdir()
    options: list[str] = []
    if source == "preplaced":
        (launch / "queuedata.json").write_text(json.dumps(document))
    elif source == "option file":
        path = farm.directory / "my queue.json"
        path.write_text(json.dumps(document))
        options = ["--queuedata-url", str(path)]
    elif source == "option URL":
        farm.server.add_queue("OTHER_NAME", document)
        options = ["--queuedata-url", f"{farm.server.url}/cache/schedconfig/OTHER_NAME.all.json"]
    else:
        farm.set_queue(copytools=document["copytools"])
    job = farm.submit_job("test -L in.txt", inputs={"in.txt": b"x"})
    ended_well(farm.run_pilot(*options, directory=launch))
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"]
    asked = [request.path for request in farm.server.requests if request.operation == "queuedata"]
    assert len(asked) == (1 if source in ("option URL", "server") else 0), asked


@pytest.mark.parametrize("status", ["offline", "brokeroff"])
def test_queue_that_is_not_online(farm: Farm, status: str) -> None:
    farm.set_queue(status=status)
    farm.submit_job()
    pilot = farm.run_pilot()
    asked = [request.operation for request in farm.server.requests]
    if status == "offline":
        ended_well(pilot, 64 if pilot.process.returncode == 64 else 83)
        assert "acquire_jobs" not in asked
    else:
        ended_well(pilot)


# --- identities ------------------------------------------------------------------------------------------------------
class Pair(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


_OIDS = {"DC": NameOID.DOMAIN_COMPONENT, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
         "CN": NameOID.COMMON_NAME}


def issue(dn: str, issuer: Optional[Pair], extensions: list[tuple[x509.ExtensionType, bool]]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(_OIDS[part.split("=")[0]], part.split("=")[1]) for part in dn.split("/")[1:]])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else name, subject_name=name, public_key=key.public_key(),
        serial_number=x509.random_serial_number(), not_valid_before=now - day, not_valid_after=now + day)
    signer = issuer.key if issuer else key
    extensions = [*extensions, (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
                  (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Pair(builder.sign(signer, hashes.SHA256()), key)


def write_pem(path: Path, pair: Pair) -> Path:
    path.write_bytes(
        pair.certificate.public_bytes(serialization.Encoding.PEM) + pair.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    path.chmod(0o600)
    return path


@pytest.fixture
def secure_farm(tmp_path: Path) -> Iterator[Farm]:
    """A farm whose server speaks https and knows people by their certificates."""
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                          key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                          decipher_only=False)
    authority = issue("/O=Test/CN=Test CA", None, [(x509.BasicConstraints(True, None), True), (usage, True)])
    localhost = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    host = write_pem(tmp_path / "host.pem", issue("/O=Test/CN=localhost", authority, [(localhost, False)]))
    bundle = write_pem(tmp_path / "ca.pem", authority)
    write_pem(tmp_path / "robot.pem", issue(ROBOT_DN, authority, []))
    running = Farm(tmp_path, auth="cert", tls=TLSFiles(host, host, bundle))
    yield running
    running.close()


def test_https_with_a_client_certificate(secure_farm: Farm, tmp_path: Path) -> None:
    job = secure_farm.submit_job()
    pilot = ended_well(secure_farm.run_pilot(
        "--url", secure_farm.server.https_url, "--capath", str(tmp_path / "ca.pem"),
        env={"X509_USER_PROXY": str(tmp_path / "robot.pem")}))
    assert secure_farm.final(job)["state"] == "finished"
    assert "PRIVATE KEY" not in pilot.output


def test_https_without_a_certificate_is_refused_in_clear_words(secure_farm: Farm, tmp_path: Path) -> None:
    secure_farm.submit_job()
    pilot = secure_farm.run_pilot("--url", secure_farm.server.https_url, "--capath", str(tmp_path / "ca.pem"))
    ended_well(pilot, 68)
    assert "SSL secure connection is required" in pilot.output


def test_https_of_an_unknown_authority_is_not_trusted(secure_farm: Farm) -> None:
    secure_farm.submit_job()
    pilot = secure_farm.run_pilot("--url", secure_farm.server.https_url, settings={"server.start_patience": 1})
    ended_well(pilot, 71)
    assert "certificate" in pilot.output.lower()


def test_token(tmp_path: Path) -> None:
    token = "header.c2VjcmV0.signature-that-nobody-may-see"
    running = Farm(tmp_path, auth="token")
    try:
        running.server.auth.tokens.update({token: "Robot Pilot"})
        (tmp_path / "token.jwt").write_text(token)
        job = running.submit_job("env")
        pilot = ended_well(running.run_pilot(
            "-y", env={"OIDC_AUTH_TOKEN": str(tmp_path / "token.jwt"), "OIDC_AUTH_ORIGIN": "atlas.pilot"}))
        assert running.final(job)["state"] == "finished"
        found = archive(running.outputs / running.server.job(job)["definition"]["logFile"])
        assert b"token.jwt" not in found["payload.stdout"], "the payload does not get the pilot's identity"
        assert token not in pilot.output
        assert not any(token.encode() in content for content in found.values())
    finally:
        assert not running.close()


# --- secrets ---------------------------------------------------------------------------------------------------------
def test_secrets_of_the_job_stay_out_of_everything_that_is_kept(farm: Farm) -> None:
    secret, proxy = "s3cr3t-of-the-user", "-----BEGIN PRIVATE KEY-----\nMIIEvQproxykey\n-----END PRIVATE KEY-----\n"
    (farm.directory / "proxy.pem").write_text(proxy)
    job = farm.submit_job(f"cp panda_secrets.json copy.json; cp {farm.directory}/proxy.pem proxy.pem; mkdir d\n"
                          "ln panda_secrets.json d/panda_secrets.json\ngrep -c s3cr3t panda_secrets.json\n"
                          "stat -c %a panda_secrets.json",
                          secrets=json.dumps({"password": secret}), useSecrets=True)
    pilot = ended_well(farm.run_pilot(env={"X509_USER_PROXY": str(farm.directory / "proxy.pem")}))
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert members["payload.stdout"] == b"1\n600\n", "the payload has its secrets, and only it can read them"
    del members["copy.json"]  # the payload's own doing under a name of its own
    for name, content in members.items():
        assert secret.encode() not in content and b"proxykey" not in content, name
    for path in [*pilot.databases, *pilot.directory.glob("pilot.db*"), pilot.directory / "stdouterr.txt",
                 pilot.directory / "pilotlog.txt"]:
        content = path.read_bytes()
        assert secret.encode() not in content and b"proxykey" not in content, path
    store = pilot.store()
    assert [row.job_id for row in store.jobs()] == [str(job)]
    store.close()
    for request in farm.server.requests:
        assert secret not in json.dumps(request.params, default=str) or request.operation == "acquire_jobs"


# --- the clock -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("jump", [365 * 86400, -365 * 86400])
def test_clock_that_jumps_under_the_job_changes_no_duration(farm: Farm, jump: int) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job(f"{gate.shell()}echo x > out.dat", outputs=["out.dat"], inputs={"in.txt": b"x"})
    pilot = farm.start_pilot("--pilot-user", "jumpy", env={"JUMP": str(jump)}, settings={
        "pilot.heartbeat": 1, "plugins.experiments": {"jumpy": "jumpy:JumpyExperiment"}})
    gate.reached()
    before = len(farm.server.job(job)["updates"])
    farm.server.wait(lambda: len(farm.server.job(job)["updates"]) > before + 1)  # heartbeats go on at their period
    gate.open()
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert final["state"] == "finished"
    assert all(0 <= int(seconds) < 60 for seconds in final["pilotTiming"].split("|")), final["pilotTiming"]
    year = int(final["endTime"][:4])
    assert year == datetime.datetime.fromtimestamp(time.time() + jump, datetime.timezone.utc).year
    with_times = [line for line in pilot.log.splitlines() if "payload ended with exit code" in line]
    assert re.search(r"after \d{1,2}\.\d s", with_times[0]), with_times
