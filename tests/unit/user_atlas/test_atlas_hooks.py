"""The other hooks of ATLAS: DBRelease, what is left out of the log, policies, base URLs."""

from __future__ import annotations

import os
import runpy
import subprocess
import tarfile
from pathlib import Path

import pytest
from atlas_tasks import PRODUCTION, make_command, make_task, spec

from pilot.common.exception import PilotException
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.payload.transform import is_allowed
from pilot.staging.joblog import KEEP
from pilot.user.atlas import Atlas
from pilot.user.atlas.cleanup import PATTERNS
from pilot.user.atlas.dbrelease import make_local_dbrelease, requested_version
from pilot.util.archive import Rules, walk

# --- DBRelease --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "version"),
    [
        ("--DBRelease=DBRelease-31.8.1.tar.gz", "31.8.1"), ("x DBRelease-1.2.3.4.tar.gz,y", "1.2.3.4"),
        ("--DBRelease=all:current", ""), ("DBRelease-1.2.tar.gz", ""), ("DBRelease-1.2.3.4.5.tar.gz", ""), ("", ""),
        ("DBRelease-../x.tar.gz", ""),
    ],
)
def test_the_version_in_the_parameters(parameters: str, version: str) -> None:
    assert requested_version(parameters) == version


def test_the_local_tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_command(tmp_path, PRODUCTION, jobPars="--DBRelease=DBRelease-31.8.1.tar.gz",
                 environ={"VO_ATLAS_SW_DIR": "/sw"})
    path = tmp_path / "DBRelease-31.8.1.tar.gz"
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["DBRelease", "DBRelease/31.8.1", "DBRelease/31.8.1/setup.py", "DBRelease/current"]
        assert tar.getmember("DBRelease/current").linkname == "31.8.1"
    subprocess.run(["tar", "xzf", str(path), "-C", str(tmp_path)], check=True)
    for name in ("DBRELEASE", "DBRELEASE_REQUIRED", "DBRELEASE_REQUESTED", "CORAL_DBLOOKUP_PATH"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "old")
    monkeypatch.setenv("DATAPATH", "/old")
    runpy.run_path(str(tmp_path / "DBRelease/current/setup.py"))
    place = "/sw/database/DBRelease/31.8.1"
    wanted = {"DBRELEASE": "31.8.1", "DBRELEASE_REQUIRED": "31.8.1", "DBRELEASE_REQUESTED": "31.8.1",
              "DATAPATH": f"{place}:/old", "CORAL_DBLOOKUP_PATH": f"{place}/XMLConfig"}
    assert {name: os.environ[name] for name in wanted} == wanted


def test_a_tarball_that_was_staged_in_stays(tmp_path: Path) -> None:
    (tmp_path / "DBRelease-31.8.1.tar.gz").write_text("real")
    make_local_dbrelease(make_task(tmp_path, PRODUCTION, jobPars="DBRelease-31.8.1.tar.gz"))
    assert (tmp_path / "DBRelease-31.8.1.tar.gz").read_text() == "real"


def test_a_tarball_that_cannot_be_written_is_1339(tmp_path: Path) -> None:
    task = make_task(tmp_path / "gone", PRODUCTION, jobPars="DBRelease-31.8.1.tar.gz")
    with pytest.raises(PilotException) as caught:
        make_local_dbrelease(task)
    assert caught.value.code == 1339 and "DBRelease-31.8.1.tar.gz cannot be written" in caught.value.detail


def test_inputs_that_are_not_transferred(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Atlas().transfers_input("DBRelease-31.8.1.tar.gz") and Atlas().transfers_input("EVNT.root")
    monkeypatch.setenv("ATLAS_DBREL_DWNLD", "1")
    assert Atlas().transfers_input("DBRelease-31.8.1.tar.gz")


# --- the log archive --------------------------------------------------------------------------------------------------


def archived(root: Path, job: Job, *names: str) -> set[str]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    atlas = Atlas()
    rules = Rules(redundant=(*atlas.redundant_files, *atlas.redundant_patterns(job)),
                  keep=KEEP, core_files=job.debug)
    notes: list[str] = []
    return {member.name for member in walk(root, rules, notes.append)}


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if pattern != "*job.log.tgz"])  # log. is kept
def test_each_pattern_leaves_something_out(tmp_path: Path, pattern: str) -> None:
    name = pattern.lstrip("/").replace("*", "x")
    assert archived(tmp_path, Job("1"), name, "payload.stdout") == {"payload.stdout"}


