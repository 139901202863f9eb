"""ATLAS jobs in containers, whole pilot: the real command lines, run through a stand-in of CVMFS (tests/standins)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Dict

import pytest
from harness import ROOT, Farm, Pilot
from looks import archive, ended_well

TREE = ROOT / "tests" / "standins" / "cvmfs"
CONTAINERS = {"is_cvmfs": True, "container_type": "apptainer:pilot;docker:wrapper",
              "container_options": "-B /data,${workdir} --contain"}
RELEASE = {"swRelease": "Atlas-21.0.15", "homepackage": "AtlasOffline/21.0.15", "cmtConfig": "x86_64-el9-gcc13-opt"}


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A farm whose server has transforms for users below /trf/user."""
    directory = tmp_path / "trf"
    (directory / "user").mkdir(parents=True)
    running = Farm(tmp_path, trf_dir=directory)
    try:
        yield running
    finally:
        left = running.close()
    assert not left, f"payload processes were left behind: {left}"


def atlas(farm: Farm, *options: str, tree: Path = TREE, env: Any = None, **settings: Any) -> Pilot:
    """Start a pilot of ATLAS."""
    return farm.start_pilot(
        "--pilot-user", "ATLAS", "--baseurls", f"http://127.0.0.1:{farm.server.port}/trf/user", *options,
        env={"ATLAS_SW_BASE": str(tree), **(env or {})}, settings=settings)


def production(farm: Farm, **fields: Any) -> int:
    return farm.submit_job(outputs=["out.root"], **{
        "transformation": "Sim_tf.py", "jobPars": '--outputHITSFile=out.root --preExec "x=1"', "taskID": 99, **RELEASE,
        **fields})


def user(farm: Farm, script: str, name: str = "runGen-00-00-02", **fields: Any) -> int:
    (farm.directory / "trf" / "user" / name).write_text(f"#!/bin/bash\n{script}\n")
    return farm.submit_job(transformation=f"http://127.0.0.1:{farm.server.port}/trf/user/{name}", **fields)


def log_of(farm: Farm, job: int) -> Dict[str, str]:
    name = farm.server.job(job)["definition"]["logFile"]
    return {name: data.decode() for name, data in archive(farm.outputs / name).items()}


def notes(log: Dict[str, str]) -> Dict[str, str]:
    """What the stand-in of ALRB was asked for."""
    return dict(line.partition("=")[::2] for line in log["standin_container.txt"].splitlines())


def finished(farm: Farm, job: int, pilot: Pilot) -> Dict[str, str]:
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"] + pilot.output[-3000:]
    return log_of(farm, job)


def failed(farm: Farm, job: int, pilot: Pilot, code: int, *words: str) -> str:
    pilot.wait()
    ended_well(pilot)
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    for word in words:
        assert word in final["pilotErrorDiag"]
    return str(final["pilotErrorDiag"])


def test_production(farm: Farm) -> None:
    farm.set_queue(**CONTAINERS)
    job = production(farm)
    pilot = atlas(farm)
    log = finished(farm, job, pilot)
    workdir = f"{pilot.directory}/PanDA_Pilot-{job}"
    assert notes(log) == {
        "image": "x86_64-el9-gcc13-opt", "setup": "/srv/my_release_setup.sh", "run": "/srv/container_script.sh",
        "options": f"-B /data,{workdir} --contain", "d": "", "payload": ""}
    transform = json.loads(log["transform.json"])
    assert transform["arguments"] == ["--outputHITSFile=out.root", "--preExec", "x=1"]
    assert transform["environ"]["STANDIN_RELEASE"] == "AtlasOffline,21.0.15,notest"
    assert transform["environ"]["TMPDIR"] == transform["environ"]["GFORTRAN_TMPDIR"] == "/srv"
    assert transform["environ"]["PandaID"] == str(job) and transform["environ"]["FRONTIER_ID"] == f"[99_{job}]"
    assert log["container_script.sh"].startswith("export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;export ")
    assert log["container_script.sh"].endswith("; Sim_tf.py --outputHITSFile=out.root --preExec x=1; ")
    assert log["my_release_setup.sh"].splitlines()[1] == (
        "source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-el9-gcc13-opt "
        "--makeflags='$MAKEFLAGS'")
    assert log["setup.stdout"].splitlines()[-1] == "Done.", "the set-up was tried first, in a container, too"
    assert "set-up was over" in pilot.log, "the payload says when"


