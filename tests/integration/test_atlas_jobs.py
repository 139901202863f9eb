"""Whole pilots with ``--pilot-user ATLAS``: production and user jobs against the stand-in CVMFS tree."""

from __future__ import annotations

import json
import platform
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest
from harness import Farm, Pilot
from looks import archive, ended_well
from shelves import Shelf

from pilot.copytool.base import Features
from pilot.info.job import Job
from pilot.user.atlas import Atlas

TREE = Path(__file__).resolve().parents[1] / "standins/cvmfs"
RELEASE = {"swRelease": "Atlas-21.0.15", "homepackage": "AtlasOffline/21.0.15", "taskID": 999, "attemptNr": 2,
           "cmtConfig": "x86_64-slc6-gcc62-opt", "processingType": "simul"}
TRF = """#!/bin/bash
env > user_environ.txt
printf '%s\\n' "$0" "$@" > user_arguments.txt
cp PoolFileCatalog.xml catalogue.txt 2>/dev/null
tar tzf DBRelease-*.tar.gz > dbrelease.txt 2>/dev/null
for name in $OUTPUTS; do echo data > $name; done
exit 0
"""


def run(farm: Farm, *options: str, env: Mapping[str, str] = {}, **how: Any) -> Pilot:  # noqa: B006 - never changed
    pilot = farm.run_pilot("--pilot-user", "ATLAS", *options, env={"ATLAS_SW_BASE": str(TREE), **env}, **how)
    return ended_well(pilot)


def produce(farm: Farm, parameters: str = "--maxEvents=5", **fields: Any) -> int:
    return farm.submit_job(**{**RELEASE, "transformation": "Sim_tf.py", "jobPars": parameters, **fields})


def log_of(farm: Farm, job: int) -> dict[str, bytes]:
    return archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])


def seen(farm: Farm, job: int) -> dict[str, Any]:
    """What the stand-in transform has seen."""
    return dict(json.loads(log_of(farm, job)["transform.json"]))


@pytest.fixture(autouse=True)
def cvmfs_queue(farm: Farm) -> None:
    farm.set_queue(is_cvmfs=True)


# --- production -------------------------------------------------------------------------------------------------------


def test_a_production_job(farm: Farm) -> None:
    farm.set_queue(environ="FOO=1 BAR=b c")
    job = produce(farm, '--outputHITSFile=h.root --preExec "x=1; y" --useTestASetup', outputs=["h.root"], coreCount=8,
                  inputs={"EVNT.1.pool.root.1": b"x"}, realDatasetsIn="mc16:EVNT.1")
    pilot = run(farm)
    final = farm.final(job)
    assert final["state"] == "finished", final
    told = seen(farm, job)
    assert told["name"] == "Sim_tf.py"
    assert told["arguments"] == ["--outputHITSFile=h.root", "--preExec", "x=1; y"]
    environ = told["environ"]
    wanted = {
        "PANDA_RESOURCE": "TEST_QUEUE", "FRONTIER_ID": f"[999_{job}]", "CMSSW_VERSION": f"[999_{job}]",
        "PandaID": str(job), "PANDAID": str(job), "PanDA_TaskID": "999", "PanDA_AttemptNr": "2", "INDS": "mc16:EVNT.1",
        "RUCIO_APPID": "simul", "TZ": "UTC", "FOO": "1", "BAR": "b c", "ATHENA_PROC_NUMBER": "8",
        "ATHENA_CORE_NUMBER": "8", "ATHENA_PROC_NUMBER_JOB": "8", "STANDIN_RELEASE": "AtlasOffline,21.0.15,notest",
    }
    assert {name: environ.get(name) for name in wanted} == wanted
    assert environ["STANDIN_ALRB"].startswith("asetup=testing ")
    stdout = log_of(farm, job)["payload.stdout"].decode()
    assert "--platform x86_64-slc6-gcc62-opt --makeflags=$MAKEFLAGS" in stdout
    assert json.loads(final["metaData"])["exitCode"] == 0
    assert (farm.outputs / "h.root").read_text() == "events\n"
    assert f"export PandaID={job};" in pilot.log


