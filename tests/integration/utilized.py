"""An experiment whose utilities are shell lines that a test gives: ``PILOT_TEST_UTILITIES`` names a JSON file,
``{"<moment>": [{"label": ..., "line": ..., ...}, ...]}``. In the lines ``{pid}`` is the process to watch.

A line ``export NAME="value"`` of the output of a utility is a variable for the job.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pilot.info.payloadtask import Moment, PayloadCommand, PayloadTask, UtilityCommand
from pilot.user.generic import GenericExperiment


class UtilizedExperiment(GenericExperiment):
    """See above; the payload has a set-up, ``SETUP=done``."""

    name = "utilized"

    def payload_command(self, task: PayloadTask) -> PayloadCommand:
        setup = "export SETUP=done;"
        return PayloadCommand(f"{setup}{task.transformation()} {task.parameters}".strip(), setup=setup)

    def utility(self, moment: Moment, task: PayloadTask, command: PayloadCommand) -> Sequence[UtilityCommand]:
        path = os.environ.get("PILOT_TEST_UTILITIES", "")
        wanted = json.loads(Path(path).read_text())[moment.name] if path and moment.name in path_content(path) else []
        return [UtilityCommand(**{**one, "line": one["line"].replace("{pid}", str(task.pid))}) for one in wanted]

    def utility_ended(self, task: PayloadTask, utility: UtilityCommand, code: int, output: str) -> Mapping[str, str]:
        changed = re.search(r"^parameters (.*)$", output, re.MULTILINE)
        if changed:
            task.job.jobparams = changed.group(1)
        return dict(re.findall(r'^export (\w+)="([^"\n]*)"', output, re.MULTILINE))


def path_content(path: str) -> Mapping[str, object]:
    """The moments that the file speaks of."""
    return dict(json.loads(Path(path).read_text()))
