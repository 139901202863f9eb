"""The exact commands around a transfer script: plain, apptainer, ALRB (data management document 12, payload 7.5)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.info.middleware import MiddlewareTask
from pilot.info.queuedata import QueueData
from pilot.settings import default_settings
from pilot.user.alrb import alrb_middleware_command
from pilot.user.base import Experiment

OPTIONS = ["-d", "-w", "/srv", "-q", "Q", "--jobid=1", "--request=stagein_request.json"]
WORDS = " ".join(OPTIONS)


def task(mode: str = "container", *, label: str = "stage-in", queue: dict[str, Any] | None = None,
         env: dict[str, str] | None = None, binds: list[Path] | None = None, **container: str) -> MiddlewareTask:
    settings = default_settings(**{f"container.{key}": value for key, value in container.items()})
    return MiddlewareTask(
        mode=mode, label=label, script="stagein.py" if label == "stage-in" else "stageout.py", options=OPTIONS,
        workdir=Path("/data/job 1"), queue=QueueData.from_raw({"nickname": "Q", **(queue or {})}),
        container=settings.container, environ={"PILOT_RUCIO_SITENAME": "SITE", **(env or {})}, binds=binds or [])


# --- ALRB -------------------------------------------------------------------------------------------------------------
ALRB = "export ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase;source ${ATLAS_LOCAL_ROOT_BASE}"


def test_alrb_starts_the_container_of_the_settings_with_the_script_as_payload() -> None:
    command = alrb_middleware_command(task(env={"X509_USER_PROXY": "/tmp/x509up_u1"}))
    assert list(command.argv[:2]) == ["/bin/bash", "-c"]
    assert command.argv[2] == (
        "cd '/data/job 1';export X509_USER_PROXY=/tmp/x509up_u1;"
        f'export ALRB_CONT_RUNPAYLOAD="source /srv/stagein.sh";{ALRB}/user/atlasLocalSetup.sh -c el9')
    assert command.files == {"stagein.sh": (
        "export ALRB_LOCAL_PY3=YES; export PILOT_RUCIO_SITENAME=SITE; lsetup rucio davix xrootd; "
        f"python3 ./stagein.py {WORDS} \nexit $?\n")}
    assert command.inside == Path("/srv")


def test_the_queues_container_options_and_directories_go_behind_e() -> None:
    command = alrb_middleware_command(task(
        label="stage-out", queue={"container_options": "-B /cvmfs,/scratch --contain"}, binds=[Path("/out")]))
    assert 'export ALRB_CONT_RUNPAYLOAD="source /srv/stageout.sh";' in command.argv[2]
    assert command.argv[2].endswith(" -c el9 -e \"-B /cvmfs,/scratch,/data/job 1 --contain -B /out:/out\"")


@pytest.mark.parametrize(("container", "env", "image"), [
    ({"middleware_container": "centos7"}, {}, "centos7"),
    ({"middleware_container": "/no/such/image"}, {}, "el9"),
    ({"middleware_container": "/usr"}, {}, "/usr"),
    ({"middleware_container": "/usr", "middleware_container_no_path": "atlas/rucio-clients:default"},
     {"ALRB_CONT_UNPACKEDDIR": "/cvmfs/unpacked"}, "atlas/rucio-clients:default")])
def test_the_image_follows_the_settings(container: dict[str, str], env: dict[str, str], image: str) -> None:
    line = alrb_middleware_command(task(env=env, **container)).argv[2]
    assert line.endswith(f"-c {image}")
    assert ("export ALRB_CONT_UNPACKEDDIR=/cvmfs/unpacked;" in line) is bool(env)


def test_an_image_of_rucio_brings_its_own_middleware() -> None:
    given = {"ATLAS_LOCAL_RUCIOCLIENTS_VERSION": "35.1"}
    text = alrb_middleware_command(task(env=given, middleware_container="atlas/rucio-clients")).files["stagein.sh"]
    assert text == ("export PILOT_RUCIO_SITENAME=SITE; export ATLAS_LOCAL_RUCIOCLIENTS_VERSION=35.1; "
                    f'lsetup "python pilot-default";python3 ./stagein.py {WORDS} \nexit $?\n')


@pytest.mark.parametrize("mode", ["bash", "container"])
def test_testing_versions_stand_in_front_of_the_set_up(mode: str) -> None:
    command = alrb_middleware_command(task(mode, env={"ALRB_xrootdVersion": "testing", "ALRB_asetupVersion": "a b"}))
    versions = "export ALRB_asetupVersion='a b';export ALRB_xrootdVersion=testing;"
    assert f"{versions}{ALRB}" in command.argv[2]
    assert all(text.startswith(f"{versions}export ALRB_LOCAL_PY3=YES; ") for text in command.files.values())


def test_without_a_container_alrb_is_set_up_and_the_script_runs_by_itself() -> None:
    command = alrb_middleware_command(task("bash", env={"ATLAS_SW_BASE": "/sw"}))
    base = ALRB.replace("/cvmfs", "/sw")
    assert command.argv[2] == (f"export ALRB_LOCAL_PY3=YES; {base}/user/atlasLocalSetup.sh --quiet;"
                               f"'/data/job 1/stagein.py' {WORDS}\nexit $?")
    assert command.inside is None and not command.files


def test_another_set_up_type_starts_the_container_without_alrb() -> None:
    with pytest.raises(PilotException, match="there is no singularity on this node"):
        alrb_middleware_command(task(setup_type="singularity", env={"PATH": "/nowhere"}))


# --- every experiment -------------------------------------------------------------------------------------------------


def test_by_default_the_script_runs_with_the_pilots_python() -> None:
    command = Experiment().middleware_command(task("bash"))
    assert list(command.argv) == [sys.executable, "/data/job 1/stagein.py", *OPTIONS]
    assert command.inside is None


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    for name in ("apptainer", "singularity"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_by_default_apptainer_runs_the_script_in_the_image(runtime: Path) -> None:
    proxy = runtime / "proxy"
    proxy.write_text("")
    command = Experiment().middleware_command(task(
        env={"PATH": str(runtime), "X509_USER_PROXY": str(proxy), "HIDDEN": "1"}, binds=[Path("/out")],
        queue={"container_options": "--contain --home \"/a b\""}, middleware_container="docker://rucio/clients"))
    argv = [word for word in command.argv if word != "/cvmfs:/cvmfs"]
    assert argv[:2] == [f"{runtime}/apptainer", "exec"]
    assert argv[-5:] == ["--pwd", "/srv", "docker://rucio/clients", "/bin/bash", "/srv/stagein.sh"]
    assert argv[2:5] == ["--contain", "--home", "/a b"]
    assert [word for word in argv if ":/" in word][:3] == ["/data/job 1:/srv", f"{proxy}:{proxy}", "/out:/out"]
    assert command.files["stagein.sh"] == f"python3 ./stagein.py {WORDS}\nexit $?\n"
    assert command.environ["APPTAINERENV_X509_USER_PROXY"] == command.environ["SINGULARITYENV_X509_USER_PROXY"]
    assert not any("HIDDEN" in name for name in command.environ)


def test_the_settings_may_name_the_runtime(runtime: Path) -> None:
    command = Experiment().middleware_command(
        task(setup_type="singularity", env={"PATH": str(runtime)}, middleware_container="/image.sif"))
    assert command.argv[0] == f"{runtime}/singularity"


@pytest.mark.parametrize(("queue", "container", "words"), [
    ({}, {}, "container.middleware_container is 'el9'"),
    ({"container_options": "-B 'open"}, {"middleware_container": "/image"}, "container_options")])
def test_what_cannot_be_run_is_a_wrong_configuration(
        runtime: Path, queue: dict[str, str], container: dict[str, str], words: str) -> None:
    with pytest.raises(PilotException, match=words) as caught:
        Experiment().middleware_command(task(env={"PATH": str(runtime)}, queue=queue, **container))
    assert caught.value.code == 1341 and "bad queue configuration" in caught.value.detail


def test_nothing_of_a_strange_name_is_read_by_a_shell() -> None:
    strange = task(env={"X509_USER_PROXY": "/tmp/a;touch x", "PILOT_RUCIO_SITENAME": "$(id)"})
    command = alrb_middleware_command(strange)
    assert "export X509_USER_PROXY='/tmp/a;touch x';" in command.argv[2]
    assert "export PILOT_RUCIO_SITENAME='$(id)';" in command.files["stagein.sh"]
