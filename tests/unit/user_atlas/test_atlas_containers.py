"""The worked examples of the payload document (4.9) from the job definition to the line that starts the container."""

from __future__ import annotations

from typing import Any

import pytest
from atlas_tasks import PRODUCTION, RUNCONTAINER, USER, make_task

from pilot.info.payloadtask import PayloadCommand
from pilot.user.atlas import Atlas

ENVIRON = {"X509_USER_PROXY": "/home/p/x509up_u1", "PandaID": "1234567", "PANDAID": "1234567", "PanDA_TaskID": "999"}
QUEUE = {"environ": "FOO=1 BAR='b c'", "container_type": "apptainer:pilot",
         "container_options": "-B /data,${workdir} --contain", "panda_resource": "SITE_PROD"}
LINE = (
    'export X509_USER_PROXY=/home/p/x509up_u1;if [ -z "$ATLAS_LOCAL_ROOT_BASE" ]; then export ATLAS_LOCAL_ROOT_BASE='
    '{base}/atlas.cern.ch/repo/ATLASLocalRootBase; fi;export thePlatform="x86_64-slc6-gcc62-opt";export '
    "PandaID=1234567;source ${{ATLAS_LOCAL_ROOT_BASE}}/user/atlasLocalSetup.sh -c $thePlatform "
    '-s /srv/my_release_setup.sh -r /srv/container_script.sh -e "-B /data,${{workdir}} --contain"')
ASETUP = ("source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt "
          "--makeflags='$MAKEFLAGS'")


def made(definition: Any, tmp_path: Any, **more: Any) -> tuple[PayloadCommand, PayloadCommand, str]:
    task = make_task(tmp_path, definition, queue=QUEUE, environ={**ENVIRON, **more})
    bare = Atlas().payload_command(task)
    return bare, Atlas().contain(task, bare), task.environ["ATLAS_SW_BASE"]


@pytest.mark.parametrize("definition", [PRODUCTION, USER])
def test_line_and_files(definition: Any, tmp_path: Any) -> None:
    bare, command, base = made(definition, tmp_path, OIDC_AUTH_TOKEN="x")
    assert command.line == LINE.format(base=base)
    front = bare.line.partition("export ATLAS_LOCAL_ROOT_BASE=")[0]
    assert front.endswith("unset RUCIO_ACCOUNT;")
    behind = bare.line.partition(f"{ASETUP};")[2]
    script = command.files["container_script.sh"].text
    assert script == (f"export TMPDIR=/srv;export GFORTRAN_TMPDIR=/srv;{front}"
                      + behind.replace("export X509_USER_PROXY=/home/p/x509up_u1;", ""))
    assert "X509" not in script and "asetup" not in script and "atlasLocalSetup" not in script
    assert command.files["my_release_setup.sh"].text.splitlines()[1] == ASETUP


def test_runcontainer_is_left_alone(tmp_path: Any) -> None:
    bare, command, _ = made(RUNCONTAINER, tmp_path)
    assert command is bare and command.line.endswith("--containerImage=docker://alpine; ")
