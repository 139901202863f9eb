"""Which payloads run in containers, and the command lines of apptainer, singularity and podman (payload document 7)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest
from containertasks import task

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.info.images import job_image, missing_image, no_container
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand
from pilot.info.queuedata import QueueData
from pilot.user.base import Experiment
from pilot.user.payloadcontainer import contain, stays_outside

WITH = QueueData(name="Q", container_type={"pilot": "apptainer", "wrapper": "docker"})
WITHOUT = QueueData(name="Q", container_type={"wrapper": "docker"})


# --- the decision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields, queue, wanted, codes", [
    ({"imagename": "docker://a"}, WITH, True, []),
    ({"imagename": "docker://a"}, WITHOUT, True, [1384]),
    ({"imagename": "NULL"}, WITH, False, []),
    ({"imagename": "NULL", "platform": "x86_64-el9"}, WITH, True, []),
    ({"platform": "x86_64-el9"}, WITH, True, []),
    ({"platform": "x86_64-el9"}, WITHOUT, False, []),
    ({"alrbuserplatform": "el9"}, WITH, True, []),
    ({"alrbuserplatform": "el9"}, WITHOUT, False, []),
    ({}, WITH, False, []),
    ({"imagename": "docker://a"}, QueueData(name="Q"), True, [1384]),
])
def test_who_needs_a_container(fields: Dict[str, str], queue: QueueData, wanted: bool, codes: Any) -> None:
    job = Job("1", **fields)
    assert Experiment().uses_container(job, queue) is wanted
    assert [code for code, _ in (no_container(queue) if wanted else [])] == codes


def test_the_text_of_a_queue_without_containers() -> None:
    assert no_container(WITHOUT) == [(1384, "container_type must be set in CRIC")]


@pytest.mark.parametrize("fields, environ, line, reason", [
    ({"imagename": "a"}, {}, "./runcontainer -p x", "runcontainer"),
    ({}, {}, "./runcontainer -p x", ""),
    ({"imagename": "a"}, {}, "./runGen", ""),
    ({"is_eventservice": True}, {}, "x", "event service"),
    ({"is_eventservice": True}, {"PILOT_ES_EXECUTOR_TYPE": "generic"}, "x", "event service"),
    ({"is_eventservice": True}, {"PILOT_ES_EXECUTOR_TYPE": "raythena"}, "x", ""),
    ({"is_eventservicemerge": True}, {}, "x", ""),
])
def test_what_is_decided_when_it_starts(fields: Any, environ: Any, line: str, reason: str) -> None:
    answer = stays_outside(task(fields, environ=environ), PayloadCommand(line))
    assert reason in answer and bool(answer) == bool(reason)


# --- images -----------------------------------------------------------------------------------------------------------


def test_unpacked_images(tmp_path: Path) -> None:
    (tmp_path / "base:1").mkdir()
    (tmp_path / "atlas" / "athena:2").mkdir(parents=True)
    queue = QueueData(name="Q", catchall=f"IMAGE_BASE={tmp_path}")

    def found(name: str, environ: Any = None) -> str:
        return job_image(Job("1", imagename=name), queue, environ or {})

    assert found("atlas/base:1") == found("docker://x/base:1") == str(tmp_path / "base:1")
    assert found("atlas/athena:2") == found("docker://atlas/athena:2") == str(tmp_path / "atlas/athena:2")
    assert found("other") == "other" and found("../base:1") == str(tmp_path / "base:1")
    assert found("NULL") == found("") == ""
    assert found("base:1", {"IMAGE_BASE": "/nowhere"}) == "base:1", "the environment wins"


def test_images_that_are_not_there(tmp_path: Path) -> None:
    there = tmp_path / "image.sif"
    there.touch()

    def problems(name: str) -> Any:
        return missing_image(Job("1", imagename=name), WITH, {})

    assert problems(str(there)) == problems("docker://a/b:c@sha256:1") == problems("") == problems("NULL") == []
    (code, text), = problems(f"{there}x")
    assert code == 1360 and f"{there}x" in text
    for name in ("a b", "a;rm -rf x", "$(x)", "-B", "a\nb", 'a"b', "bild\xe4"):
        assert [code for code, _ in problems(name)] == [1360], name


# --- runtimes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory for PATH; commands are added by ``install``."""
    path = tmp_path / "bin"
    path.mkdir()
    return path


def install(tools: Path, *names: str) -> Dict[str, str]:
    for name in names:
        (tools / name).write_text("#!/bin/bash\nprintf '%s\\n' \"${0##*/}\" \"$@\"\n")
        (tools / name).chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}" if names else str(tools)}


IMAGE = {"imagename": "docker://a/b"}