def test_a_transform_that_fails(farm: Farm) -> None:
    job = produce(farm, "--exitCode=65")
    run(farm)
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["transExitCode"]) == 65, final


def test_jobs_of_one_pilot_have_their_own_numbers(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    jobs = [produce(farm, f"--n={cores}", coreCount=cores, inputs={f"EVNT.{cores}": b"x"},
                    realDatasetsIn=f"mc:EVNT.{cores}") for cores in (8, 1, 4)]
    run(farm, "-v", "3", "-x", "1")
    for job, cores in zip(jobs, (8, 1, 4)):
        environ = seen(farm, job)["environ"]
        assert environ.get("ATHENA_PROC_NUMBER") == (str(cores) if cores > 1 else None)
        assert environ["ATHENA_CORE_NUMBER"] == environ["ATHENA_PROC_NUMBER_JOB"] == str(cores)
        assert environ["INDS"] == f"mc:EVNT.{cores}"
        assert environ["PANDAID"] == environ["PandaID"] == str(job)


def test_no_software_on_the_node_is_1186(farm: Farm, tmp_path: Path) -> None:
    job = produce(farm)
    pilot = farm.run_pilot("--pilot-user", "ATLAS", env={"ATLAS_SW_BASE": str(tmp_path / "nothing")})
    ended_well(pilot, pilot.process.returncode)
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1186, final
    assert "there is no ATLAS software on this node" in final["pilotErrorDiag"]


def test_a_release_that_does_not_exist_is_1244(farm: Farm) -> None:
    job = produce(farm, swRelease="Atlas-99.99.99", homepackage="AtlasOffline/99.99.99")
    run(farm)
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) == 1244, final


def test_numbers_of_a_job_reach_the_server(farm: Farm) -> None:
    job = produce(farm, "--outputHITSFile=h.root", outputs=["h.root"])
    run(farm)
    metrics = dict(word.split("=") for word in farm.final(job)["jobMetrics"].split())
    assert metrics["nEvents"] == "5", metrics
    assert farm.final(job)["cpu_architecture_level"].startswith("x86_64-v") or platform.machine() != "x86_64"


def test_what_does_not_belong_into_the_log(farm: Farm, tmp_path: Path) -> None:
    """Defect 22: ``/work``, ``/cores`` and the like mean the job's directory, and nothing is removed anywhere."""
    names = ["athenaMP-workers-EVNT/worker_0/core.12", "athenaMP-workers-EVNT/worker_0/x.pool.root.1",
             "athenaMP-workers-EVNT/worker_0/AthenaMP.log", "workDir/big.root", "workDir/tmp.stdout.1", "work/x",
             "cores/core.1", "venv/bin/x", "lib.a", "data.events", "log.EVNTtoHITS", "notes.txt", "runGen-x", "usr/x"]
    job = farm.submit_job("\n".join(f"mkdir -p $(dirname {name}); echo x > {name}" for name in names)
                          + "\necho '{\"exitCode\": 0}' > jobReport.json", swRelease="NULL")
    run(farm)
    kept = set(log_of(farm, job))
    assert {name for name in names if name in kept} == {
        "athenaMP-workers-EVNT/worker_0/AthenaMP.log", "log.EVNTtoHITS", "notes.txt"}
    assert "jobReport.json" in kept


def test_dbrelease(farm: Farm, tmp_path: Path) -> None:
    tarball = "DBRelease-31.8.1.tar.gz"
    job = farm.submit_job(TRF, inputs={"a.dat": b"input", tarball: b"never transferred"}, swRelease="NULL",
                          jobPars=f"--DBRelease={tarball}", jobReport="")
    (farm.inputs / tarball).unlink()  # a try to transfer it would fail the job
    run(farm, env={"VO_ATLAS_SW_DIR": "/sw"})
    listed = log_of(farm, job)["dbrelease.txt"].decode().split()
    assert listed == ["DBRelease/", "DBRelease/31.8.1/", "DBRelease/31.8.1/setup.py", "DBRelease/current"]


