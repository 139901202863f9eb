"""Command lines of ATLAS jobs: the worked examples of the payload document (4.9) to the character, and each rule."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from atlas_tasks import (
    PRODUCTION,
    RUNCONTAINER,
    TREE,
    USER,
    at_cvmfs,
    inputs,
    make_command,
    make_task,
)

from pilot.user.atlas import Atlas

FRONT = (
    "export TZ='UTC'; export PANDA_RESOURCE='SITE_PROD';export FRONTIER_ID=\"[999_1234567]\";"
    "export CMSSW_VERSION=$FRONTIER_ID;export PandaID=1234567;export PanDA_TaskID='999';export PanDA_AttemptNr='2';"
)
ALRB = ("export ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase;"
        "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh --quiet;")
ASETUP = ("source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt "
          "--makeflags='$MAKEFLAGS';")
WORKED_PRODUCTION = (
    "export ATHENA_CORE_NUMBER=8;export ATHENA_PROC_NUMBER=8;export FOO=1;export BAR='b c';export TZ='UTC'; "
    "export PANDA_RESOURCE='SITE_PROD';export FRONTIER_ID=\"[999_1234567]\";export CMSSW_VERSION=$FRONTIER_ID;"
    "export PandaID=1234567;export PanDA_TaskID='999';export PanDA_AttemptNr='2';export INDS='mc16:EVNT.1';"
    "export RUCIO_APPID='simul';unset RUCIO_ACCOUNT;"
    "export ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase;"
    "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh --quiet;source $AtlasSetup/scripts/asetup.sh "
    "AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt --makeflags='$MAKEFLAGS'; "
    "Sim_tf.py --inputEVNTFile=EVNT.1.pool.root.1 --preExec x=1 --maxEvents=5; "
)


def line(workdir: Path, definition: Any, **how: Any) -> str:
    return at_cvmfs(make_command(workdir, definition, **how).line)


# --- worked examples --------------------------------------------------------------------------------------------------


def test_production_to_the_character(tmp_path: Path) -> None:
    command = make_command(tmp_path, PRODUCTION, queue={"environ": "FOO=1 BAR=b c"})
    assert at_cvmfs(command.line) == WORKED_PRODUCTION
    assert command.line.startswith(command.setup) and command.setup.endswith("--makeflags='$MAKEFLAGS';")
    assert command.environ == {"ATHENA_PROC_NUMBER_JOB": "8", "ATHENA_CORE_NUMBER": "8"}


def test_without_its_set_up_it_is_the_script_for_the_container_to_the_character(tmp_path: Path) -> None:
    """container_script.sh: everything up to ``unset RUCIO_ACCOUNT;``, then `` Sim_tf.py ...; ``."""
    command = make_command(tmp_path, PRODUCTION, queue={"environ": "FOO=1 BAR=b c"})
    assert at_cvmfs(command.alrb) == ALRB and command.asetup == ASETUP
    assert command.line.replace(command.alrb, "").replace(command.asetup, "") == (
        WORKED_PRODUCTION.partition("export ATLAS_LOCAL")[0]
        + " Sim_tf.py --inputEVNTFile=EVNT.1.pool.root.1 --preExec x=1 --maxEvents=5; ")


def test_user_job_to_the_character(tmp_path: Path) -> None:
    environ = {"X509_USER_PROXY": "/home/p/x509up_u1", "OIDC_AUTH_TOKEN": "token"}
    command = make_command(tmp_path, USER, environ=environ)
    assert at_cvmfs(command.line) == (
        f"{FRONT}export INDS='mc16:EVNT.1';export ROOT_TTREECACHE_SIZE=1;export ROOTCORE_NCPUS=1;"
        f"export RUCIO_APPID='simul';unset RUCIO_ACCOUNT;{ALRB}{ASETUP[:-1]}"
        "; export MAKEFLAGS='-j1 QUICK=1 -l1';export X509_USER_PROXY=/home/p/x509up_u1;unset OIDC_AUTH_TOKEN;"
        "./runGen-00-00-02 -j '' --sourceURL https://x -r ./ -p echo%20hi -o '{'\"'\"'a'\"'\"':'\"'\"'b'\"'\"'}'; ")
    assert command.proxy_export == "export X509_USER_PROXY=/home/p/x509up_u1;"
    assert command.proxy_export in command.setup and command.setup.endswith("unset OIDC_AUTH_TOKEN;")


def test_runcontainer_to_the_character(tmp_path: Path) -> None:
    command = make_command(tmp_path, RUNCONTAINER, environ={"X509_USER_PROXY": "/home/p/x509up_u1"})
    assert command.line == (
        "export TZ='UTC'; export PANDA_RESOURCE='SITE_PROD';export FRONTIER_ID=\"[999_1234567]\";"
        "export CMSSW_VERSION=$FRONTIER_ID;export PandaID=1234567;export PanDA_TaskID='999';"
        "export PanDA_AttemptNr='2';export INDS='unknown';export ROOT_TTREECACHE_SIZE=1;export ROOTCORE_NCPUS=1;"
        "export RUCIO_APPID='panda-client-1.5';unset RUCIO_ACCOUNT;./runcontainer -p echo%20hi -r . "
        "-i '['\"'\"'a.root'\"'\"']' --containerImage=docker://alpine; ")
    assert (command.alrb, command.asetup, command.proxy_export) == ("", "", "")


def test_the_task_of_the_real_cvmfs_has_the_text_of_the_sites(tmp_path: Path) -> None:
    """Only whether the repository exists is asked of the disk; the text comes from the base."""
    from pilot.user.atlas.asetup import alrb_setup

    assert alrb_setup("/cvmfs") == ALRB


# --- the front --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "cores", "front", "variables"),
    [
        ({}, 1, "export TZ", {"ATHENA_PROC_NUMBER_JOB": "1", "ATHENA_CORE_NUMBER": "1"}),
        ({}, 4, "export ATHENA_CORE_NUMBER=4;export ATHENA_PROC_NUMBER=4;export TZ",
         {"ATHENA_PROC_NUMBER_JOB": "4", "ATHENA_CORE_NUMBER": "4"}),
        ({"ATHENA_PROC_NUMBER": "6", "ATHENA_PROC_NUMBER_JOB": "3"}, 4,
         "export ATHENA_CORE_NUMBER=6;export ATHENA_PROC_NUMBER=6;export TZ",
         {"ATHENA_PROC_NUMBER_JOB": "", "ATHENA_CORE_NUMBER": "6"}),
        ({"ATHENA_PROC_NUMBER": "1"}, 4, "export ATHENA_PROC_NUMBER=1;export TZ",
         {"ATHENA_PROC_NUMBER_JOB": "", "ATHENA_CORE_NUMBER": "1"}),
        ({"ATHENA_PROC_NUMBER": "all"}, 4, "export ATHENA_CORE_NUMBER=4;export ATHENA_PROC_NUMBER=4;export TZ",
         {"ATHENA_PROC_NUMBER_JOB": "4", "ATHENA_CORE_NUMBER": "4"}),
    ],
)
def test_numbers_of_cores(
    tmp_path: Path, environ: dict[str, str], cores: int, front: str, variables: dict[str, str]
) -> None:
    command = make_command(tmp_path, PRODUCTION, environ=environ, coreCount=cores)
    assert command.line.startswith(front)
    assert command.environ == variables


def test_cores_of_one_job_are_not_those_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHENA_CORE_NUMBER", "64")
    monkeypatch.setenv("INDS", "wrong")
    monkeypatch.setenv("PANDAID", "99")
    before = dict(os.environ)
    first = line(tmp_path, PRODUCTION, coreCount=8)
    assert line(tmp_path, PRODUCTION, coreCount=1).startswith("export TZ")
    assert line(tmp_path, PRODUCTION, coreCount=8) == first
    assert "wrong" not in first and "64;" not in first and "PandaID=1234567" in first
    assert dict(os.environ) == before


def test_a_merging_transform_is_told_of_no_processes(tmp_path: Path) -> None:
    merge = {**PRODUCTION, "transformation": "Merge_tf.py"}
    text = line(tmp_path, merge, environ={"ATHENA_PROC_NUMBER": "8"})
    assert "export INDS='mc16:EVNT.1';unset ATHENA_PROC_NUMBER;unset ATHENA_CORE_NUMBER;export RUCIO_APPID" in text
    assert "export ATHENA_PROC_NUMBER" not in text
    assert "unset ATHENA" not in line(tmp_path, merge)


def test_parameters_that_use_the_number_of_processes_find_it(tmp_path: Path) -> None:
    text = line(tmp_path, PRODUCTION, jobPars="--nprocs=$ATHENA_PROC_NUMBER")
    assert text.startswith("export ATHENA_CORE_NUMBER=8;export ATHENA_PROC_NUMBER=8;")


@pytest.mark.parametrize(
    ("environ", "exports"),
    [
        ("FOO=1", "export FOO=1;"),
        ("FOO=1 BAR=b c", "export FOO=1;export BAR='b c';"),  # defect 23
        ("FOO=a;b BAR=`id`", "export FOO='a;b';export BAR='`id`';"),
        ("FOO=$HOME/x BAR=1", "export FOO=$HOME/x;export BAR=1;"),
        ("FOO=$HOME/a b", 'export FOO="$HOME/a b";'),
        ("FOO='a b' BAR=\"c d\"", "export FOO='a b';export BAR=\"c d\";"),
        ("FOO= BAR=2", "export FOO=;export BAR=2;"),
        ("A=b=c", "export A=b=c;"),
        ("FRONTIER_SERVER=(serverurl=http://x:80/a)(proxyurl=http://y:3128)",
         "export FRONTIER_SERVER='(serverurl=http://x:80/a)(proxyurl=http://y:3128)';"),
        ("no pairs here", ""),
        ("", ""),
        ("None", ""),
        ("CMTSITE=STANDALONE", "export CMTSITE=STANDALONE;"),
    ],
)
def test_the_queues_environ_is_quoted(tmp_path: Path, environ: str, exports: str) -> None:
    text = line(tmp_path, PRODUCTION, queue={"environ": environ}, coreCount=1)
    assert text.startswith(f"{exports}export TZ='UTC'; export PANDA_RESOURCE='SITE_PROD';")


def test_bash_reads_the_queues_values_as_they_are_meant(tmp_path: Path) -> None:
    from pilot.user.atlas.exports import queue_exports

    script = queue_exports("FOO=1 BAR=b c; echo X BAZ=$FOO/z QUX='q u'") + 'printf "%s|" "$FOO" "$BAR" "$BAZ" "$QUX"'
    out = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert out == "1|b c; echo X|1/z|q u|"


def test_dask_gets_its_scheduler_once(tmp_path: Path) -> None:
    """Defect 12: the reference appends the whole command a second time."""
    text = line(tmp_path, PRODUCTION, scheduler_ip="10.0.0.1:8786")
    assert text.startswith("export DASK_SCHEDULER_IP=10.0.0.1:8786;export ATHENA_CORE_NUMBER=8;")
    assert text.count("DASK_SCHEDULER_IP") == 1 and text.count("Sim_tf.py") == 1


@pytest.mark.parametrize(
    ("datasets", "inds"),
    [
        ("a.DBRelease.1,user.lib.3.lib.x,mc:x.EVNT,mc:y", "mc:x.EVNT"), ("NULL", "unknown"), ("", "unknown"),
        ("x.lib.1", "unknown"), (["mc:a", "mc:b"], "mc:a"), ("it's", "it'\"'\"'s"),
    ],
)
def test_inds(tmp_path: Path, datasets: object, inds: str) -> None:
    assert f"export INDS='{inds}';" in line(tmp_path, PRODUCTION, realDatasetsIn=datasets)


def test_a_job_without_task_and_processing_type(tmp_path: Path) -> None:
    text = line(tmp_path, PRODUCTION, taskID="NULL", processingType="")
    assert "export PanDA_TaskID='unknown';" in text and "RUCIO_APPID" not in text
    assert "export INDS='mc16:EVNT.1';unset RUCIO_ACCOUNT;" in text


# --- production -------------------------------------------------------------------------------------------------------


def test_lfns_become_turls_as_whole_words(tmp_path: Path) -> None:
    files = inputs("a.root", "a.root.1")
    text = line(tmp_path, {**PRODUCTION, **files}, remote={"a.root": "root://se//p/a.root", "a.root.1": "root://se//1"},
                jobPars="--in=a.root,a.root.1 --out=xa.root")
    assert "Sim_tf.py --in=root://se//p/a.root,root://se//1 --out=xa.root; " in text


def test_local_database_set_up_stands_as_it_is(tmp_path: Path) -> None:
    for command in (";source /db/setup.sh", "source /db/setup.sh;"):
        text = line(tmp_path, PRODUCTION, environ={"PILOT_DB_LOCAL_SETUP_CMD": command})
        assert f"--makeflags='$MAKEFLAGS';{command.strip(';')}; Sim_tf.py" in text


def test_parameters_with_their_own_set_up(tmp_path: Path) -> None:
    """Quoted anew, ``$AtlasSetup`` and ``;`` would be words of their own: such a line is left alone."""
    own = 'source $AtlasSetup/scripts/asetup.sh 21.0.15,here --platform x; athena.py -c "x = 1" x.py'
    command = make_command(tmp_path, PRODUCTION, noExecStrCnv="True", jobPars=own)
    assert at_cvmfs(command.line).endswith(f"unset RUCIO_ACCOUNT;{ALRB} {own}; ")
    assert command.asetup == ""
    other = line(tmp_path, PRODUCTION, noExecStrCnv="True", jobPars="-x", requote=False)
    assert other.endswith(f"{ASETUP} Sim_tf.py -x; ")


def test_event_service_numbers(tmp_path: Path) -> None:
    text = line(tmp_path, PRODUCTION, eventService="True")
    assert "--makeflags='$MAKEFLAGS'; export ATHENA_PROC_NUMBER=8; export ATHENA_CORE_NUMBER=8; Sim_tf.py" in text
    assert text.startswith("export ATHENA_CORE_NUMBER=8;export TZ")


def test_without_cvmfs_but_with_a_container_there_is_no_set_up(tmp_path: Path) -> None:
    bare = line(tmp_path, PRODUCTION, queue={"is_cvmfs": False, "container_type": "apptainer:pilot"})
    assert "unset RUCIO_ACCOUNT; Sim_tf.py" in bare and "asetup" not in bare
    for kind in ("", "container:middleware"):  # BOINC, some HPCs
        assert ALRB in line(tmp_path, PRODUCTION, queue={"is_cvmfs": False, "container_type": kind})


def test_semicolons_of_the_parameters_stay(tmp_path: Path) -> None:
    text = line(tmp_path, PRODUCTION, jobPars="--exec 'case x in y) z;; esac';", requote=False)
    assert text.endswith("Sim_tf.py --exec 'case x in y) z;; esac';")


def test_a_generic_production_job(tmp_path: Path) -> None:
    job = {**PRODUCTION, "swRelease": "NULL", "homepackage": "NULL", "transformation": "run.py", "jobPars": "-x"}
    front = f"{FRONT}export INDS='unknown';export RUCIO_APPID='simul';unset RUCIO_ACCOUNT;"
    assert line(tmp_path, job, coreCount=1) == f"{front}python3 run.py -x; "
    assert line(tmp_path, job, coreCount=1, homepackage="my/pack") == f"{front}python3 my/pack/run.py -x; "
    for nothing in (" ", ""):
        assert line(tmp_path, job, coreCount=1, homepackage=nothing) == f"{front}python3 run.py -x; "
    own = line(tmp_path, job, coreCount=1, noExecStrCnv="True", jobPars="source asetup.sh; x", requote=False)
    assert own == f"{front}source asetup.sh; x; "
    program = line(tmp_path, job, coreCount=1, transformation="/bin/echo")
    assert program == f"{front}'/bin/echo' -x; "  # what is found as a program runs as one


# --- analysis ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "cores", "flags"),
    [({}, 1, "-j1"), ({}, 8, "-j8"), ({"ATHENA_PROC_NUMBER": "4"}, 8, "-j1"), ({"ATHENA_PROC_NUMBER": "x"}, 8, "-j8")],
)
def test_makeflags(tmp_path: Path, environ: dict[str, str], cores: int, flags: str) -> None:
    text = line(tmp_path, USER, environ=environ, coreCount=cores)
    assert f"; export MAKEFLAGS='{flags} QUICK=1 -l1';./runGen" in text
    assert f"export ROOTCORE_NCPUS={environ.get('ATHENA_PROC_NUMBER', '1').replace('x', '1')};" in text


def test_a_user_job_without_release_and_image(tmp_path: Path) -> None:
    text = line(tmp_path, USER, swRelease="NULL", homepackage="NULL", jobPars="-x")
    assert text.endswith("unset RUCIO_ACCOUNT; export MAKEFLAGS='-j1 QUICK=1 -l1';./runGen-00-00-02 -x; ")


def test_a_release_and_an_image_are_kept_apart(tmp_path: Path) -> None:
    """The reference writes ``--makeflags='$MAKEFLAGS'./runcontainer``."""
    text = line(tmp_path, RUNCONTAINER, swRelease="21.0.15", homepackage="AtlasOffline/21.0.15")
    assert "--makeflags='$MAKEFLAGS'; ./runcontainer" in text


@pytest.mark.parametrize(("name", "own"), [("X509_USER_PROXY", "/p/normal"), ("X509_UNIFIED_DISPATCH", "/p/user")])
def test_the_proxy_of_the_payload(tmp_path: Path, name: str, own: str) -> None:
    environ = {"X509_USER_PROXY": "/p/normal", name: own}
    assert f"export X509_USER_PROXY={own};" in line(tmp_path, USER, environ=environ)
    command = make_command(tmp_path, RUNCONTAINER, environ=environ)
    assert "X509_USER_PROXY" not in command.line
    assert command.environ.get("X509_USER_PROXY", "/p/normal") == own


def test_without_a_proxy_none_is_exported(tmp_path: Path) -> None:
    assert "X509" not in line(tmp_path, USER)


def test_tokens_of_the_pilot_are_unset_in_order(tmp_path: Path) -> None:
    import dataclasses

    task = make_task(tmp_path, USER)
    task = dataclasses.replace(task, withheld=(
        "PANDA_AUTH_TOKEN", "OIDC_REFRESHED_AUTH_TOKEN", "OIDC_AUTH_ORIGIN", "PANDA_AUTH_TOKEN_KEY"))
    text = Atlas().payload_command(task).line
    assert ";unset OIDC_AUTH_ORIGIN;unset PANDA_AUTH_TOKEN;unset OIDC_REFRESHED_AUTH_TOKEN;./runGen" in text


def test_direct_access_of_a_user_job(tmp_path: Path) -> None:
    definition = {**USER, **inputs("u.lib.tgz", "a.root", "b.root"), "jobPars": """-r . -i "['b.root', 'a.root']\""""}
    remote = {"a.root": "root://se//a.root", "b.root": "root://se//b.root"}
    text = line(tmp_path, definition, remote=remote)
    assert text.endswith("./runGen-00-00-02 -r . -i '['\"'\"'b.root'\"'\"', '\"'\"'a.root'\"'\"']' "
                         "--usePFCTurl --directIn --inputGUIDs \"['G-B', 'G-A']\"; ")
    build = line(tmp_path, definition, remote=remote, outFiles="user.x.lib.tgz", scopeOut="user.x")
    assert build.endswith("--usePFCTurl --directIn; ")
    assert "PFCTurl" not in line(tmp_path, definition)
    there = line(tmp_path, {**definition, "jobPars": "--directIn -x"}, remote=remote)
    assert there.endswith("./runGen-00-00-02 --directIn -x --usePFCTurl; ")


