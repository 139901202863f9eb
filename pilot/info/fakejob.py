"""The internal test job (setting ``pilot.pandajob: fake``): shows that a node can run something, without any server."""

from __future__ import annotations

import time
from typing import Mapping

_COMMANDS = {"normal": ("/bin/echo", "the test job of the pilot"), "sleep": ("/bin/sleep", "60")}


def fake_definition(kind: str, command: str, transfer: str) -> Mapping[str, object]:
    """Return a job definition in the server's form.

    Args:
        kind: ``production`` or ``user`` (setting ``pilot.testjobtype``).
        command: ``normal`` or ``sleep`` (``pilot.testjobcommand``).
        transfer: ``direct`` or ``NULL`` (``pilot.testtransfertype``).
    """
    transformation, parameters = _COMMANDS[command]
    return {
        "StatusCode": 0, "PandaID": int(time.time()), "attemptNr": 1, "taskID": "NULL",
        "jobName": f"pilot-test-{kind}", "prodSourceLabel": "user" if kind == "user" else "managed",
        "processingType": "test", "transformation": transformation, "jobPars": parameters, "transferType": transfer,
        "homepackage": "NULL", "swRelease": "NULL", "cmtConfig": "NULL", "coreCount": 1, "inFiles": "", "outFiles": "",
        "logFile": "", "scopeOut": "", "loopingCheck": False,
    }