def test_production_without_cvmfs_in_the_container(farm: Farm) -> None:
    farm.set_queue(**{**CONTAINERS, "is_cvmfs": False})
    (farm.directory / "bin").mkdir()
    job = production(farm, jobPars="--outputHITSFile=out.root", container_name="docker://atlas/athena:21.0.15")
    log = finished(farm, job, atlas(farm, env={"PATH": f"{TREE}/atlas.cern.ch/repo/sw/bin:{os.environ['PATH']}"}))
    assert notes(log)["image"] == "docker://atlas/athena:21.0.15" and notes(log)["d"] == "yes"
    assert "asetup" not in log["my_release_setup.sh"] + log["container_script.sh"]
    assert "ATLAS standalone container" in log["payload.stdout"]


@pytest.mark.parametrize("options, given", [("", "-c -i"), ("none", "-c -i")])
def test_options_by_default(farm: Farm, options: str, given: str) -> None:
    farm.set_queue(**{**CONTAINERS, "container_options": options})
    job = production(farm)
    assert notes(finished(farm, job, atlas(farm)))["options"] == given


def test_user_analysis(farm: Farm, tmp_path: Path) -> None:
    proxy = tmp_path / "x509up_u1"
    proxy.write_text("a proxy")
    farm.set_queue(**CONTAINERS)
    job = user(farm, "echo \"proxy=$(cat $X509_USER_PROXY) release=$STANDIN_RELEASE flags=$MAKEFLAGS $*\"",
               jobPars='-j "" -p "echo%20hi"', **{**RELEASE, "homepackage": "AnalysisTransforms-Athena_21.0.15"})
    log = finished(farm, job, atlas(farm, env={"X509_USER_PROXY": str(proxy), "PANDA_AUTH_TOKEN": "a-token-of-ours"}))
    assert "proxy=a proxy release=Athena,21.0.15,notest flags=-j1 QUICK=1 -l1 -j  -p echo%20hi" in log["payload.stdout"]
    assert "X509" not in log["container_script.sh"] and "a-token-of-ours" not in "".join(log.values())
    assert f"export X509_USER_PROXY={proxy};if [ -z" in log["pilotlog.txt"]


def test_a_user_image_without_release(farm: Farm) -> None:
    farm.set_queue(**CONTAINERS)
    job = user(farm, "echo image=$STANDIN_CONTAINER $*", container_name="docker://alpine", jobPars="-p x")
    log = finished(farm, job, atlas(farm))
    assert "image=docker://alpine -p x" in log["payload.stdout"] and notes(log)["image"] == "docker://alpine"
    assert "setup.stdout" not in log, "nothing to try"


def test_runcontainer_starts_its_own(farm: Farm) -> None:
    """It finds queuedata.json in PILOT_HOME; parameters and cores reach it; the pilot has no container around it."""
    farm.set_queue(**CONTAINERS)
    script = (
        'python3 -c \'import json, os; queue = json.load(open(os.environ["PILOT_HOME"] + "/queuedata.json"));\n'
        'print("type:", queue["container_type"], "options:", queue["container_options"])\'\n'
        'echo "cores=$ATHENA_CORE_NUMBER args=$*"')
    job = user(farm, script, "runcontainer", coreCount=4,
               jobPars='-p "echo%20hi" -r . --containerImage docker://alpine')
    pilot = atlas(farm)
    log = finished(farm, job, pilot)
    assert f"type: {CONTAINERS['container_type']} options: {CONTAINERS['container_options']}" in log["payload.stdout"]
    assert "cores=4 args=-p echo%20hi -r . --containerImage=docker://alpine" in log["payload.stdout"]
    assert "standin_container.txt" not in log and "container_script.sh" not in log
    assert "runcontainer starts it itself" in pilot.log


