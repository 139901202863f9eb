"""The worked example of the payload document (4.9) in its container: command and container together."""

from __future__ import annotations

from pathlib import Path

from atlas_tasks import PRODUCTION, RUNCONTAINER, USER, at_cvmfs, make_task

from pilot.info.payloadtask import PayloadCommand
from pilot.user.atlas import Atlas

QUEUE = {"container_type": "apptainer:pilot", "container_options": "-B /data,${workdir} --contain",
         "environ": "FOO=1 BAR=b c"}
PROXY = {"X509_USER_PROXY": "/home/p/x509up_u1"}


def contained(workdir: Path, definition: dict[str, object]) -> PayloadCommand:
    task = make_task(workdir, definition, queue=QUEUE, environ=PROXY)
    assert Atlas().uses_container(task.job, task.queue)
    return Atlas().contain(task, Atlas().payload_command(task))


def test_production_in_a_container_to_the_character(tmp_path: Path) -> None:
    command = contained(tmp_path, dict(PRODUCTION))
    assert at_cvmfs(command.line) == (
        "export X509_USER_PROXY=/home/p/x509up_u1;"
        'if [ -z "$ATLAS_LOCAL_ROOT_BASE" ]; then export '
        "ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase; fi;"
        'export thePlatform="x86_64-slc6-gcc62-opt";export PandaID=1234567;'
        "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh -c $thePlatform -s /srv/my_release_setup.sh "
        '-r /srv/container_script.sh -e "-B /data,${workdir} --contain"')
    assert command.files["container_script.sh"].text.rstrip("\n") == (
        "export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;"
        "export ATHENA_CORE_NUMBER=8;export ATHENA_PROC_NUMBER=8;export FOO=1;export BAR='b c';export TZ='UTC'; "
        "export PANDA_RESOURCE='SITE_PROD';export FRONTIER_ID=\"[999_1234567]\";export CMSSW_VERSION=$FRONTIER_ID;"
        "export PandaID=1234567;export PanDA_TaskID='999';export PanDA_AttemptNr='2';export INDS='mc16:EVNT.1';"
        "export RUCIO_APPID='simul';unset RUCIO_ACCOUNT; "
        "Sim_tf.py --inputEVNTFile=EVNT.1.pool.root.1 --preExec x=1 --maxEvents=5; ")
    assert ("source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt "
            "--makeflags='$MAKEFLAGS'\n") in command.files["my_release_setup.sh"].text


def test_the_proxy_of_a_user_job_stands_outside_only(tmp_path: Path) -> None:
    command = contained(tmp_path, dict(USER))
    assert command.line.startswith("export X509_USER_PROXY=/home/p/x509up_u1;if [ -z")
    inside = command.files["container_script.sh"].text
    assert "X509_USER_PROXY" not in inside and "asetup" not in inside and "atlasLocalSetup" not in inside
    assert "unset RUCIO_ACCOUNT; export MAKEFLAGS='-j1 QUICK=1 -l1';./runGen-00-00-02 -j '' " in inside


def test_runcontainer_stays_outside(tmp_path: Path) -> None:
    command = contained(tmp_path, dict(RUNCONTAINER))
    assert not command.files and command.line.endswith("./runcontainer -p echo%20hi -r . "
                                                       "-i '['\"'\"'a.root'\"'\"']' --containerImage=docker://alpine; ")
