"""What a pilot says of its node when it starts: nothing when all is well, one line with the cure when not."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator

import pytest
from datedserver import DatedServer
from deadmount import SilentMount
from harness import QUEUE, Farm

from pilot.control.condor import quoted
from pilot.monitoring.batch import condor_short_id
from pilot.monitoring.node import NodeDescription
from pilot.panda.credentials import Credentials
from pilot.panda.transport import Transport
from pilot.settings import default_settings
from pilot.workflow.background import describe_node


def test_a_good_node_gets_no_word(farm: Farm) -> None:
    farm.submit_job()
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0 and "node: " not in pilot.log and "this node's clock" not in pilot.log


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit here")
def test_limits_that_have_cost_jobs_are_told(farm: Farm) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot(prefix=["prlimit", "--nofile=500", "--fsize=900000000"], env={"TMPDIR": "/nonexistent"})
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    for words in ("node: only 500 open files are allowed (ulimit -n), payloads may need 1024",
                  "node: the size of files is limited to 858 MB (ulimit -f)", "node: /nonexistent is not writable"):
        assert words in pilot.log


def test_a_token_that_has_ended_is_told_before_the_server_refuses_it(farm: Farm, tmp_path: Path) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() - 3600}).encode()).decode().rstrip("=")
    (tmp_path / "token").write_text(f"e30.{claims}.not-to-be-seen")
    farm.submit_job()
    pilot = farm.run_pilot(env={"PANDA_AUTH_TOKEN": str(tmp_path / "token"), "PANDA_AUTH_ORIGIN": "vo.pilot",
                                "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert "node: the token for the PanDA server has ended 60 min ago" in pilot.log
    assert "node: names of files are ascii here" in pilot.log
    assert "not-to-be-seen" not in pilot.log + pilot.output


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "crowded"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100M,nr_inodes=90", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount file systems here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_node_without_inodes_takes_no_job(farm: Farm, crowded: Path) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot("-a", str(crowded))
    assert pilot.process.returncode == 69, pilot.output
    assert farm.state(job) == "activated"
    assert "files can still be made in" in pilot.output and "another directory with -a" in pilot.output


# --- the clock --------------------------------------------------------------------------------------------------------


def transport(server: DatedServer) -> Transport:
    return Transport(f"http://127.0.0.1:{server.port}", credentials=Credentials(environ={}), user_agent="x",
                     clock_limit=60)


@pytest.mark.parametrize(("offset", "words"), [
    (0.0, ""), (30.0, ""), (-30.0, ""), (3600.0, "s behind the PanDA server's"), (-3600.0, "s ahead of the PanDA"),
    (None, ""),
])
def test_the_clock_is_compared_once(offset: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    server = DatedServer()
    server.offset = offset
    try:
        client = transport(server)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert client.get("/x").status == 200
        client.close()
    finally:
        server.close()
    said = [record.message for record in caplog.records if "clock" in record.message]
    assert len(said) == bool(words) and all(words in text for text in said)
    assert (client.clock_offset is None) == (offset is None)
    if offset is not None:
        assert client.clock_offset is not None and abs(client.clock_offset + offset) < 30


# --- HTCondor ---------------------------------------------------------------------------------------------------------

AD = 'ClusterId = 5\nGlobalJobId = "schedd.a-very-long-name.example.org#4711.0#1700000000"\n'


def condor(farm: Farm, tmp_path: Path, script: str) -> Dict[str, str]:
    """The environment of a slot, with a condor_chirp that is the shell text."""
    (tmp_path / "job.ad").write_text(AD)
    tools = tmp_path / "libexec"
    tools.mkdir()
    (tools / "condor_chirp").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "condor_chirp").chmod(0o755)
    return {"_CONDOR_JOB_AD": str(tmp_path / "job.ad"), "_CONDOR_LIBEXEC": str(tools), "_CONDOR_SLOT": "slot1_3",
            "GTAG": 'https://logs.example.org/a?b="c";touch $(id)'}


def test_htcondor_is_told_of_the_job(farm: Farm, tmp_path: Path) -> None:
    told, gate = tmp_path / "told", farm.gate("told")
    environ = condor(farm, tmp_path, f'printf "%s\\n" "$@" >> {told}\n[ $2 = PandaPilotId ] && {gate.say()}')
    shown = tmp_path / "shown"
    wait = farm.gate("payload")
    job = farm.submit_job(f'echo "$HTCondor_Job_ID" > {shown}\n{wait.shell()}')
    pilot = farm.start_pilot(env=environ)
    wait.reached()
    gate.reached()
    wait.open()
    assert pilot.wait() == 0, pilot.output
    words = told.read_text().splitlines()
    assert words[:3] == ["set_job_attr", "PandaID", f'"{job}"'] and words[3:5] == ["set_job_attr", "PandaPilotId"]
    assert words[5].endswith('-PR-https://logs.example.org/a?b=\\"c\\";touch $(id)"')
    assert shown.read_text().strip() == "me.example.org_4711.0_1700000000"[-31:]
    final = farm.final(job)
    assert final["batchID"] == "schedd.a-very-long-name.example.org#4711.0#1700000000"
    assert "|Condor|PR|" in final["pilotID"] and final["node"].startswith("slot1_3@")


@pytest.mark.parametrize("script", ["exit 3", "kill -9 $$", "exec sleep 1000"])
def test_a_chirp_that_fails_or_hangs_disturbs_nothing(farm: Farm, tmp_path: Path, script: str) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot(env=condor(farm, tmp_path, script))
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    assert not [line for line in farm.processes() if "sleep 1000" in line]


def test_no_chirp_is_silent(farm: Farm, tmp_path: Path) -> None:
    environ = condor(farm, tmp_path, "true")
    shutil.rmtree(environ["_CONDOR_LIBEXEC"])
    farm.submit_job()
    pilot = farm.run_pilot(env=environ)
    assert pilot.process.returncode == 0
    assert not [line for line in pilot.log.splitlines() if "condor_chirp" in line and "DEBUG" not in line]


def test_forms_of_condor_ids(tmp_path: Path) -> None:
    (tmp_path / "ad").write_text('GlobalJobId = "s.org#1.0#17"\n')
    assert condor_short_id({"_CONDOR_JOB_AD": str(tmp_path / "ad")}) == "s.org_1.0_17"
    (tmp_path / "ad").write_text(AD)
    assert condor_short_id({"_CONDOR_JOB_AD": str(tmp_path / "ad")}) == "me.example.org_4711.0_1700000000"[-31:]
    assert condor_short_id({}) == ""
    assert quoted('a"b\\c\nd') == '"a\\"b\\\\c d"'


# --- the description --------------------------------------------------------------------------------------------------


class Described(SimpleNamespace):
    """What describe_node needs of a context."""


def test_each_kind_of_gpu_is_sent_and_the_files_are_written(farm: Farm, tmp_path: Path) -> None:
    from pilot.panda.server import PandaServer

    root = tmp_path / "root"
    for card, model in (("a", "NVIDIA A100-SXM4-80GB"), ("b", "NVIDIA A100-SXM4-80GB"), ("c", "Tesla T4")):
        place = root / "proc/driver/nvidia/gpus" / card
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t {model}\n")
    settings = default_settings()
    server = PandaServer(farm.server.url, settings, credentials=Credentials(environ={}), user_agent="x")
    environ = {**os.environ, "LD_LIBRARY_PATH": "/nonexistent"}
    ctx: Any = Described(node=NodeDescription(environ, root), queue=SimpleNamespace(site="SITE"),
                         options=SimpleNamespace(queue=QUEUE), settings=settings, home=tmp_path, server=server)
    describe_node(ctx)
    sent = [request for request in farm.server.requests if "worker_node" in request.operation]
    assert [request.operation for request in sent] == [
        "update_worker_node", "update_worker_node_gpu", "update_worker_node_gpu"]
    assert json.loads((tmp_path / "workernode_map.json").read_text())["panda_queue"] == QUEUE
    gpu = json.loads((tmp_path / "gpu_map.json").read_text())
    assert (gpu["model"], gpu["count"], gpu["architecture"]) == ("NVIDIA A100-SXM4-80GB", 2, "Ampere")


@pytest.mark.parametrize("signal", ["", "SIGTERM"])
def test_certificates_on_a_mount_that_hangs_end_the_pilot(farm: Farm, tmp_path: Path, signal: str) -> None:
    place = tmp_path / "silent"
    place.mkdir()
    job = farm.submit_job()
    try:
        mount = SilentMount(place)
    except PermissionError as exc:
        pytest.skip(f"no right to mount here: {exc}")
    try:
        pilot = farm.start_pilot(env={"X509_CERT_DIR": str(place / "certificates")},
                                 settings={"limits.node_check_time": 600 if signal else 1})
        if signal:
            pilot.wait_output("PanDA server: ")  # what comes next hangs
            pilot.send(signal)
        code = pilot.wait()
    finally:
        mount.close()
    assert code == (143 if signal else 79)
    assert signal or "the CA certificates cannot be looked at, no answer within 1 s" in pilot.output
    assert farm.state(job) == "activated"