def test_runcontainer_finds_the_queue_when_caches_are_elsewhere(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "caches").mkdir()
    farm.set_queue(**CONTAINERS)
    job = user(farm, 'cat "$PILOT_HOME/queuedata.json"', "runcontainer", jobPars="--containerImage docker://alpine")
    log = finished(farm, job, atlas(farm, **{"information.cache_dir": str(tmp_path / "caches")}))
    assert "apptainer:pilot" in log["payload.stdout"]


def test_names_of_the_files(farm: Farm) -> None:
    farm.set_queue(**CONTAINERS)
    job = production(farm)
    log = finished(farm, job, atlas(farm, **{"container.container_script": "inner.sh",
                                             "container.release_setup": "release.sh"}))
    assert (notes(log)["run"], notes(log)["setup"]) == ("/srv/inner.sh", "/srv/release.sh")
    assert {"inner.sh", "release.sh"} <= set(log)


def test_unpacked_images(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "images" / "alpine").mkdir(parents=True)
    farm.set_queue(**CONTAINERS, catchall=f"IMAGE_BASE={tmp_path}/images")
    job = user(farm, "echo unpacked=$ALRB_CONT_UNPACKEDDIR", container_name="docker://alpine")
    log = finished(farm, job, atlas(farm))
    assert notes(log)["image"] == f"{tmp_path}/images/alpine" and f"unpacked={tmp_path}/images" in log["payload.stdout"]