def test_patterns_with_a_slash_mean_the_jobs_directory(tmp_path: Path) -> None:
    """Defect 22: the reference addresses ``/cores`` and ``/work`` of the node."""
    assert {"/cores", "/work", "/pilot3", "/venv", "/panda_pilot*"} <= set(PATTERNS)
    names = ("cores/core.1", "work/a", "pilot3/b", "venv/c", "panda_pilot_x/d", "mywork/e")
    assert archived(tmp_path, Job("1"), *names) == {"mywork/e"}
    assert all((tmp_path / name).exists() for name in names)  # nothing is removed


def test_what_explains_a_job_stays(tmp_path: Path) -> None:
    names = ("runargs.EVNTtoHITS.py", "runwrapper.EVNTtoHITS.sh", "jobReport.json", "log.EVNTtoHITS", "xrdlog.txt",
             "payload.stdout", "payload.stderr", "memory_monitor_output.txt", "container_script.sh",
             "pandatracerlog.txt")
    assert archived(tmp_path, Job("1"), *names) == set(names)


def test_workers_of_athena_mp(tmp_path: Path) -> None:
    names = ("athenaMP-workers-A/w0/core.77", "athenaMP-workers-A/w0/x.pool.root.1", "athenaMP-workers-A/w0/tmp.1",
             "athenaMP-workers-A/w0/out[1].dat", "athenaMP-workers-A/w0/AthenaMP.log")
    job = Job("1", outdata=[spec("out[1].dat", filetype="output")])
    assert archived(tmp_path, job, *names) == {"athenaMP-workers-A/w0/AthenaMP.log"}
    job.debug = True
    assert archived(tmp_path, job) == {"athenaMP-workers-A/w0/AthenaMP.log", "athenaMP-workers-A/w0/core.77"}


@pytest.mark.parametrize(("code", "kept"), [(1150, True), (1235, True), (1305, False), (0, False)])
def test_the_directory_of_a_looping_transform_stays(tmp_path: Path, code: int, kept: bool) -> None:
    job = Job("1")
    if code:
        job.errors.add(code, "x")
    found = archived(tmp_path, job, "workDir/tmp.stdout.1", "workDir/notes", "workDir/big.root", "lib/x.a",
                     "EventService_premerge_1.tar")
    assert found == ({"workDir/notes"} if kept else set())


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://pandaserver.cern.ch:25080/trf/user/runGen-00-00-02", True),
        ("https://pandaserver.cern.ch:25443/trf/user/runcontainer", True),
        ("http://www.usatlas.bnl.gov/x/trf", True), ("https://pandaserver-tb.cern.ch/trf/x", True),
        ("http://atlpan.web.cern.ch/atlpan/trf", True), ("http://atlpan.web.cern.ch/other/trf", False),
        ("http://classis01.roma1.infn.it/x", True), ("https://atlas-install.roma1.infn.it/x", True),
        ("http://pandaserver.cern.ch.evil.org/x", False), ("http://evil.org/pandaserver.cern.ch/x", False),
        ("ftp://pandaserver.cern.ch/x", False),
    ],
)
def test_base_urls(url: str, allowed: bool) -> None:
    assert is_allowed(url, Atlas.transform_base_urls) is allowed


def test_policies() -> None:
    atlas, queue = Atlas(), QueueData("Q")
    assert atlas.sends_worker_node_map and atlas.sends_architecture_level and atlas.allow_timefloor("push")
    assert atlas.pilot_id("https://log", "1") == "https://log" and atlas.pilot_id("", "1") == "unknown"
    assert atlas.sanity_check() == (0, "")
    assert atlas.verifies_setup(Job("1", swrelease="Atlas-21.0.15"), queue)
    assert not atlas.verifies_setup(Job("1", swrelease="NULL"), queue)
    production = atlas.report_policy(Job("1", transformation="Sim_tf.py"))
    assert production.required and production.demands_outputs and production.judges and production.lists_outputs
    user = atlas.report_policy(Job("1", transformation="http://x/runGen"))
    assert not user.required and not user.demands_outputs and user.judges
    assert not atlas.report_policy(Job("1", transformation="Archive_tf.py")).required


def test_whose_parameters_get_urls() -> None:
    remote = spec("a.root", status="remote_io", turl="root://se//a.root")
    assert Atlas().remote_inputs(Job("1", transformation="Reco_tf.py", indata=[remote])) == {
        "a.root": "root://se//a.root"}
    assert Atlas().remote_inputs(Job("1", transformation="http://x/runGen", indata=[remote])) == {}
