"""Containers of ALRB to the character: the worked examples of the payload document (4.9, 7.2)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest
from containertasks import task

from pilot.common.exception import PilotException
from pilot.control.plan import PayloadPlan
from pilot.info.payloadtask import PayloadCommand
from pilot.user.alrbpayload import alrb_contain, setup_end
from pilot.util.redact import redact

FRONT = (
    "export ATHENA_CORE_NUMBER=8;export ATHENA_PROC_NUMBER=8;export FOO=1;export BAR='b c';export TZ='UTC'; export "
    "PANDA_RESOURCE='SITE_PROD';export FRONTIER_ID=\"[999_1234567]\";export CMSSW_VERSION=$FRONTIER_ID;export "
    "PandaID=1234567;export PanDA_TaskID='999';export PanDA_AttemptNr='2';export INDS='mc16:EVNT.1';export "
    "RUCIO_APPID='simul';unset RUCIO_ACCOUNT;")
ALRB = ("export ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase;source ${ATLAS_LOCAL_ROOT_BASE}/user"
        "/atlasLocalSetup.sh --quiet;")
ASETUP = ("source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt "
          "--makeflags='$MAKEFLAGS';")
BODY = " Sim_tf.py --inputEVNTFile=EVNT.1.pool.root.1 --preExec x=1 --maxEvents=5; "
PRODUCTION = PayloadCommand(f"{FRONT}{ALRB}{ASETUP}{BODY}", alrb=ALRB, asetup=ASETUP)
PROXY = "export X509_USER_PROXY=/home/p/x509up_u1;"
USER = PayloadCommand(
    f"{FRONT}{ALRB}{ASETUP} export MAKEFLAGS='-j1 QUICK=1 -l1';{PROXY}unset OIDC_AUTH_TOKEN;./runGen-00-00-02 -j '' "
    "--sourceURL https://x -r ./ -p echo%20hi -o '{'\"'\"'a'\"'\"':'\"'\"'b'\"'\"'}'; ",
    alrb=ALRB, asetup=ASETUP, proxy_export=PROXY)
JOB: Dict[str, Any] = {"platform": "x86_64-slc6-gcc62-opt"}
QUEUE: Dict[str, Any] = {"container_options": "-B /data,${workdir} --contain"}
TMP = "export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;"
ENVIRON = {"X509_USER_PROXY": "/home/p/x509up_u1"}
START = ('export X509_USER_PROXY=/home/p/x509up_u1;if [ -z "$ATLAS_LOCAL_ROOT_BASE" ]; then export '
         'ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase; fi;export thePlatform=')
MIDDLE = ";export PandaID=1234567;source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh -c $thePlatform"
FILES = " -s /srv/my_release_setup.sh -r /srv/container_script.sh"
EXAMPLE = f'{START}"x86_64-slc6-gcc62-opt"{MIDDLE}{FILES} -e "-B /data,${{workdir}} --contain"'
STANDALONE = ('echo "INFO: sourcing /srv/my_release_setup.sh inside the container. This should not run if it is a '
              'ATLAS standalone container"')


def release_file(line: str) -> str:
    return (f'retCode=0\n{line}\nretCode=$?\ndate +"%H:%M:%S %Y/%m/%d"\nif [ $? -ne 0 ]; then\n    retCode=$?\nfi\n'
            "return $retCode\n")


def contained(command: PayloadCommand = PRODUCTION, job: Any = None, queue: Any = None, environ: Any = None,
              **settings: object) -> PayloadCommand:
    return alrb_contain(task({**JOB, **(job or {})}, {**QUEUE, **(queue or {})}, {**ENVIRON, **(environ or {})},
                             **settings), command)


def test_worked_example_of_a_production_job() -> None:
    command = contained()
    assert command.line == EXAMPLE
    assert command.files["container_script.sh"] == (f"{TMP}{FRONT}{BODY}", 0o755)
    assert command.files["my_release_setup.sh"].text == release_file(ASETUP.rstrip(";"))
    assert command.environ == {"workdir": "/scratch/PanDA_Pilot-1234567", "TZ": "UTC"}
    assert command.container == "x86_64-slc6-gcc62-opt"


def test_worked_example_of_a_user_job_has_the_proxy_outside_only() -> None:
    command = contained(USER)
    assert command.line == EXAMPLE
    script = command.files["container_script.sh"].text
    assert script == (
        f"{TMP}{FRONT} export MAKEFLAGS='-j1 QUICK=1 -l1';unset OIDC_AUTH_TOKEN;"
        "./runGen-00-00-02 -j '' --sourceURL https://x -r ./ -p echo%20hi -o '{'\"'\"'a'\"'\"':'\"'\"'b'\"'\"'}'; ")
    assert "X509" not in script and "x509" not in "".join(item.text for item in command.files.values())


def test_the_proxy_of_unified_queues_is_the_one_outside() -> None:
    line = contained(environ={"X509_UNIFIED_DISPATCH": "/w/x509-unified"}).line
    assert line.startswith("export X509_USER_PROXY=/w/x509-unified;if ")
    assert contained(environ={"X509_USER_PROXY": ""}).line == EXAMPLE.replace(PROXY, "")


@pytest.mark.parametrize("job, platform", [
    ({"alrbuserplatform": "el9", "imagename": "docker://alpine"}, "el9"),
    ({"imagename": "docker://alpine"}, "docker://alpine"),
    ({"imagename": "NULL"}, "x86_64-slc6-gcc62-opt"),
    ({"imagename": "docker://alpine", "preprocess": {"command": "x"}, "containeroptions": {"containerImage": "docker://b"}},
     "docker://b"),
    ({"imagename": "docker://alpine", "containeroptions": {"containerImage": "docker://b"}}, "docker://alpine"),
])
def test_what_alrb_starts(job: Dict[str, Any], platform: str) -> None:
    command = contained(job=job)
    assert command.line == EXAMPLE.replace('"x86_64-slc6-gcc62-opt"', f'"{platform}"')
    assert command.container == platform


def test_without_platform_and_image_there_is_no_c() -> None:
    assert " -c " not in contained(job={"platform": ""}).line


def test_no_cvmfs_means_d_and_no_release() -> None:
    command = contained(queue={"is_cvmfs": False})
    assert command.line == f'{START}"x86_64-slc6-gcc62-opt"{MIDDLE} -d{FILES} -e "-B /data,${{workdir}} --contain"'
    assert command.files["my_release_setup.sh"].text == release_file(STANDALONE)
    assert "asetup" not in command.files["container_script.sh"].text


def test_a_job_without_release_sets_nothing_up() -> None:
    command = contained(PayloadCommand(f"{FRONT}./runGen x; "))
    assert command.files["my_release_setup.sh"].text == release_file(STANDALONE)
    assert command.files["container_script.sh"].text.endswith("unset RUCIO_ACCOUNT;./runGen x; ")


@pytest.mark.parametrize("options, executor, wanted", [
    ("", "generic", ' -e "-c -i"'), ("none", "generic", ' -e "-c -i"'), ("", "raythena", ""),
    ("-C -B /a --containall", "raythena", ' -e "-B /a,${workdir}"'), ("-C", "raythena", ""),
    ("-C -B /a", "", ' -e "-C -B /a"'),
    ('--env A="b c"', "", ' -e "--env A=\\"b c\\""'), ("-B /data --contain", "", ' -e "-B /data,${workdir} --contain"'),
])
def test_options_of_the_queue(options: str, executor: str, wanted: str) -> None:
    command = contained(queue={"container_options": options}, environ={"PILOT_ES_EXECUTOR_TYPE": executor})
    assert command.line == EXAMPLE.replace(' -e "-B /data,${workdir} --contain"', wanted)


@pytest.mark.parametrize("key", ["singularity_options", "apptainer_options"])
def test_options_in_catchall(key: str) -> None:
    queue = {"container_options": "", "catchall": f"a,{key}='-B /data --contain',b"}
    assert contained(queue=queue).line == EXAMPLE


def test_container_options_of_the_job() -> None:
    job = {"preprocess": {"command": "x"}, "containeroptions": {
        "containerExec": "bash ./run.sh 1", "execArgs": "--nv -B '/a b'"}}
    command = contained(USER, job=job)
    assert command.line == f"{EXAMPLE} --nv -B '/a b'"
    assert command.files["container_script.sh"].text.endswith("unset OIDC_AUTH_TOKEN; bash ./run.sh 1; ")
    assert "containerExec" not in contained(USER, job={**job, "preprocess": {}}).files["container_script.sh"].text


@pytest.mark.parametrize("line, left", [
    ("export A=1;./run 'a;b' \"c;d\"; ", "export A=1; new; "), ("./run", " new; "), ("a;b\\;c;d", "a;b\\;c; new; ")])
def test_the_last_command_is_replaced_whatever_is_quoted(line: str, left: str) -> None:
    job = {"preprocess": {"command": "x"}, "containeroptions": {"containerExec": "new"}}
    text = contained(PayloadCommand(line), job=job).files["container_script.sh"].text
    assert text == f"export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;{left}"


def test_nothing_in_the_jobs_texts_is_run_outside() -> None:
    job = {"imagename": "a$(touch x)`b`\"c", "containeroptions": {"execArgs": "--nv; touch x $(touch x)"}}
    line = contained(job=job).line
    assert 'thePlatform="a\\$(touch x)\\`b\\`\\"c"' in line
    assert line.endswith("'--nv;' touch x '$(touch' 'x)'")
    with pytest.raises(PilotException) as caught:
        contained(job={"containeroptions": {"execArgs": "'unbalanced"}})
    assert caught.value.code == 1302


def secrets(**changes: str) -> str:
    first = {"username": "me", "token": "very-secret-token", "registry_path": "docker://registry.example/p/q"}
    return json.dumps({"DOCKER_TOKENS": json.dumps([{**first, **changes}])})


def test_login_to_a_registry_never_shows_its_token() -> None:
    command = contained(job={"secrets": secrets()})
    assert command.line == (
        'apptainer remote login -u me --password-stdin docker://registry.example/ <<<"$PILOT_REGISTRY_TOKEN"; '
        f"unset PILOT_REGISTRY_TOKEN; {EXAMPLE}")
    assert command.environ["PILOT_REGISTRY_TOKEN"] == "very-secret-token"
    assert list(command.masked) == ["very-secret-token"]
    assert "very-secret" not in command.line + "".join(item.text for item in command.files.values())
    assert "very-secret" not in PayloadPlan(task(), command).printable(command.line) + redact(command.line)


@pytest.mark.parametrize("text", [
    "", "{", "token docker://x/", "[1]", '{"DOCKER_TOKENS": "[]", "a": "token docker://x/"}', secrets(registry_path="http://x"),
    secrets(token=""), secrets(registry_path="docker://$(x)/"), '{"DOCKER_TOKENS": [[["token", "docker://x/"]]]}',
    json.dumps({"DOCKER_TOKENS": None, "token": "docker://x/"}), '{"token docker://":' + "[" * 20000])
def test_broken_secrets_mean_no_login(text: str) -> None:
    assert contained(job={"secrets": text}).line == EXAMPLE


@pytest.mark.parametrize("job, queue, environ", [
    ({"imagename": "docker://a"}, {}, {}), ({"is_eventservice": True}, {}, {"PILOT_ES_EXECUTOR_TYPE": "generic"}),
    ({}, {"container_type": "docker:wrapper"}, {}), ({}, {"container_type": ""}, {})])
def test_what_stays_outside_is_returned_as_it_is(job: Any, queue: Any, environ: Any) -> None:
    command = PayloadCommand("export TZ='UTC'; ./runcontainer -p x --containerImage=docker://a; ")
    assert contained(command, job, queue, environ) is command


def test_raythena_has_a_container() -> None:
    assert contained(job={"is_eventservice": True}, environ={"PILOT_ES_EXECUTOR_TYPE": "raythena"}).files


def test_names_of_the_files_are_settings() -> None:
    command = contained(container__container_script="inner.sh", container__release_setup="release.sh")
    assert list(command.files) == ["inner.sh", "release.sh"]
    assert command.line == EXAMPLE.replace("my_release_setup", "release").replace("container_script", "inner")
    assert "/srv/release.sh" in contained(queue={"is_cvmfs": False}, container__release_setup="release.sh"
                                          ).files["release.sh"].text


def test_files_of_the_experiment_stay(tmp_path: Path) -> None:
    from dataclasses import replace

    from pilot.info.payloadtask import FileText

    command = contained(replace(PRODUCTION, files={"a.txt": FileText("a")}, environ={"B": "c"}))
    assert command.files["a.txt"].text == "a" and command.environ["B"] == "c"


@pytest.mark.parametrize("head, wanted", [
    ("a\n14:05:59 2026/11/21\n15:00:00 2026/11/21\n", 1795269959.0), ("", None), ("99:99:99 2026/11/21", None),
    ("114:05:59 2026/11/21", None), ("x 00:00:00 1970/01/02 y", 86400.0)])
def test_the_end_of_set_up(head: str, wanted: Any) -> None:
    asked = task(JOB)
    assert setup_end(asked, contained(), head) == wanted
    assert setup_end(asked, PRODUCTION, head) is None, "who has not asked for the time is not believed"


def test_another_place_of_the_software() -> None:
    line = contained(environ={"ATLAS_SW_BASE": "/opt/soft ware"}).line
    assert "export ATLAS_LOCAL_ROOT_BASE='/opt/soft ware/atlas.cern.ch/repo/ATLASLocalRootBase'; fi;" in line


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize("code", [0, 3])
def test_the_release_file_returns_what_asetup_returns(tmp_path: Path, code: int) -> None:
    (tmp_path / "asetup").write_text(f"return {code}\n")
    text = contained(PayloadCommand("source ./asetup;x", asetup="source ./asetup;")).files["my_release_setup.sh"].text
    (tmp_path / "release").write_text(text)
    done = subprocess.run(["bash", "-c", "source ./release"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.split())) == (code, 2), done.stderr