def test_a_local_copy_of_the_image_is_taken(tmp_path: Path) -> None:
    (tmp_path / "alpine").write_text("")
    text = line(tmp_path, RUNCONTAINER, environ={"PAYLOAD_CONTAINER_LOCATION": str(tmp_path)})
    assert text.endswith(f"--containerImage={tmp_path}/alpine; ")
    text = line(tmp_path, RUNCONTAINER, environ={"PAYLOAD_CONTAINER_LOCATION": "/none"})
    assert text.endswith("--containerImage=docker://alpine; ")
    text = line(tmp_path, RUNCONTAINER, environ={"IMAGE_BASE": str(tmp_path)})
    assert text.endswith(f"--containerImage={tmp_path}/alpine; ")
    text = line(tmp_path, RUNCONTAINER, queue={"catchall": f"IMAGE_BASE={tmp_path}"})
    assert text.endswith(f"--containerImage={tmp_path}/alpine; ")


# --- testing versions -------------------------------------------------------------------------------------------------


def test_testing_versions_of_asetup_and_xrootd(tmp_path: Path) -> None:
    command = make_command(tmp_path, PRODUCTION, jobPars="--useTestASetup --x=1 --useTestXRootD")
    assert at_cvmfs(command.line).endswith(
        f"unset RUCIO_ACCOUNT;export ALRB_asetupVersion=testing;export ALRB_xrootdVersion=testing;{ALRB}{ASETUP} "
        "Sim_tf.py --x=1; ")
    assert command.environ["ALRB_asetupVersion"] == command.environ["ALRB_xrootdVersion"] == "testing"
    queue = make_command(tmp_path, PRODUCTION, queue={"environ": "ALRB_xrootdVersion=testing FOO=1"}, coreCount=1)
    assert queue.line.startswith("export ALRB_xrootdVersion=testing;export FOO=1;export TZ")
    assert queue.environ["ALRB_xrootdVersion"] == "testing" and "FOO" not in queue.environ


def test_bash_runs_the_line_with_the_stand_in(tmp_path: Path) -> None:
    command = make_command(tmp_path, PRODUCTION, queue={"environ": "FOO=1 BAR=b c"},
                           jobPars="--useTestASetup --outputHITSFile=h.root --preExec \"a b\"")
    environ = {"PATH": os.environ["PATH"], **command.environ}
    run = subprocess.run(["/bin/bash", "-c", command.line], cwd=tmp_path, env=environ, capture_output=True, text=True,
                         check=True)
    assert "standin asetup AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt" in run.stdout
    import json

    seen = json.loads((tmp_path / "transform.json").read_text())
    assert seen["arguments"] == ["--outputHITSFile=h.root", "--preExec", "a b"]
    assert seen["environ"]["BAR"] == "b c" and seen["environ"]["STANDIN_ALRB"].startswith("asetup=testing")
    assert seen["environ"]["ATHENA_PROC_NUMBER"] == "8" and str(TREE) in seen["environ"]["AtlasSetup"]