def arguments(command: PayloadCommand, environ: Dict[str, str]) -> Any:
    """What the runtime is given when the line is run."""
    done = subprocess.run(["/bin/bash", "-c", command.line], env={**environ, **command.environ}, capture_output=True,
                          text=True, check=True)
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("kind, there, setting, runtime", [
    ("apptainer", ["apptainer", "singularity"], "ALRB", "apptainer"),
    ("singularity", ["apptainer"], "ALRB", "apptainer"),
    ("singularity", ["apptainer", "singularity"], "ALRB", "singularity"),
    ("apptainer", ["podman", "singularity"], "ALRB", "singularity"),
    ("podman", ["podman", "apptainer"], "ALRB", "podman"),
    ("docker", ["singularity"], "ALRB", "singularity"),
    ("docker", ["apptainer", "singularity"], "singularity", "singularity"),
    ("apptainer", ["podman", "apptainer"], "podman", "podman"),
    ("apptainer", ["apptainer"], "Apptainer", "apptainer"),
])
def test_which_runtime(tools: Path, kind: str, there: Any, setting: str, runtime: str) -> None:
    environ = install(tools, *there)
    found = contain(task(IMAGE, {"container_type": f"{kind}:pilot"}, environ, container__setup_type=setting),
                    PayloadCommand("x"))
    assert arguments(found, environ)[0] == runtime


@pytest.mark.parametrize("kind, setting, code, text", [
    ("apptainer", "ALRB", 1372, "Apptainer is not installed"),
    ("singularity", "ALRB", 1325, "Singularity is not installed"),
    ("podman", "ALRB", 1384, "podman is not installed"), ("docker", "ALRB", 1372, "Apptainer is not installed"),
    ("apptainer", "singularity", 1325, "no singularity in PATH"), ("apptainer", "dokcer", 1341, "'dokcer'"),
])
def test_a_runtime_that_is_not_there(tools: Path, kind: str, setting: str, code: int, text: str) -> None:
    with pytest.raises(PilotException) as caught:
        contain(task(IMAGE, {"container_type": f"{kind}:pilot"}, install(tools), container__setup_type=setting),
                PayloadCommand("x"))
    assert (caught.value.code, text in caught.value.detail) == (code, True)
    assert code == 1341 or "install the package" in caught.value.detail


@pytest.mark.parametrize("setting, there", [("ALRB", True), ("ALRB", False), ("apptainer", True)])
def test_alrb_brings_a_runtime_along(tools: Path, tmp_path: Path, setting: str, there: bool) -> None:
    script = tmp_path / "atlas.cern.ch/repo/ATLASLocalRootBase/user/atlasLocalSetup.sh"
    script.parent.mkdir(parents=True)
    if there:
        script.touch()
    asked = task(IMAGE, environ={**install(tools), "ATLAS_SW_BASE": str(tmp_path)}, container__setup_type=setting)
    if setting == "ALRB" and there:
        command = contain(asked, PayloadCommand("./run x"))
        assert command.files["container_script.sh"].text == "export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;./run x"
        assert f"{tmp_path}/atlas.cern.ch/repo/ATLASLocalRootBase; fi;" in command.line
    else:
        with pytest.raises(PilotException) as caught:
            contain(asked, PayloadCommand("./run x"))
        assert caught.value.code == 1372


def test_the_line_of_apptainer(tools: Path) -> None:
    environ = install(tools, "apptainer")
    command = contain(task(IMAGE, {"container_options": "-B /data"}, environ), PayloadCommand("./run 'a b' \"$X\""))
    own = "".join(f",{path}" for path in ("/cvmfs", "${workdir}", "/home") if path[0] == "$" or os.path.isdir(path))
    assert command.line == (
        f"export workdir=/scratch/PanDA_Pilot-1234567; apptainer --verbose exec -B /data{own} docker://a/b /bin/bash "
        "-c 'cd $workdir;pwd;./run '\"'\"'a b'\"'\"' \"$X\"'")
    assert arguments(command, environ)[:4] == ["apptainer", "--verbose", "exec", "-B"]
    assert arguments(command, environ)[-1] == "cd $workdir;pwd;./run 'a b' \"$X\""
    assert command.container == "docker://a/b"