# --- user jobs --------------------------------------------------------------------------------------------------------


class TransformServer:
    """Serves ``/trf/...`` over HTTP or HTTPS: a script, or what a test prepares; ``/trf/silent`` never answers."""

    def __init__(self, certificate: str = "") -> None:
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.closing = threading.Event()
        self.hanging = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                if self.path.endswith("silent"):
                    owner.hanging.set()
                    owner.closing.wait(60)
                    return
                status, body = owner.answers.get(self.path, (200, TRF.encode()))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.httpd.shutdown()
        self.httpd.server_close()


@pytest.fixture
def transforms() -> Iterator[TransformServer]:
    server = TransformServer()
    yield server
    server.close()


def analyse(farm: Farm, url: str, parameters: str = "-r .", **fields: Any) -> int:
    return farm.submit_job(**{**RELEASE, "transformation": url, "jobPars": parameters, **fields})


def test_a_user_job(farm: Farm, transforms: TransformServer) -> None:
    job = analyse(farm, f"{transforms.url}/trf/user/runGen-00-00-02",
                  """-j "" --sourceURL https://x -p "echo%20hi" -o "{'a':'b'}\"""", coreCount=4)
    pilot = run(farm, "-g", f"{transforms.url}/trf",
                env={"PANDA_AUTH_TOKEN": "/t", "X509_USER_PROXY": "/no/proxy", "ATHENA_PROC_NUMBER": ""})
    assert farm.final(job)["state"] == "finished", farm.final(job)
    log = log_of(farm, job)
    assert log["user_arguments.txt"].decode().splitlines() == [
        "./runGen-00-00-02", "-j", "", "--sourceURL", "https://x", "-p", "echo%20hi", "-o", "{'a':'b'}"]
    environ = dict(line.split("=", 1) for line in log["user_environ.txt"].decode().splitlines() if "=" in line)
    assert environ["MAKEFLAGS"] == "-j4 QUICK=1 -l1" and environ["ROOTCORE_NCPUS"] == "1"
    assert environ["ROOT_TTREECACHE_SIZE"] == "1" and environ["X509_USER_PROXY"] == "/no/proxy"
    assert environ["STANDIN_RELEASE"] == "AtlasOffline,21.0.15,notest" and "PANDA_AUTH_TOKEN" not in environ
    assert transforms.asked == ["/trf/user/runGen-00-00-02"]
    assert "export X509_USER_PROXY=/no/proxy;unset PANDA_AUTH_TOKEN;./runGen-00-00-02 -j '' " in pilot.log


def test_runcontainer_starts_the_users_image_itself(farm: Farm, transforms: TransformServer) -> None:
    farm.set_queue(container_type="apptainer:pilot")
    job = analyse(farm, f"{transforms.url}/trf/user/runcontainer",
                  """-p "echo%20hi" -r . --containerImage docker://alpine -i "['a.root']\"""",
                  swRelease="NULL", homepackage="NULL", cmtConfig="NULL")
    run(farm, "-g", transforms.url)
    assert farm.final(job)["state"] == "finished", farm.final(job)
    assert log_of(farm, job)["user_arguments.txt"].decode().splitlines()[1:] == [
        "-p", "echo%20hi", "-r", ".", "-i", "['a.root']", "--containerImage=docker://alpine"]


@pytest.mark.parametrize(
    ("path", "answer", "words"),
    [
        ("/trf/gone", (404, b""), "HTTP 404"),
        ("/trf/page", (200, b"<html>Log in</html>"), "web page in place of the transform"),
        ("/trf/silent", None, "answer within 1 s"),
        ("/other/run", None, "invalid base URL"),
    ],
)
def test_a_transform_that_cannot_be_had_is_1149(
    farm: Farm, transforms: TransformServer, path: str, answer: Any, words: str
) -> None:
    if answer is not None:
        transforms.answers[path] = answer
    job = analyse(farm, transforms.url + path)
    run(farm, "-g", f"{transforms.url}/trf", settings={"pilot.http_maxtime": 1})
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) == 1149, final
    assert words in final["pilotErrorDiag"] and path in final["pilotErrorDiag"], final["pilotErrorDiag"]


