"""Transfers in a process or a container of their own, with real storages (container_type ``...:middleware``).

The container run-time is a stand-in over bubblewrap, ALRB's set-up a stand-in that notes what it was given; both are in
``testbed/programs/containers``. /tmp, where everything of a test lies, is empty inside: only what is bound is there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping

import pytest

from tests.grid.conftest import required
from tests.grid.gate import gate as relay
from tests.grid.test_jobs import SCOPE, Site, site  # noqa: F401 - fixtures
from tests.grid.test_store_jobs import SECRET, Shop, shop  # noqa: F401 - fixtures
from tests.grid.testbed.s3 import ACCESS_KEY
from tests.grid.testbed.service import MissingService
from tests.integration.harness import PATIENCE, Farm, Pilot

STAND_INS = Path(__file__).parent / "testbed" / "programs" / "containers"
HOST = {"container.middleware_container": "/"}


@pytest.fixture
def containers() -> Path:
    """Directory of the stand-ins, for PATH."""

    def get() -> Path:
        if not shutil.which("bwrap"):
            raise MissingService("bubblewrap is not there: 'make system-packages' installs it")
        return STAND_INS

    return required(get)


def env_with(site: Site, directory: Path, containers: Path, **more: str) -> Dict[str, str]:  # noqa: F811
    # the Python of the image is that of the tests: it has the Rucio client, the machine's own need not have it
    return {**site.env, "PATH": f"{containers}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "APPTAINER_STANDIN_SHOWN": sys.prefix,
            "APPTAINER_STANDIN_LOG": str(directory / "apptainer.txt"), **more}


def run(site: Site, env: Mapping[str, str], *options: str, **settings: Any) -> Pilot:  # noqa: F811
    pilot: Pilot = site.farm.run_pilot("--storagedata-url", str(site.storages), *options, files=False, env=dict(env),
                                       settings=settings)
    assert pilot.process.returncode == 0, pilot.output[-3000:]
    return pilot


def check(site: Site, job: int, output: str, content: bytes, pilot: Pilot, tool: str) -> Dict[str, bytes]:  # noqa: F811
    """The output is stored and reported, each transfer is in the PilotDB; returns the members of the log archive."""
    final = site.farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    entry = json.loads(final["xml"])[output]
    assert (entry["fsize"], entry["adler32"]) == (len(content), f"{zlib.adler32(content):08x}")
    assert entry["endpoint"] == "TB_XROOTD" and entry["surl"].startswith("root://")
    store = pilot.store()
    rows = store.transfers(str(job))
    store.close()
    assert [(row["tool"], row["code"]) for row in rows] == [(tool, 0)] * 3
    row = {"scope": SCOPE, "name": output, "bytes": entry["fsize"], "adler32": entry["adler32"]}
    site.rucio.call("add_replicas", "TB_XROOTD", [row])
    copy = site.farm.directory / "copy"
    site.rucio.call("download_dids", [{"did": f"{SCOPE}:{output}", "base_dir": str(copy)}])
    assert (copy / SCOPE / output).read_bytes() == content
    logfile = site.farm.server.job(job)["definition"]["logFile"]
    site.rucio.call("add_replicas", "TB_XROOTD", [
        {"scope": SCOPE, "name": logfile, "bytes": json.loads(final["xml"])[logfile]["fsize"],
         "adler32": json.loads(final["xml"])[logfile]["adler32"]}])
    site.rucio.call("download_dids", [{"did": f"{SCOPE}:{logfile}", "base_dir": str(copy)}])
    with tarfile.open(copy / SCOPE / logfile) as tar:
        members = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: stream.read() for name, stream in members.items() if stream is not None}


def submit(site: Site) -> Any:  # noqa: F811
    name, content = site.dataset("TB_XROOTD")
    output = f"out.{uuid.uuid4().hex[:12]}.root"
    job = site.submit(f"cp {name} {output}; echo more >> {output}", name, content, output)
    return job, output, content + b"more\n", name


@pytest.mark.parametrize("tool", ["xrdcp", "rucio"])
def test_a_script_without_container_moves_everything(site: Site, tool: str) -> None:  # noqa: F811
    site.queue(tool, container_type="bash:middleware")
    job, output, content, name = submit(site)
    pilot = run(site, site.env)
    log = check(site, job, output, content, pilot, tool)
    status = json.loads(log["stagein_status.json"])[name]
    assert status[:2] == ["transferred", 0] and status[2].startswith("root://") and status[3] == "TB_XROOTD"


@pytest.mark.parametrize("options", ["", "-C -i"])
@pytest.mark.parametrize("tool", ["xrdcp", "rucio"])
def test_a_container_moves_everything(
        site: Site, containers: Path, tmp_path: Path, tool: str, options: str) -> None:  # noqa: F811
    site.queue(tool, container_type="container:middleware", container_options=options)
    job, output, content, name = submit(site)
    pilot = run(site, env_with(site, tmp_path, containers), **HOST)
    log = check(site, job, output, content, pilot, tool)
    assert b"directory /srv" in log["stageinlog.txt"]
    assert log["stagein.sh"].decode().startswith("python3 ./stagein.py -d -w /srv -q TEST_QUEUE --jobid=")
    given = (tmp_path / "apptainer.txt").read_text().split("\n")
    workdir = f"{pilot.directory}/PanDA_Pilot-{job}"
    assert [line for line in given if line.endswith(":/srv")] == [f"{workdir}:/srv"] * 3, "inputs, outputs, log"
    assert "srv" not in log["stagein_status.json"].decode()


def alrb(site: Site, directory: Path, containers: Path, **more: str) -> Dict[str, str]:  # noqa: F811
    """An environment with ALRB in it, and the proxy that ALRB brings along."""
    user = directory / "cvmfs" / "atlas.cern.ch" / "repo" / "ATLASLocalRootBase" / "user"
    user.mkdir(parents=True)
    shutil.copy(containers / "atlasLocalSetup.sh", user)
    proxy = directory / "proxy.pem"
    proxy.write_text("not a real one")
    return env_with(site, directory, containers, ATLAS_SW_BASE=str(directory / "cvmfs"), X509_USER_PROXY=str(proxy),
                    ALRB_STANDIN_LOG=str(directory / "alrb.txt"), **more)


ALRB = {"plugins.experiments": {"alrb": "tests.grid.alrb:AlrbExperiment"}}


def notes(directory: Path) -> List[str]:
    return (directory / "alrb.txt").read_text().split("\n")


def test_a_container_of_alrb_moves_everything(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    config = site.rucio.env["RUCIO_HOME"]
    site.queue("rucio", container_type="container:middleware", container_options=f"-B {config}")
    job, output, content, _ = submit(site)
    pilot = run(site, alrb(site, tmp_path, containers), "--pilot-user", "alrb", **ALRB)
    log = check(site, job, output, content, pilot, "rucio")
    workdir = f"{pilot.directory}/PanDA_Pilot-{job}"
    base = f"base={tmp_path}/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase"
    assert notes(tmp_path)[:5] == [
        f"image=el9 options=-B {config} quiet=", "payload=source /srv/stagein.sh", "unpacked= local_py3=", base,
        f"directory={workdir}"]
    assert notes(tmp_path)[6] == "payload=source /srv/stageout.sh"
    assert log["lsetup.txt"].splitlines() == [b"lsetup=rucio davix xrootd"] * 2, "for the inputs and the outputs"
    assert b"/srv" in log["stageinlog.txt"]


def test_a_script_with_the_set_up_of_alrb_moves_everything(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    site.queue("xrdcp", container_type="bash:middleware")
    job, output, content, _ = submit(site)
    pilot = run(site, alrb(site, tmp_path, containers), "--pilot-user", "alrb", **ALRB)
    check(site, job, output, content, pilot, "xrdcp")
    assert notes(tmp_path)[:3] == ["image= options= quiet=1", "payload=", "unpacked= local_py3=YES"]


def test_a_failure_in_the_container_reaches_the_server_with_its_text(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    site.queue("xrdcp", container_type="container:middleware")
    name, content = site.dataset("TB_XROOTD")
    site.stored(name).unlink()
    job = site.submit("echo it ran", name, content)
    run(site, env_with(site, tmp_path, containers), **HOST)
    final = site.farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) in (1103, 1331)
    assert name in final["pilotErrorDiag"] and "/srv" not in final["pilotErrorDiag"]


def test_an_image_without_what_is_needed_is_told_in_its_own_words(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty" / "bin").mkdir(parents=True)
    site.queue("xrdcp", container_type="container:middleware")
    name, content = site.dataset("TB_XROOTD")
    job = site.submit("echo it ran", name, content)
    pilot = run(site, env_with(site, tmp_path, containers),
                **{"container.middleware_container": str(tmp_path / "empty")})
    assert int(site.farm.final(job)["pilotErrorCode"]) == 1099
    assert "bwrap: execvp /bin/bash: No such file or directory" in pilot.log


def test_no_runtime_and_no_image_are_configuration_errors(farm: Farm) -> None:  # noqa: F811
    farm.set_queue(container_type="container:middleware")
    job = farm.submit_job("echo it ran", inputs={"a.txt": b"one"})
    farm.run_pilot(env={"PATH": str(farm.scripts)})
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == 1342
    assert "there is no apptainer or singularity on this node" in final["pilotErrorDiag"]


def test_the_log_of_a_container_queue_is_not_left_twice(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    site.queue("xrdcp", container_type="container:middleware")
    name, content = site.dataset("TB_XROOTD")
    job = site.submit("true", name, content)
    pilot = run(site, env_with(site, tmp_path, containers), **HOST)
    assert site.farm.final(job)["state"] == "finished"
    logfile = site.farm.server.job(job)["definition"]["logFile"]
    assert list(pilot.directory.glob(f"**/{logfile}")) in ([], [pilot.directory / logfile])


@pytest.mark.parametrize("mode", ["container", "bash"])
def test_an_abort_in_mid_transfer_leaves_no_process(
        site: Site, containers: Path, tmp_path: Path, mode: str) -> None:  # noqa: F811
    """The output stands still half-way; at the deadline after SIGTERM the script and its helpers are ended."""
    name, content = site.dataset("TB_XROOTD")
    server = ("127.0.0.1", site.rucio.storage.port)
    with relay(server, after=1 << 20, way="up") as gate:
        documents = json.loads(site.storages.read_text().replace(f":{server[1]}/", f":{gate.port}/"))
        site.storages.write_text(json.dumps(documents))
        site.queue("xrdcp", container_type=f"{mode}:middleware")
        output = f"out.{uuid.uuid4().hex[:12]}.root"
        job = site.submit(f"head -c 8000000 /dev/zero > {output}", name, content, output)
        pilot = site.farm.start_pilot(
            "--storagedata-url", str(site.storages), files=False, env=env_with(site, tmp_path, containers),
            settings={**HOST, "shutdown.deadline": 6})
        assert gate.reached.wait(PATIENCE)
        pilot.send("SIGTERM")
        assert pilot.wait() == 143
        assert site.farm.processes() == []
    final = site.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1201)


def test_keys_of_the_server_reach_the_script_and_stay_nowhere(shop: Shop) -> None:  # noqa: F811
    settings = {"access_key": "pub-name", "secret_key": "priv-name", "is_secure": "False"}
    shop.open("s3", type="OS_ES", is_deterministic=False, rprotocols={"7": {"settings": settings}})
    shop.farm.set_queue(container_type="bash:middleware")
    shop.farm.server.creds.flags["Robot Pilot"] = "k"
    shop.farm.server.creds.key_pairs["pub-name", "priv-name"] = (ACCESS_KEY, SECRET)
    look = "grep -rl a-secret-key . && exit 9; cp in.root out.root"
    final, output = shop.run(look, {"AWS_EC2_METADATA_DISABLED": "true"}, own_path=True,
                             realDatasets="out.#{pandaid},log.ds")
    assert final["state"] == "finished", (final["pilotErrorDiag"], output[-3000:])
    assert SECRET not in output and not any(SECRET.encode() in data for data in shop.objects().values())
    (pilot,) = shop.farm.pilots
    assert "stage-in of 1 files by stagein.py" in pilot.log


@pytest.mark.parametrize("mode", ["container", "bash"])
def test_inputs_that_stay_remote_are_in_the_payloads_catalogue(
        site: Site, containers: Path, tmp_path: Path, mode: str) -> None:  # noqa: F811
    name, content = site.dataset("TB_XROOTD")
    site.queue("xrdcp", direct_access_lan=True, container_type=f"{mode}:middleware")
    catalog = site.farm.directory / "catalog.xml"
    job = site.submit(f"cp PoolFileCatalog.xml {catalog}; test ! -e {name}", name, content, transferType="direct")
    pilot = run(site, env_with(site, tmp_path, containers), **HOST)
    assert site.farm.final(job)["state"] == "finished", site.farm.final(job)["pilotErrorDiag"]
    assert f'name="root://127.0.0.1:{site.rucio.storage.port}//rucio/' in catalog.read_text()
    store = pilot.store()
    rows = [(row["tool"], row["status"]) for row in store.transfers(str(job)) if row["lfn"] == name]
    store.close()
    assert rows == [("direct", "FOUND_ROOT")]


def test_a_broken_replica_is_replaced_in_the_container_and_both_attempts_are_told(
        site: Site, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    name, content = site.dataset("TB_XROOTD", "TB_GFAL")
    site.stored(name).write_bytes(content[:-1] + b"x")
    site.queue("xrdcp", astorages={"read_lan": ["TB_XROOTD", "TB_GFAL"], "write_lan": ["TB_XROOTD"]},
               container_type="container:middleware")
    job = site.submit("true", name, content)
    pilot = run(site, env_with(site, tmp_path, containers), **HOST)
    assert site.farm.final(job)["state"] == "finished"
    store = pilot.store()
    rows = [(row["code"], row["status"]) for row in store.transfers(str(job)) if row["lfn"] == name]
    store.close()
    assert rows == [(1171, "AD_MISMATCH"), (0, "DONE")]


def test_local_files_are_moved_out_of_a_container_that_sees_their_directories(
        farm: Farm, containers: Path, tmp_path: Path) -> None:  # noqa: F811
    farm.set_queue(container_type="container:middleware")
    job = farm.submit_job("cat a.txt > out.txt", inputs={"a.txt": b"one"}, outputs=["out.txt"])
    env = {"PATH": f"{containers}:{os.environ['PATH']}"}
    pilot = farm.run_pilot(env=env, settings=HOST)
    assert farm.final(job)["state"] == "finished", farm.final(job)["pilotErrorDiag"] + pilot.output[-3000:]
    assert (farm.outputs / "out.txt").read_bytes() == b"one"
    assert json.loads(farm.final(job)["xml"])["out.txt"]["surl"] == f"file://localhost{farm.outputs}/out.txt"
    assert (farm.outputs / farm.server.job(job)["definition"]["logFile"]).exists()
