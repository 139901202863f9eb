"""An experiment under which the wall clock jumps as soon as the payload is set up: no duration may notice."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from pilot.info.job import Job
from pilot.user.generic import GenericExperiment

_real = time.time


class JumpyExperiment(GenericExperiment):
    """Sets the clock by $JUMP seconds."""

    name = "jumpy"

    def payload_environment(self, job: Job) -> Mapping[str, str]:
        jump = float(os.environ["JUMP"])
        time.time = lambda: _real() + jump
        return super().payload_environment(job)