def test_a_registrys_token_is_nowhere(farm: Farm, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text(f'#!/bin/bash\necho "$*|$(cat)" >> {tmp_path}/login.txt\n')
    (tools / "apptainer").chmod(0o755)
    farm.set_queue(**CONTAINERS)
    token = {"username": "me", "token": "gl-very-secret-one", "registry_path": "docker://registry.example/p"}
    job = user(farm, "ps -ef -ww; env", container_name="docker://registry.example/p/image",
               secrets=json.dumps({"DOCKER_TOKENS": json.dumps([token])}))
    pilot = atlas(farm, env={"PATH": f"{tools}:{os.environ['PATH']}"})
    log = finished(farm, job, pilot)
    assert (tmp_path / "login.txt").read_text() == (
        "remote login -u me --password-stdin docker://registry.example/|gl-very-secret-one\n")
    assert "gl-very-secret-one" not in "".join(log.values()) + pilot.output


def test_a_preprocess_outside_decides_what_runs_inside(farm: Farm) -> None:
    farm.set_queue(**CONTAINERS)
    prepare = 'echo "echo inside=\\$STANDIN_CONTAINER \\$1" > run.sh; echo outside=$STANDIN_CONTAINER > pre.txt'
    job = user(farm, "echo not this one; exit 5", container_name="docker://alpine",
               preprocess={"command": "bash", "args": f"-c '{prepare}'"},
               containerOptions={"containerImage": "docker://special", "containerExec": "./run.sh",
                                 "execArgs": "--nv"})
    log = finished(farm, job, atlas(farm))
    assert log["pre.txt"] == "outside=\n" and "inside=docker://special" in log["payload.stdout"]
    assert notes(log)["image"] == "docker://special" and log["container_script.sh"].endswith(" ./run.sh; ")


# --- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_queue_without_containers(farm: Farm) -> None:
    farm.set_queue(is_cvmfs=True, container_type="docker:wrapper")
    job = user(farm, "echo it ran", container_name="docker://alpine")
    failed(farm, job, atlas(farm), 1384, "container_type must be set in CRIC")
    assert "payload.stdout" not in log_of(farm, job)


@pytest.mark.parametrize("image, words", [("/cvmfs/not/there.sif", "does not exist on this node"),
                                          ("a;touch x", "is no name of a container image")])
def test_an_image_that_is_not_there(farm: Farm, image: str, words: str) -> None:
    farm.set_queue(**CONTAINERS)
    job = user(farm, "echo it ran", container_name=image)
    failed(farm, job, atlas(farm), 1360, words)


@pytest.mark.parametrize("setup_type, code", [("apptainer", 1372), ("singularity", 1325), ("podman", 1384)])
def test_a_runtime_that_is_not_there(farm: Farm, setup_type: str, code: int) -> None:
    farm.set_queue(**CONTAINERS)
    job = user(farm, "echo it ran", container_name="docker://alpine")
    pilot = atlas(farm, env={"PATH": "/nowhere"}, **{"container.setup_type": setup_type})
    failed(farm, job, pilot, code, f"install the package {setup_type}")


@pytest.mark.parametrize("queue", [{"is_cvmfs": True}, CONTAINERS])
@pytest.mark.parametrize("verify", [True, False])
def test_a_release_that_does_not_exist(farm: Farm, queue: Dict[str, Any], verify: bool) -> None:
    farm.set_queue(**queue, params={} if verify else {"verify_setup": False})
    job = production(farm, swRelease="Atlas-99.99.99", homepackage="AtlasOffline/99.99.99")
    failed(farm, job, atlas(farm), 1244, "No release candidates found")
    assert ("setup.stdout" in log_of(farm, job), "payload.stdout" in log_of(farm, job)) == (verify, not verify)


def own_tree(tmp_path: Path, asetup: str) -> Path:
    """A copy of the stand-in whose asetup does something else."""
    tree = tmp_path / "cvmfs"
    shutil.copytree(TREE, tree)
    (tree / "atlas.cern.ch/repo/sw/AtlasSetup/scripts/asetup.sh").write_text(asetup)
    return tree


@pytest.mark.parametrize("queue", [{"is_cvmfs": True}, CONTAINERS])
def test_a_set_up_that_hangs(farm: Farm, tmp_path: Path, queue: Dict[str, Any]) -> None:
    gate = farm.gate("setup")
    farm.set_queue(**queue)
    job = production(farm)
    pilot = atlas(farm, tree=own_tree(tmp_path, f"echo asetup waits for CVMFS\n{gate.shell()}"),
                  **{"jobs.verify_setup_time": 5})
    gate.reached()
    failed(farm, job, pilot, 1110, "set-up of the payload had not ended after 5 s", "CVMFS", "asetup waits for CVMFS")
    assert farm.payload_processes() == [] and "payload.stdout" not in log_of(farm, job)


@pytest.mark.parametrize("queue", [{"is_cvmfs": True}, CONTAINERS])
def test_a_kill_while_the_set_up_is_tried(farm: Farm, tmp_path: Path, queue: Dict[str, Any]) -> None:
    gate = farm.gate("setup")
    farm.set_queue(**queue)
    job = production(farm)
    pilot = atlas(farm, tree=own_tree(tmp_path, f"sleep 1000 &\n{gate.shell()}"), **{"pilot.heartbeat": 1})
    gate.reached()
    farm.wait_state(job, "starting", "running")  # a job that has not begun is closed without a report
    farm.server.kill(job)
    failed(farm, job, pilot, 1144)
    assert farm.payload_processes() == []


@pytest.mark.parametrize("queue", [{"is_cvmfs": True}, CONTAINERS])
def test_a_set_up_that_fails(farm: Farm, tmp_path: Path, queue: Dict[str, Any]) -> None:
    farm.set_queue(**queue)
    job = production(farm)
    pilot = atlas(farm, tree=own_tree(tmp_path, 'echo "AtlasSetup(ERROR): out of luck" >&2; return 7\n'))
    failed(farm, job, pilot, 1110, "setup.stdout, setup.stderr", "out of luck", "exit code 7")
    assert "payload.stdout" not in log_of(farm, job)


def test_the_runtimes_own_words(farm: Farm, tmp_path: Path) -> None:
    """ALRB's container cannot be started: what the runtime says is the diagnosis, not the payload's failure."""
    tree = own_tree(tmp_path, "true\n")
    script = tree / "atlas.cern.ch/repo/ATLASLocalRootBase/user/atlasLocalSetup.sh"
    script.write_text('echo "FATAL:   container creation failed: Failed to create user namespace: user namespace '
                      'disabled" >&2; exit 255\n')
    farm.set_queue(**CONTAINERS)
    job = production(farm)
    failed(farm, job, atlas(farm, tree=tree), 1345, "user namespace disabled")


def test_without_verification_nothing_is_tried(farm: Farm) -> None:
    farm.set_queue(**CONTAINERS)
    job = production(farm)
    assert "setup.stdout" not in finished(farm, job, atlas(farm, **{"jobs.verify_setup": False}))
