"""An experiment whose set-up fails for jobs that ask for it: homepackage ``bad-setup``, ``bad-user``."""

from __future__ import annotations

from pilot.common.exception import PilotException
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.user.generic import GenericExperiment


class FailingExperiment(GenericExperiment):
    """Fails before the payload."""

    name = "failing"

    def verify_job(self, job: Job, queue: QueueData) -> list[tuple[int, str]]:
        if job.homepackage == "bad-user":
            raise PilotException("no such image", code=1360)
        if job.homepackage == "bad-setup":
            raise PilotException("the release's set-up file is not there: /cvmfs/atlas.cern.ch/none", code=1110)
        return []