def test_a_download_ends_with_its_job(farm: Farm, transforms: TransformServer) -> None:
    """Nobody waits for the time-out of the download (120 s)."""
    job = analyse(farm, f"{transforms.url}/trf/silent")
    pilot = farm.start_pilot("--pilot-user", "ATLAS", "-g", transforms.url, env={"ATLAS_SW_BASE": str(TREE)})
    assert transforms.hanging.wait(60)
    pilot.send("SIGTERM")
    assert pilot.wait() == 143 and "Traceback" not in pilot.output
    assert int(farm.final(job)["pilotErrorCode"]) == 1201


def test_a_server_with_a_foreign_certificate_gives_no_transform(farm: Farm, tmp_path: Path) -> None:
    certificate = tmp_path / "server.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
                    "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")], check=True, capture_output=True)
    certificate.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    server = TransformServer(str(certificate))
    try:
        job = analyse(farm, f"{server.url}/trf/run")
        run(farm, "-g", server.url)
    finally:
        server.close()
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1149 and "TLS failure" in final["pilotErrorDiag"], final
    assert server.asked == []


# --- direct access ----------------------------------------------------------------------------------------------------


class Rooted(Shelf):
    """Storage that has replicas."""

    name = "rooted"

    @property
    def features(self) -> Features:
        return Features(schemes=("root",), needs_replicas=True, traced=False)


class AtlasWithReplicas(Atlas):
    """Knows where the inputs are, so that Rucio is not asked."""

    def complete_job(self, job: Job, environ: Mapping[str, str]) -> None:
        for spec in job.indata:
            spec.replicas = [{"pfn": f"root://se.example:1094//data/{spec.lfn}", "ddmendpoint": "ONE", "domain": "lan"}]


def test_inputs_that_stay_remote(farm: Farm, transforms: TransformServer) -> None:
    farm.set_queue(copytools={"rooted": {}, "mv": {}}, astorages={"read_lan": ["ONE"]}, direct_access_lan=True,
                   acopytools={"default": ["mv"], "read_lan": ["rooted"]}, catchall="remoteio_test=false",
                   timefloor=60)
    files = {"inputs": {"EVNT.1.pool.root": b"x", "EVNT.1.pool.root.1": b"y"}}
    made = produce(farm, "--inputEVNTFile=EVNT.1.pool.root,EVNT.1.pool.root.1", transferType="direct", **files)
    user = analyse(farm, f"{transforms.url}/trf/runGen", """-i "['EVNT.1.pool.root']\"""", **files)
    run(farm, "--pilot-user", "test_atlas_jobs:AtlasWithReplicas", "-g", transforms.url, "-v", "2", "-x", "1",
        "--output-dir", str(farm.outputs), files=False,
        settings={"plugins.copytools": {"rooted": "test_atlas_jobs:Rooted"}, "jobs.compat_requote": True})
    assert farm.final(made)["state"] == "finished", farm.final(made)
    assert seen(farm, made)["arguments"] == [
        "--inputEVNTFile=root://se.example:1094//data/EVNT.1.pool.root,root://se.example:1094//data/EVNT.1.pool.root.1"]
    log = log_of(farm, user)
    guid = farm.server.job(user)["definition"]["GUID"].split(",")[0]
    assert log["user_arguments.txt"].decode().splitlines()[1:] == [
        "-i", "['EVNT.1.pool.root']", "--usePFCTurl", "--directIn", "--inputGUIDs", f"['{guid}']"]
    assert b"root://se.example:1094//data/EVNT.1.pool.root" in log["catalogue.txt"]