@pytest.mark.parametrize("options, first", [
    ("", ["-B", "BINDS"]), ("-C", ["-C", "-B", "BINDS"]), ("-B /data --nv", ["-B", "/data", "--nv", "-B", "BINDS"]),
    ("-B ${workdir}:/srv", ["-B", "/scratch/PanDA_Pilot-1234567:/srv,BINDS"]),
    ("--bind '/a b'", ["--bind", "/a b", "-B", "BINDS"]), ("--env 'A=b c' -e", ["--env", "A=b c", "-e", "-B", "BINDS"]),
    ("-B /data,${workdir} --contain", ["-B", "/data,/scratch/PanDA_Pilot-1234567", "--contain", "-B", "BINDS"]),
])
def test_options_of_the_queue_stay_whole(tools: Path, options: str, first: Any) -> None:
    environ = install(tools, "apptainer")
    command = contain(task(IMAGE, {"container_options": options}, environ), PayloadCommand("true"))
    given = arguments(command, environ)[3:-4]
    dirs = [path for path in ("/cvmfs", "/scratch/PanDA_Pilot-1234567", "/home")
            if path.startswith("/scratch") or os.path.isdir(path)]
    if "${workdir}" in options and ":" not in options:
        dirs.remove("/scratch/PanDA_Pilot-1234567")
    wanted = [word.replace("BINDS", ",".join(dirs)) for word in first]
    if not dirs:
        wanted = wanted[:-2]
    assert given == wanted


def test_options_that_are_no_shell_text(tools: Path) -> None:
    with pytest.raises(PilotException) as caught:
        contain(task(IMAGE, {"container_options": "-B 'x"}, install(tools, "apptainer")), PayloadCommand("true"))
    assert caught.value.code == 1341 and "container_options of queue Q" in caught.value.detail


@pytest.mark.parametrize("runtime", ["apptainer", "singularity", "podman"])
def test_what_the_payload_needs_is_visible(tools: Path, tmp_path: Path, runtime: str) -> None:
    workdir, storage = tmp_path / "job", tmp_path / "storage"
    workdir.mkdir()
    storage.mkdir()
    (storage / "in.root").touch()
    (workdir / "in.root").symlink_to(storage / "in.root")
    proxy = tmp_path / "proxy.pem"
    proxy.touch()
    environ = {**install(tools, runtime), "X509_USER_PROXY": str(proxy), "X509_CERT_DIR": "/nowhere", "SECRET": "hush",
               "RUCIO_ACCOUNT": "me", "LD_LIBRARY_PATH": "/x"}
    job = {**IMAGE, "workdir": workdir, "indata": [FileSpec(lfn="in.root")]}
    command = contain(task(job, environ=environ, container__setup_type=runtime), PayloadCommand("true"))
    given = arguments(command, environ)
    text = "\n".join(given)
    assert str(proxy) in text and str(storage) in text and "/nowhere" not in text and "hush" not in text
    if runtime == "podman":
        passed = {given[i + 1] for i, word in enumerate(given) if word == "--env"}
        assert {"X509_USER_PROXY", "RUCIO_ACCOUNT", "workdir", "SECRET"} <= passed
        assert not passed & {"PATH", "LD_LIBRARY_PATH"}
    else:
        assert command.environ[f"{runtime.upper()}ENV_RUCIO_ACCOUNT"] == "me"
        assert command.environ[f"{runtime.upper()}ENV_workdir"] == str(workdir)


@pytest.mark.parametrize("platform, there, wanted", [
    ("x86_64-el9-gcc13-opt", "x86_64-el9.img", "x86_64-el9.img"), ("x86_64-el9-gcc13-opt", "x86_64-centos7.img",
                                                                  "x86_64-centos7.img"),
    ("x86_64-el9-gcc13-opt", "x86_64-slc6.img", None)])
def test_the_image_of_a_platform(tools: Path, tmp_path: Path, platform: str, there: str, wanted: Any) -> None:
    images = tmp_path / "atlas.cern.ch/repo/containers/images/singularity"
    images.mkdir(parents=True)
    (images / there).touch()
    environ = {**install(tools, "singularity"), "ATLAS_SW_BASE": str(tmp_path)}
    asked = task({"platform": platform}, {"container_type": "singularity:pilot"}, environ)
    if wanted is None:
        with pytest.raises(PilotException) as caught:
            contain(asked, PayloadCommand("true"))
        assert caught.value.code == 1360 and "x86_64-el9.img" in caught.value.detail
    else:
        assert contain(asked, PayloadCommand("true")).container == str(images / wanted)


@pytest.mark.parametrize("name, wanted", [
    ("alpine", "docker://alpine"), ("ghcr.io/a/b:1", "docker://ghcr.io/a/b:1"), ("/x/y.sif", "/x/y.sif"),
    ("oras://a/b", "oras://a/b"), ("my.sif", "my.sif")])
def test_names_of_images(tools: Path, name: str, wanted: str) -> None:
    asked = task({"imagename": name}, environ=install(tools, "apptainer"))
    assert contain(asked, PayloadCommand("x")).container == wanted


def test_a_directory_with_blanks(tools: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "a job"
    workdir.mkdir()
    environ = install(tools, "apptainer")
    command = contain(task({**IMAGE, "workdir": workdir}, environ=environ), PayloadCommand("true"))
    assert arguments(command, environ)[-1] == 'cd "$workdir";pwd;true'
